# Files from outside stay as they are once they lie there. Where they come from is therefore neither an input nor a
# parameter, but lies in a file that is written when a run starts: another address fetches nothing again. And `update`
# keeps Snakemake from deleting them before a job, as --forceall or a second study with the same downloads would have it.


rule fetch_file:
    output:
        update(f"{DOWNLOADS}/{{file}}"),
    log:
        f"{RESULTS}/logs/fetch/{{file}}.log",
    wildcard_constraints:
        file=one_of(SOURCE_OF),
    localrule: True
    conda:
        "../../envs/rvlr.yaml"
    params:
        source=source_name,
        sources=SOURCES,
        downloads=downloads_folder,
    shell:
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
        "../../envs/rvlr.yaml"
    params:
        source=source_name,
        sources=SOURCES,
        downloads=downloads_folder,
    shell:
        "python -m rvlr data fetch {params.source} --sources {params.sources} --downloads {params.downloads:q} "
        "--log-file {log:q}"
