rule freeze_config:
    input:
        force_outdated_files,
    output:
        report(
            "results/{dataset}/config/{section}.yaml",
            caption="../report/configuration.rst",
            category="4. Configuration",
            labels={"section": "{section}"},
        ),
    log:
        "results/{dataset}/logs/config/{section}.log",
    localrule: True
    conda:
        "../envs/rvlr.yaml"
    params:
        section=section_json,
    shell:
        "python -m rvlr freeze --section {params.section:q} --output {output} --log-file {log}"
