"""Several studies in one run: one for each data set, with settings that all of them share.

Enters: the configuration as given to Snakemake. Its key `grid` names the files of each study, and all else is laid over
every study. Leaves: the settings of each study, for a module of the workflow each. What is fetched is fetched once for
all of them, so they must agree in where it comes from and where it lies.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rvlr import config, faults, files
from rvlr.errors import UserError, show
from rvlr.workflow import given

SHIPPED = ("coco", "flickr30k", "vizwiz")
TABLES = "tables"
"""The folder in `results` where the tables of all studies lie."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
_SHARED = ("downloads", "sources")
_NO_NAMES = ("all", TABLES)  # rules of the grid itself

Settings = dict[str, Any]


def read(
    merged: Mapping[str, Any], configfiles: Sequence[Path], arguments: Sequence[str], shipped: Path
) -> dict[str, Settings]:
    """The settings of each study, by the name of its module.

    merged: the configuration that Snakemake merged from `configfiles` and its command line, `arguments`. shipped: the
    folder of the files `SHIPPED`, which are the studies where there is no key `grid`. Raises UserError naming file and
    key if a file or an option is no sound configuration, or if two studies have the same results or would fetch
    different files to one place.
    """
    given.check_options(arguments)
    shared = {key: value for key, value in merged.items() if key != "grid"}
    paths = _paths(merged["grid"]) if "grid" in merged else {name: [shipped / f"{name}.yaml"] for name in SHIPPED}
    found: dict[str, Settings] = {}
    studies: dict[str, config.Study] = {}
    for name, own in paths.items():
        found[name], names = config.lay_over_bases(_laid(own, shared), [*own, *given.shown(configfiles)])
        studies[name] = config.parse(found[name], f"grid.{name} ({names})")
    _check_apart(studies)
    _check_fetched(studies)
    return found


def _paths(grid: Any) -> dict[str, list[Path]]:
    """The files of each study, as the key `grid` names them."""
    wanted = "give a mapping of names and YAML files, as in grid: {coco: config/coco.yaml, mine: [my.yaml, more.yaml]}"
    if not isinstance(grid, dict) or not grid:
        raise UserError(f"grid: found {faults.found(grid)}; {wanted}")
    paths = {}
    for name, value in grid.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in _NO_NAMES:
            allowed = f"letters, digits and single _ after a letter, and neither {' nor '.join(_NO_NAMES)}"
            raise UserError(f"grid: found the name {show(name)}, which begins names of rules; use {allowed}")
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
            raise UserError(f"grid.{name}: found {faults.found(value)}; {wanted}")
        paths[name] = [Path(one).expanduser() for one in listed]
    return paths


def _laid(paths: Sequence[Path], shared: Mapping[str, Any]) -> Settings:
    """The files laid over each other in their order, and what all studies share over them."""
    data: Settings = {}
    for path in paths:
        settings = files.read_yaml(path)
        if not isinstance(settings, dict):
            raise UserError(f"{path}: found {faults.found(settings)}; the file must contain a mapping")
        data = config.merge(data, settings)
    return config.merge(data, dict(shared))


def _check_apart(studies: Mapping[str, config.Study]) -> None:
    seen: dict[str, str] = {}
    for name, study in studies.items():
        folder = study.dataset.name
        if folder.casefold() == TABLES:
            raise UserError(f"grid.{name}: dataset.name is {folder!r}, where the tables of all studies lie; change it")
        other = seen.setdefault(folder.casefold(), name)
        if other != name:
            raise UserError(
                f"grid.{name} and grid.{other}: both write to results/{folder}; give one of them another dataset.name"
            )


def _check_fetched(studies: Mapping[str, config.Study]) -> None:
    (first, wanted), *others = studies.items()
    for (name, study), key in ((other, key) for other in others for key in _SHARED):
        have, want = getattr(study, key), getattr(wanted, key)
        if have != want:
            raise UserError(
                f"grid.{name}: {key} differs from that of grid.{first}, but what is fetched is fetched once for all; "
                f"write {key} into a file of --configfile, which is laid over every study"
            )
