"""The settings as given to Snakemake: files and `--config`.

Snakemake reads and merges both before the workflow sees them. A key that is given twice has lost its first value by
then, so files and command line are read here once more.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rvlr import config, documents
from rvlr.errors import UserError
from rvlr.workflow import disk, places

OPTIONS = {"--config": ("--config", "-C"), "--configfile": ("--configfile", "--configfiles")}


def read(
    merged: Mapping[str, Any],
    files: Sequence[Path],
    overrides: Mapping[str, Any],
    arguments: Sequence[str],
    source: str | None = None,
) -> config.Study:
    """The configuration that Snakemake merged from `files` and, over them, `overrides`.

    arguments: Snakemake's command line. source: what messages call the configuration; by default files and overrides
    by their names. Raises UserError naming files and options if a file is not sound YAML, if an option or one of its
    keys is given twice, or listing every fault of the configuration, the user's files included.
    """
    check_options(arguments)
    settled, names = config.lay_over_bases(merged, shown(files))
    if source is None:
        options = f"--config {', '.join(overrides)}" if overrides else ""
        source = " and ".join(filter(None, (names, options)))
    settings = config.parse(settled, source)
    places.check(settings, Path("results", settings.dataset.name), source)
    disk.check(settings, source)
    return settings


def shown(files: Sequence[Path]) -> list[Path]:
    """The files as messages name them: relative paths of what lies in the working folder."""
    return [Path(os.path.relpath(file)) if Path(file).is_relative_to(Path.cwd()) else Path(file) for file in files]


def check_options(arguments: Sequence[str]) -> None:
    """Raise UserError if Snakemake's command line gives an option, or a key after `--config`, twice, or a value that is
    no sound YAML."""
    for option, names in OPTIONS.items():
        count = sum(given.partition("=")[0] in names for given in arguments)
        if count > 1:
            raise UserError(
                f"{option}: given {count} times, Snakemake takes the last alone; write all values after one"
            )
    entries = [entry.partition("=") for entry in _values(arguments, OPTIONS["--config"])]
    for key, count in Counter(key for key, _, _ in entries).items():
        if count > 1:
            raise UserError(f"--config {key}: given {count} times; give it once")
    for key, _, value in entries:
        documents.parse_yaml(value, f"--config {key}")


def _values(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """What follows an option up to the next one."""
    found: list[str] = []
    inside = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-"):
            inside = name in names
            found += [value] if inside and equals else []
        elif inside:
            found.append(argument)
    return found
