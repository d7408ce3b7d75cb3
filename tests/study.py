"""A miniature study and what tests do with it: run the workflow, ask for its plan, have it end with a message."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import preloaded
import yaml
from conftest import ROOT, TINY_MODEL, TINY_TRAINING

SETTINGS: dict[str, Any] = {
    "dataset": {"kind": "shapes", "train": 24, "val": 8, "test": 12, "image_size": 32, "captions_per_image": 2},
    "models": {"base": TINY_MODEL},
    "training": {**TINY_TRAINING, "checkpoint_steps": 2},
    "teachers": {"t": {}},
    "students": {"a": {"teacher": "t"}, "b": {"teacher": "t", "weights": {"kd": 0, "kdi": 0, "kdt": 0}}},
    "evaluation": {"candidates": 6, "workers": 0, "queries_shown": 2},
}


MODULE = """
rule first:
    output: "first.txt"
    shell: "touch {{output}}"


module rvlr:
    snakefile: "{snakefile}"
    config: config["study"]
    {more}


use rule * from rvlr as rvlr_*


onsuccess:
    rvlr.print_summary()
"""


def snakemake(folder: Path, settings: dict[str, Any], *options: str, snakefile: Path = ROOT / "Snakefile") -> list[str]:
    """The command for a run of `settings` in `folder`; options may end with `--` and targets."""
    (folder / "my.yaml").write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder)]
    profile = ["--workflow-profile", str(ROOT / "profiles/default")]
    return [*program, *profile, "--configfile", str(folder / "my.yaml"), *options]


def module(folder: Path, snakefile: Path = ROOT / "Snakefile", more: str = "") -> Path:
    """A workflow that uses ours as a module, with prefixed names, on the part `study` of its own configuration."""
    file = folder / "module.smk"
    file.write_text(MODULE.format(snakefile=snakefile, more=more))
    return file


def run(folder: Path, settings: dict[str, Any], *options: str, snakefile: Path = ROOT / "Snakefile") -> str:
    program = preloaded.stages_of(snakemake(folder, settings, *options, snakefile=snakefile))
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def plan(folder: Path, settings: dict[str, Any], *options: str, snakefile: Path = ROOT / "Snakefile") -> Counter[str]:
    """The jobs that a run would do: rule names with the run they are for."""
    output = run(folder, settings, "--dry-run", *options, snakefile=snakefile)
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, flags=re.MULTILINE)
    planned: Counter[str] = Counter()
    for name, details in jobs:
        found = re.search(r"wildcards: .*?(?:run|student|teacher|section)=([^,\s]+)", details)
        planned[f"{name} {found[1]}" if found else name] += 1
    return planned


def changed(**sections: Any) -> dict[str, Any]:
    return {**SETTINGS, **sections}


def fails(folder: Path, settings: dict[str, Any], *options: str, snakefile: Path = ROOT / "Snakefile") -> str:
    """The output of a run that ends with a message, once, and no lines of code."""
    program = snakemake(folder, settings, *options, snakefile=snakefile)
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(re.findall(r"^error: |^\d\d:\d\d:\d\d ERROR ", done.stderr, flags=re.MULTILINE)) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr
    return done.stderr
