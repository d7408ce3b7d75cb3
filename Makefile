# Everything here can be done without make: `pip install -e '.[dev]'`, then snakemake, pytest, ruff.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo report test lint setup

demo: $(VENV)/.installed  ## run the whole pipeline on the embedded data set and show the results
	$(BIN)/snakemake

report: demo  ## the demo's results in one file to send, report.html
	$(BIN)/snakemake --report report.html

test: lint  ## everything that must hold before a change lands
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --lint --snakefile workflow/Snakefile
	$(BIN)/snakemake --lint --snakefile workflow/grid.smk

setup: $(VENV)/.installed-dev  ## make the virtual environment for the tests, or bring it up to date

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
	  { echo "rvlr needs Python 3.11.4 or newer, $(PYTHON) is older; use: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) '.[dev]'
	touch $@
