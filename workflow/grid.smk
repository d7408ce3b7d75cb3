"""Several studies in one run: the workflow as a module for each data set, and the tables that join their results.

    snakemake --snakefile workflow/grid.smk --configfile config/paper.yaml

Without a key `grid` in the configuration, the studies are those of config/{coco,flickr30k,vizwiz}.yaml. See
config/README.md, "Several data sets in one run".
"""

from snakemake.utils import min_version

min_version("9.23")


include: "rules/studies.smk"


report: "report/workflow.rst"


rule all:
    input:
        studies=wanted_files,
        tables=multiext(f"{TABLES}/tables", ".md", ".csv", ".tex"),
    localrule: True


for study, settings in STUDIES.items():
    prefix, namespace = f"{study}_", f"study_{study}"

    module:
        name: namespace
        snakefile:
            "Snakefile"
        config:
            settings

    # What is fetched lies in one folder, and the first study fetches it for all.
    if study == next(iter(STUDIES)):

        use rule * from namespace as prefix*

    else:

        use rule * from namespace exclude fetch_file, fetch_images as prefix*


rule tables:
    input:
        shown=report_sections,
        evaluations=evaluation_files,
    output:
        multiext(f"{TABLES}/tables", ".md", ".csv", ".tex"),
    log:
        f"{TABLES}/logs/tables.log",
    benchmark:
        f"{TABLES}/benchmarks/tables.tsv"
    conda:
        "envs/rvlr.yaml"
    params:
        results=result_folders,
        output=subpath(output[0], parent=True),
    shell:
        "python -m rvlr tables {params.results} --output {params.output} --log-file {log}"


# As in workflow/Snakefile, of which Snakemake takes the rules alone.
onstart:
    for name in STUDIES:
        study_of(name).check_gpu()


onsuccess:
    for name in STUDIES:
        study_of(name).print_summary()
    print(f"Tables of all studies: {TABLES}/tables.md", file=sys.stderr)


onerror:
    print(
        "The failed stages' logs are named above; the same command resumes where this run stopped. Tables of what there "
        f"is, and of what is missing: rvlr tables {' '.join(result_folders(None))} --output FOLDER",
        file=sys.stderr,
    )
