"""Several studies in one run: the workflow as a module for each data set, and the tables that join their results.

    snakemake --snakefile workflow/grid.smk --configfile config/paper.yaml

Without a key `grid` in the configuration, the studies are those of config/{coco,flickr30k,vizwiz}.yaml. See
config/README.md, "Several data sets in one run".
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.23")

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
sys.path.insert(0, str(ROOT))
from rvlr.errors import UserError
from rvlr.workflow import grid


def read_studies():
    """The settings of each study by the name of its module; errors end Snakemake with one message."""
    # jobs that run on another machine get what was checked here
    arguments = sys.argv if workflow.is_main_process else []
    try:
        return grid.read(config, workflow.configfiles, arguments, ROOT / "config")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


STUDIES = read_studies()
TABLES = f"results/{grid.TABLES}"


def of_all(function):
    """The files that a function of the workflow names, of every study."""
    return [path for name in STUDIES for path in getattr(globals()[name], function)()]


def wanted_files(wildcards):
    """The tables and figures of every study."""
    return of_all("summary_files") + of_all("figure_files")


def evaluation_files(wildcards):
    """What the joined tables are made of."""
    return of_all("evaluation_files") + of_all("rankings_files")


def report_sections(wildcards):
    """The runs and seeds that each study shows."""
    return [f"{folder}/config/report.yaml" for folder in result_folders(wildcards)]


def result_folders(wildcards):
    """The folders of results, in the order of the tables."""
    return [globals()[name].RESULTS for name in STUDIES]


report: "report/workflow.rst"


rule all:
    input:
        studies=wanted_files,
        tables=multiext(f"{TABLES}/tables", ".md", ".csv", ".tex"),
    localrule: True


for study, settings in STUDIES.items():
    prefix = f"{study}_"

    module:
        name: study
        snakefile: "Snakefile"
        config: settings

    # What is fetched lies in one folder, and the first study fetches it for all.
    if study == next(iter(STUDIES)):

        use rule * from study as prefix*

    else:

        use rule * from study exclude fetch_file, fetch_images as prefix*


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


onsuccess:
    for name in STUDIES:
        globals()[name].print_summary()
    print(f"Tables of all studies: {TABLES}/tables.md", file=sys.stderr)


onerror:
    print(
        "The failed stages' logs are named above; the same command resumes where this run stopped. Tables of what there "
        f"is, and of what is missing: rvlr tables {' '.join(result_folders(None))} --output FOLDER",
        file=sys.stderr,
    )
