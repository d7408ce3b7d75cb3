"""What is checked whenever the workflow starts: the configuration, the user's files, and results that exist.

Imports no torch: a `snakemake -n` must answer at once.
"""
