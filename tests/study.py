"""A miniature study and what tests do with it: run the workflow, ask for its plan, have it end with a message."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

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


def snakemake(folder: Path, settings: dict[str, Any], *options: str) -> list[str]:
    (folder / "my.yaml").write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    profile = ["--workflow-profile", str(ROOT / "profiles/default")]
    return [*program, *profile, "--configfile", str(folder / "my.yaml"), *options]


def run(folder: Path, settings: dict[str, Any], *options: str) -> str:
    done = subprocess.run(snakemake(folder, settings, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def plan(folder: Path, settings: dict[str, Any], *options: str) -> Counter[str]:
    """The jobs that a run would do: rule names with the run they are for."""
    output = run(folder, settings, "--dry-run", *options)
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, flags=re.MULTILINE)
    planned: Counter[str] = Counter()
    for name, details in jobs:
        found = re.search(r"wildcards: .*?(?:run|student|teacher|section)=([^,\s]+)", details)
        planned[f"{name} {found[1]}" if found else name] += 1
    return planned


def changed(**sections: Any) -> dict[str, Any]:
    return {**SETTINGS, **sections}


def fails(folder: Path, settings: dict[str, Any], *options: str) -> str:
    """What a run says that ends with a message, once, and no lines of code."""
    done = subprocess.run(snakemake(folder, settings, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(re.findall(r"^error: |^\d\d:\d\d:\d\d ERROR ", done.stderr, flags=re.MULTILINE)) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr
    return done.stderr
