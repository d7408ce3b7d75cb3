# The studies of a grid, and what their joined tables are made of.

import sys
from pathlib import Path

from snakemake.logging import logger

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
sys.path.insert(0, str(ROOT))
try:
    from rvlr.errors import UserError
    from rvlr.workflow import grid, terminal
except ImportError as error:
    print(
        f"error: {error.name} is not installed for {sys.executable}; run: {sys.executable} -m pip install -e {ROOT}",
        file=sys.stderr,
    )
    sys.exit(1)


def read_studies():
    """The settings of each study by the name of its module; errors end Snakemake with one message."""
    # jobs that run on another machine get what was checked here
    arguments = sys.argv if workflow.is_main_process else []
    try:
        return grid.read(config, workflow.configfiles, arguments, ROOT / "config")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if workflow.is_main_process:
    terminal.install(logger, workflow.output_settings)

STUDIES = read_studies()
TABLES = f"results/{grid.TABLES}"


def study_of(name):
    """The namespace of a study's module."""
    return globals()[f"study_{name}"]


def of_all(function):
    """The files that a function of the workflow names, of every study."""
    return [path for name in STUDIES for path in getattr(study_of(name), function)()]


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
    return [study_of(name).RESULTS for name in STUDIES]
