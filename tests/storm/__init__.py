"""A storm of bad input: tables of cases, one module a surface, and what runs them.

A case arranges files in an empty folder, then runs one `rvlr` command there. What must hold: the exit status, one error
message with the words of `says` (file or key, what was found, how to fix it), no traceback, and a folder that holds
after the command exactly what it held before.
"""

import hashlib
import importlib
import multiprocessing
import os
import pkgutil
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

SECONDS = 60
_COLLECTING = threading.Lock()  # to start a process asks all others for their status, which can be read only once
_ERRORS = re.compile(r"^(?:\d\d:\d\d:\d\d (?:ERROR|CRITICAL) |error: )", re.MULTILINE)
PRELOADED = (
    "rvlr.cli",
    "rvlr.training.stage",
    "rvlr.evaluation.stage",
    "rvlr.extraction",
    "rvlr.relevance",
    "rvlr.convert.features",
    "rvlr.convert.relevance",
    "rvlr.convert.checkpoint",
    "rvlr.datasets.custom",
    "rvlr.datasets.cache",
    "rvlr.fetch.download",
    "rvlr.fetch.unpack",
    "rvlr.datasets.public",
    "rvlr.report.tables",
    "rvlr.report.figures",
    "rvlr.report.sheets",
)


@dataclass(frozen=True)
class World:
    """Sound files for cases to copy, spoil, or name as they are; cases never write into them.

    data: `splits/` and `images/` of a tiny `shapes`. model: an untrained model folder. bert: a BERT folder with
    tokenizer. features: those of `model` for the training split. relevance: `test.npy` and `test.json`. evaluation:
    `test.json` and `rankings.npz` of `model`. sections: frozen sections, `dataset`, `model`, `teacher`, `student`,
    `evaluation`, `relevance`, and `unfinished`, a teacher's, each a .yaml. unfinished: the resume folder of a training
    of that teacher with seed 0: `checkpoint.pt` of step 8, `previous.pt` and the best weights of step 6.
    """

    data: Path
    model: Path
    bert: Path
    features: Path
    relevance: Path
    evaluation: Path
    sections: Path
    unfinished: Path


@dataclass(frozen=True)
class Case:
    """One bad input.

    name: what is wrong, in words, unique within its surface. arrange: makes the files in the folder it is given and
    returns the arguments of `rvlr`, which runs in that folder. says: regular expressions that the output must match.
    status: the exit status. changes: the command may change the folder, as one does that must succeed.
    """

    name: str
    arrange: Callable[[World, Path], list[str]]
    says: tuple[str, ...]
    status: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    changes: bool = False


def surfaces() -> Iterator[tuple[str, Case]]:
    """Every case with the name of its surface: the `CASES` of the modules of this package."""
    for module in pkgutil.iter_modules(__path__):
        for case in importlib.import_module(f"storm.{module.name}").CASES:
            yield module.name, case


def snapshot(folder: Path) -> dict[str, str]:
    """What a folder holds: every name, and the content of files and links. Locks that were released are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") and path.name.endswith(".lock"):
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "something else"
    return found


def server() -> ForkServerContext:
    """Processes that have imported everything already, so that a case takes a fraction of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def run(context: ForkServerContext, case: Case, world: World, folder: Path, output: Path) -> list[str]:
    """Run one case in `folder`, which is made; what it prints goes to the file `output`. Returns what does not hold."""
    folder.mkdir(parents=True)
    arguments = case.arrange(world, folder)
    before = snapshot(folder)
    process = context.Process(target=_command, args=(arguments, str(folder), dict(case.environment), str(output)))
    with _COLLECTING:
        process.start()
    ended = connection.wait([process.sentinel], SECONDS)
    with _COLLECTING:
        if not ended:
            process.kill()
        process.join()
    if not ended:
        return [f"still running after {SECONDS} s"]
    said = output.read_text(encoding="utf-8", errors="replace")
    wrong = []
    if process.exitcode != case.status:
        wrong.append(f"exit status {process.exitcode}, {case.status} expected")
    if "Traceback" in said:
        wrong.append("a traceback")
    if case.status == 1 and (count := len(_ERRORS.findall(said))) != 1:
        wrong.append(f"{count} error messages, 1 expected")
    flat = " ".join(said.split())
    wrong += [f"does not say {pattern!r}" for pattern in case.says if not re.search(pattern, flat)]
    if not case.changes and (after := snapshot(folder)) != before:
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        wrong.append(f"changed {', '.join(names)}")
    return wrong


def _command(arguments: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as of a command that was not forked itself
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["rvlr", *arguments]
    from rvlr.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
