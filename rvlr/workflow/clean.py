"""What can be deleted from a folder of results, how large it is, and what it would take to make it again.

Enters: `results/{dataset}`. Leaves: `Item`s, and, if asked to, the disk space. Nothing is deleted but what `rvlr` made
and listed as made (`rvlr.ownership`), no link is followed, and nothing is deleted while a stage is at work. Times are
those of the benchmark files, which stay, as logs do.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tabulate import tabulate

from rvlr import files, ownership
from rvlr.config import runs
from rvlr.errors import UserError
from rvlr.report import costs
from rvlr.report.consistency import SEED
from rvlr.report.pool import Report, read_report
from rvlr.training.folders import check_resume

KINDS = {
    "leftovers": "what killed processes left behind; nothing reads it",
    "resume": "states of trainings that are not finished; such a training would start from its beginning",
    "orphans": "runs that today's settings do not name, or not with that seed",
    "cache": "copies of the images, scaled down",
    "features": "features of teachers",
    "relevance": "relevance matrices",
}
READ_BY_STAGES = ("cache", "features", "relevance")
_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_FEATURES = ("features", "features-test")


@dataclass(frozen=True)
class Item:
    """Files and folders of one kind that can be deleted together. size: bytes. seconds: what making them again took
    last time; None if that is not known. after: seconds of the stages that read them, which would run again then; None
    likewise, 0 if there are none. kept: why the item must stay, else empty."""

    kind: str
    name: str
    paths: Sequence[Path]
    size: int
    seconds: float | None
    after: float | None = 0.0
    kept: str = ""


@dataclass(frozen=True)
class _Results:
    """A folder of results, with the runs and seeds that are needed today."""

    folder: Path
    report: Report
    needed: frozenset[str] = field(default_factory=frozenset)

    def seconds(self, *names: str) -> float | None:
        """The sum of the times in benchmark files; None if there is none of them."""
        found = [one for name in names if (one := _benchmark(self.folder / f"benchmarks/{name}.tsv")) is not None]
        return sum(found) if found else None

    def is_needed(self, seed: int, run: str) -> bool:
        return seed in self.report.seeds and run in self.needed


def find(folder: Path, kinds: Iterable[str] = KINDS) -> list[Item]:
    """What can be deleted from a folder of results, by kind. Raises UserError if `folder` is none, or a link."""
    results = _read(folder)
    finders = {
        "leftovers": _leftovers,
        "resume": _resume,
        "orphans": _orphans,
        "cache": _cache,
        "features": _features,
        "relevance": _relevance,
    }
    return [item for kind in KINDS if kind in set(kinds) for item in finders[kind](results)]


def delete(folder: Path, items: Sequence[Item]) -> list[Item]:
    """Delete items that `find` gave, and return those that were deleted: all that may go. Raises UserError, before
    anything is deleted, if a stage or Snakemake is at work in the folder."""
    _check_idle(folder)
    deleted = [item for item in items if not item.kept]
    for item in deleted:
        for path in item.paths:
            files.delete(path)
        for above in {path.parent for path in item.paths}:
            _remove_empty(above, folder)
    return deleted


def size_of(items: Sequence[Item]) -> str:
    """The size of all items together, in words."""
    return _size(sum(item.size for item in items))


def table(folder: Path, items: Sequence[Item]) -> str:
    """The items as plain text: size and cost, a line each, and by kind what it means to delete them."""
    if not items:
        return f"{folder}: nothing to delete"
    rows = [("kind", "what", "size", "to make again", "and what reads it")]
    rows += [
        (item.kind, item.name, _size(item.size), _time(item.seconds), _time(item.after) if item.after != 0 else "")
        for item in items
    ]
    columns = ("left", "left", "right", "right", "right")
    lines = [tabulate(rows, headers="firstrow", tablefmt="plain", colalign=columns, disable_numparse=True)]
    lines += ["", f"{folder}: {size_of([item for item in items if not item.kept])} can be deleted"]
    kinds = dict.fromkeys(item.kind for item in items)
    lines += [f"  {kind}: {KINDS[kind]}" for kind in kinds]
    read = [kind for kind in kinds if kind in READ_BY_STAGES]
    if read:
        lines.append(
            f"Without {', '.join(read)}, finished results stay as they are. "
            "Once a stage needs what was deleted, it is made again, and the stages that read it run again, too (the "
            "last column)."
        )
    lines += [f"stays: {item.name}: {item.kept}" for item in items if item.kept]
    return "\n".join(lines)


# --- what there is ----------------------------------------------------------------------------------------------


def _read(folder: Path) -> _Results:
    if folder.is_symlink():
        raise UserError(f"{folder}: a link; give the folder itself, {folder.resolve()}")
    config = folder / "config"
    report = config / "report.yaml"
    if config.is_symlink() or ownership.foreign(report) is not None or not report.is_file():
        raise UserError(
            f"{folder}: no folder of results that rvlr made (no config/report.yaml of its own); give results/NAME"
        )
    found = read_report(folder)
    return _Results(folder, found, frozenset(_needed(folder, found)))


def _needed(folder: Path, report: Report) -> Iterator[str]:
    """The runs that the report shows, and those that they start from or learn from."""
    waiting = list(report.runs)
    seen: set[str] = set()
    while waiting:
        run = waiting.pop()
        if run in seen:
            continue
        seen.add(run)
        yield run
        section = _section(folder / f"config/{run}.yaml")
        names = [section.get(key) for key in ("teacher", "start", "model")]
        for name in (name for name in names if isinstance(name, str)):
            # models and teachers have no name in common
            waiting += [runs.initial(name), runs.teacher(name)]


def _section(path: Path) -> dict[str, Any]:
    try:
        found = files.read_yaml(path)
    except UserError:  # of a teacher of kind `stored`, which has none
        return {}
    return found if isinstance(found, dict) else {}


def _leftovers(results: _Results) -> Iterator[Item]:
    for parent, names, others in os.walk(results.folder):
        found = [name for name in (*names, *others) if files.is_temporary(name)]
        names[:] = [name for name in names if name not in found]
        for name in sorted(found):
            path = Path(parent, name)
            kept = "a link, which rvlr does not make" if path.is_symlink() else ""
            yield _item(results, "leftovers", [path], 0.0, kept=kept)


def _resume(results: _Results) -> Iterator[Item]:
    for path in _folders(results, "resume/seed*/*"):
        try:
            check_resume(path)
            kept = ""
        except UserError as error:
            kept = str(error).removeprefix("--resume ")
        if kept or any(path.iterdir()):
            times = [results.seconds(f"seed{seed}/{path.name}") for seed in results.report.seeds]
            yield _item(results, "resume", [path], max((time for time in times if time), default=None), kept=kept)


def _orphans(results: _Results) -> Iterator[Item]:
    for path in _folders(results, "seed*/*"):
        seed = SEED.fullmatch(path.parent.name)
        if seed is None or runs.PATTERN.fullmatch(path.name) is None or results.is_needed(int(seed[1]), path.name):
            continue
        stages = [path.name, f"evaluate-{path.name}"]
        stages += [f"features-{runs.name(path.name)}"] if runs.kind(path.name) == "teacher" else []
        yield _owned(results, "orphans", [path], results.seconds(*(f"{seed[0]}/{stage}" for stage in stages)))
    unnamed = [path for path in _files(results, "config/*.yaml") if runs.PATTERN.fullmatch(path.stem)]
    figures = [
        (path, found[1])
        for path in _files(results, "figures/*.png")
        if (found := re.fullmatch(rf"({runs.PATTERN.pattern})-(?:cross|single)-modal", path.stem))
    ]
    for path, run in [*((path, path.stem) for path in unnamed), *figures]:
        if run not in results.needed:
            yield _owned(results, "orphans", [path], results.seconds(f"sheets-{run}") if path.suffix == ".png" else 0.0)


def _cache(results: _Results) -> Iterator[Item]:
    trained = [
        f"seed{seed}/{stage}" for seed in results.report.seeds for run in results.needed for stage in _stages(run)
    ]
    for path in _folders(results, "cache"):
        yield _owned(results, "cache", [path], results.seconds("cache"), results.seconds(*trained))


def _stages(run: str) -> list[str]:
    """The stages of a run that open images, or follow from them."""
    features = [f"features-{runs.name(run)}"] if runs.kind(run) == "teacher" else []
    return [*([run] if runs.is_trained(run) else []), f"evaluate-{run}", *features]


def _features(results: _Results) -> Iterator[Item]:
    for path in (path for kind in _FEATURES for path in _folders(results, f"seed*/teacher-*/{kind}")):
        seed, run = path.parent.parent.name, path.parent.name
        number = SEED.fullmatch(seed)
        if number is None or not results.is_needed(int(number[1]), run):
            continue  # an orphan as a whole
        teacher = runs.name(run)
        if path.name == "features":
            students = [one for one in results.needed if _taught_by(results, one) == teacher]
            readers = [f"{seed}/{stage}" for one in students for stage in _stages(one)]
        else:
            readers = [f"{seed}/evaluate-{one}" for one in results.needed]
        seconds = results.seconds(f"{seed}/{path.name}-{teacher}")
        yield _owned(results, "features", [path], seconds, results.seconds(*readers) if readers else 0.0)


def _taught_by(results: _Results, run: str) -> Any:
    return _section(results.folder / f"config/{run}.yaml").get("teacher") if runs.kind(run) == "student" else None


def _relevance(results: _Results) -> Iterator[Item]:
    readers = [f"seed{seed}/evaluate-{run}" for seed in results.report.seeds for run in results.needed]
    for path in _files(results, "relevance/*.npy"):
        about = path.with_suffix(".json")
        paths = [path, *([about] if about.is_file() else [])]
        seconds = results.seconds(f"relevance-{path.stem}")
        yield _owned(results, "relevance", paths, seconds, results.seconds(*readers))


# --- files --------------------------------------------------------------------------------------------------------


def _folders(results: _Results, pattern: str) -> Iterator[Path]:
    return (path for path in _inside(results, pattern) if path.is_dir())


def _files(results: _Results, pattern: str) -> Iterator[Path]:
    return (path for path in _inside(results, pattern) if path.is_file())


def _inside(results: _Results, pattern: str) -> Iterator[Path]:
    """What matches a pattern below the results, sorted, without links and what lies behind them."""
    for path in sorted(results.folder.glob(pattern)):
        above = [path, *path.parents]
        links = (one.is_symlink() for one in above[: above.index(results.folder)])
        if not path.name.startswith(".") and not any(links):
            yield path


def _owned(
    results: _Results, kind: str, paths: Sequence[Path], seconds: float | None, after: float | None = 0.0
) -> Item:
    """An item, which stays if there is something in it that `rvlr` did not make."""
    found = [file for path in paths for file in _walk(path)]
    links = (file for file in found if file.is_symlink())
    mine = next(chain(links, ownership.unlisted(found, results.folder)), None)
    kept = f"{mine} is not something that rvlr made; move it elsewhere" if mine is not None else ""
    return _item(results, kind, paths, seconds, after, kept)


def _walk(path: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, but for what lists, stamps or locks; of a file, itself."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    yield from ownership.files_in(path)


def _item(
    results: _Results,
    kind: str,
    paths: Sequence[Path],
    seconds: float | None,
    after: float | None = 0.0,
    kept: str = "",
) -> Item:
    size = sum(one.lstat().st_size for path in paths for one in _walk(path))
    return Item(kind, str(paths[0].relative_to(results.folder)), paths, size, seconds, after, kept)


def _check_idle(folder: Path) -> None:
    """Raise UserError if Snakemake or a training is at work in a folder of results."""
    snakemake = folder.absolute().parent.parent / ".snakemake/locks"
    if snakemake.is_dir() and any(snakemake.iterdir()):
        raise UserError(
            f"{folder}: Snakemake is at work on it ({snakemake}), so nothing was deleted; wait for its end, or, if it "
            "was killed, run: snakemake --unlock"
        )
    for path in folder.glob("resume/seed*/.*.lock"):
        with suppress(FileNotFoundError), path.open("rb") as lock:
            if not files.try_lock(lock):
                name = path.name.removeprefix(".").removesuffix(".lock")
                raise UserError(
                    f"{folder}: {name} of {path.parent.name} is trained now, so nothing was deleted; wait for it"
                )


def _remove_empty(path: Path, root: Path) -> None:
    """Remove a folder and those above it, up to the folder of results, where nothing but ledgers and locks is left."""
    while path != root and path.is_relative_to(root) and not any(_walk(path)):
        if any(one.is_dir() for one in path.iterdir()):
            return
        files.delete(path)
        path = path.parent


def _benchmark(path: Path) -> float | None:
    """The seconds in a benchmark file of Snakemake; None if it is missing, or another file."""
    try:
        return costs.read_stage(path).seconds
    except (UserError, OSError):
        return None


# --- words --------------------------------------------------------------------------------------------------------


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
