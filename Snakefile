"""The workflow: data -> relevance -> teacher -> features -> student -> evaluation -> report.

Each rule runs one stage of the `rvlr` package on its own frozen section of the configuration, so that a change in the
YAML reruns what it touches and nothing else. See README.md.
"""

from snakemake.utils import min_version

min_version("9.23")

# A file given with --configfile replaces the demo's settings; it is not laid on top of them.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/config.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/relevance.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/student.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        summary=summary_files(),
        figures=figure_files(),
    localrule: True


onstart:
    write_sources()


onsuccess:
    print_summary()


onerror:
    print(
        "The failed stage's log is named above; the same command resumes where this run stopped.",
        file=sys.stderr,
    )
