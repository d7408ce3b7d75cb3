rule freeze_config:
    input:
        force_outdated_files,
    output:
        "results/{dataset}/config/{section}.yaml",
    log:
        "results/{dataset}/logs/config/{section}.log",
    localrule: True
    conda:
        "../envs/rvlr.yaml"
    params:
        section=section_json,
    shell:
        "python -m rvlr freeze --section {params.section:q} --output {output} --log-file {log}"
