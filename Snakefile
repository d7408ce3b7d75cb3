include: "workflow/Snakefile"


# Snakemake takes no default target from an included file
workflow.default_target = workflow.default_target or rules.all.rule.name
