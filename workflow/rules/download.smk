# Files from outside stay as they are once they lie there: a changed address fetches nothing again. Delete a file, or
# the record of a folder of images, to have it fetched anew.


rule freeze_source:
    output:
        f"{DOWNLOADS}/config/{{source}}.yaml",
    log:
        f"{DOWNLOADS}/logs/config-{{source}}.log",
    localrule: True
    conda:
        "../../envs/rvlr.yaml"
    params:
        section=source_json,
    shell:
        "python -m rvlr freeze --section {params.section:q} --output {output:q} 2> {log:q}"


rule fetch_file:
    input:
        config=ancient(source_config),
    output:
        f"{DOWNLOADS}/{{file}}",
    log:
        f"{DOWNLOADS}/logs/{{file}}.log",
    wildcard_constraints:
        file=one_of(SOURCE_OF),
    localrule: True
    conda:
        "../../envs/rvlr.yaml"
    params:
        source=lambda wildcards: SOURCE_OF[wildcards.file],
    shell:
        "python -m rvlr data fetch {params.source} --config {input.config:q} --output {output:q} --log-file {log:q}"


rule fetch_images:
    input:
        config=ancient(source_config),
    output:
        f"{DOWNLOADS}/{{folder}}.json",
    log:
        f"{DOWNLOADS}/logs/{{folder}}.log",
    wildcard_constraints:
        folder=one_of(IMAGES_OF),
    localrule: True
    conda:
        "../../envs/rvlr.yaml"
    params:
        source=lambda wildcards: IMAGES_OF[wildcards.folder],
        archive=archive_of_images,
    shell:
        "python -m rvlr data images {params.source} --config {input.config:q} --archive {params.archive:q} "
        "--output {output:q} --log-file {log:q}"
