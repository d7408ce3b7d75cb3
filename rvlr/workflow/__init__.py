"""What the Snakefile knows of the configuration, of the user's files and of results that exist; checked at every start.

Imports no torch: a `snakemake -n` must answer at once.
"""
