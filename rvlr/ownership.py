"""The ownership of files: `rvlr` replaces and deletes only files that `rvlr` made.

Every folder that `rvlr` writes into contains a ledger, `.rvlr-made`, which lists the files that `rvlr` made there: one
name a line, as JSON. A file may be replaced if the ledger of its folder lists the file. A folder may be replaced if its
own ledger lists every file in the folder. Absent and empty paths may always be written. The command line checks all
inputs and outputs with `check_paths` before it reads anything; `rvlr.files` checks each output once more before
replacing it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import combinations, product
from pathlib import Path

from rvlr.errors import LogFileError, UserError

LEDGER = ".rvlr-made"
TIMESTAMP = ".snakemake_timestamp"  # Snakemake puts one into every folder that a stage made
Paths = Path | Iterable[Path] | None


def check_paths(inputs: Mapping[str, Paths], outputs: Mapping[str, Paths]) -> None:
    """Raise UserError unless `outputs` may be written: they are apart, see `check_apart`, and nobody else's files."""
    check_apart(inputs, outputs)
    for name, path in _flat(outputs):
        check(path, name)


def check_apart(inputs: Mapping[str, Paths], outputs: Mapping[str, Paths]) -> None:
    """Raise UserError if an output is, contains or lies inside an input or another output. The keys of both mappings
    are the options or settings of the paths; None stands for an option that was not given."""
    given, wanted = list(_flat(inputs)), list(_flat(outputs))
    real = {path: Path(os.path.realpath(path)) for _, path in (*given, *wanted)}
    for (name, path), (other, other_path) in (*product(wanted, given), *combinations(wanted, 2)):
        if real[path] == real[other_path]:
            raise _fault(name, other, f"{name} {path} and {other} are the same path", "a path of its own")
        for inner, outer in ((path, other_path), (other_path, path)):
            if real[inner].is_relative_to(real[outer]):
                found = f"{name} {path} and {other} {other_path}: {inner} lies inside {outer}"
                raise _fault(
                    name, other, f"{found}, but what is read and what is written must be apart", "another path"
                )


def _fault(output: str, other: str, found: str, path: str) -> UserError:
    """The error that asks for another output, or for another log file if that is in the way of an output."""
    if other == "--log-file":
        return LogFileError(f"{found}; give {other} {path}")
    return UserError(f"{found}; give {output} {path}")


def check(path: Path, name: str | None = None) -> None:
    """Raise UserError if there is something at `path` that `rvlr` did not make. name: the option of the path."""
    found = foreign(path)
    if found is None:
        return
    where = f"{path}" if name is None else f"{name} {path}"
    if found == path:
        raise UserError(f"{where}: exists, and rvlr did not make it; give another path, or move it away first")
    raise UserError(
        f"{where}: would be replaced, but rvlr did not make {found.relative_to(path)} in it; give a path that does not "
        "exist yet, or an empty folder"
    )


def foreign(path: Path) -> Path | None:
    """A file that would be lost if `path` were replaced and that `rvlr` did not make; None if there is none."""
    if path.is_dir() and not path.is_symlink():
        made = _read(path)
        return next((file for file in files_in(path) if file.relative_to(path).as_posix() not in made), None)
    if not os.path.lexists(path) or path.name in _read(path.parent):
        return None
    return None if path.is_file() and not path.is_symlink() and path.stat().st_size == 0 else path


def unlisted(files: Iterable[Path], root: Path) -> Iterator[Path]:
    """Those of some files that no ledger lists, neither of their folder nor of one above it up to `root`. Each ledger
    is read once: that of a folder of images is long."""
    read = cache(_read)
    for file in files:
        above = list(file.parents)
        if not any(file.relative_to(folder).as_posix() in read(folder) for folder in above[: above.index(root) + 1]):
            yield file


def record(path: Path) -> None:
    """Add a file that `rvlr` is about to make to the ledger of its folder."""
    if path.name not in _read(path.parent):
        # one short write at the end: processes that write into the same folder do not disturb each other
        # the write starts a new line, since a full disk may have cut the line before
        with (path.parent / LEDGER).open("a", encoding="ascii") as ledger:
            ledger.write("\n" * (ledger.tell() > 0) + json.dumps(path.name))


def record_folder(folder: Path) -> None:
    """Write the ledger of a folder that `rvlr` made, with every file in the folder."""
    names = sorted(file.relative_to(folder).as_posix() for file in files_in(folder))
    (folder / LEDGER).write_text("\n".join(map(json.dumps, names)), encoding="ascii")


def _read(folder: Path) -> set[str]:
    try:
        lines = (folder / LEDGER).read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    names = set()
    for line in lines:
        with suppress(json.JSONDecodeError):  # a line that was cut: its file counts as another person's
            names.add(str(json.loads(line)))
    return names


def files_in(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder, except ledgers, Snakemake's time stamps, and the locks of `rvlr`."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*names, *links):
            if name not in (LEDGER, TIMESTAMP) and not (name.startswith(".") and name.endswith(".lock")):
                yield Path(parent, name)


def _flat(paths: Mapping[str, Paths]) -> Iterator[tuple[str, Path]]:
    for name, value in paths.items():
        for path in [value] if isinstance(value, Path) else value or ():
            yield name, path
