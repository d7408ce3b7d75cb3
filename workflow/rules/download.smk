# Files from outside stay as they are once they lie there. Where they come from is therefore neither an input nor a
# parameter that Snakemake compares with the last run's: another address fetches nothing again. And `update` keeps
# Snakemake from deleting them before a job, as --forceall or a second study with the same downloads would have it.


rule fetch_file:
    output:
        update(f"{DOWNLOADS}/{{file}}"),
    log:
        f"{RESULTS}/logs/fetch/{{file}}.log",
    wildcard_constraints:
        file=one_of(SOURCE_OF),
    localrule: True
    conda:
        "../envs/rvlr.yaml"
    params:
        source=source_name,
        settings=source_json,
        sources=source_file,
        downloads=downloads_folder,
    shell:
        "python -m rvlr freeze --section {params.settings:q} --output {params.sources} --log-file {log:q} && "
        "python -m rvlr data fetch {params.source} --sources {params.sources} --downloads {params.downloads:q} "
        "--log-file {log:q}"


rule fetch_images:
    output:
        update(f"{DOWNLOADS}/{{folder}}.json"),
    log:
        f"{RESULTS}/logs/fetch/{{folder}}.log",
    wildcard_constraints:
        folder=one_of(IMAGES_OF),
    localrule: True
    conda:
        "../envs/rvlr.yaml"
    params:
        source=source_name,
        settings=source_json,
        sources=source_file,
        downloads=downloads_folder,
    shell:
        "python -m rvlr freeze --section {params.settings:q} --output {params.sources} --log-file {log:q} && "
        "python -m rvlr data fetch {params.source} --sources {params.sources} --downloads {params.downloads:q} "
        "--log-file {log:q}"
