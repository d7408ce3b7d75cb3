"""Reproducible balanced vision-language retrieval (RVLR, IEEE TIP 2024).

Importing the package has no effects; each stage of the workflow is a command of `python -m rvlr`.
"""

__version__ = "0.1.0"
