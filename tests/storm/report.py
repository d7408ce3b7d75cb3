"""Results that do not match their records: copied, edited, swapped, cut, of other data, and their readers."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from storm import Case, World

A, B = "results/tiny/seed0/student-a", "results/tiny/seed0/student-b"
RUNS = (A, "results/tiny/seed1/student-a", B)
TEST, RANKINGS, TRAINED, LOG = "eval/test.json", "eval/rankings.npz", "config.yaml", "metrics.jsonl"
AGAIN = r"rm \S*results/tiny/seed0/student-a/"
Spoil = Callable[[Path], object]


def _study(world: World, folder: Path) -> None:
    """Results as the workflow writes them, of a student with two seeds and of a student with one; all are one model."""
    root = folder / "results/tiny"
    (root / "config").mkdir(parents=True)
    (root / "images").symlink_to(world.data / "images")
    shutil.copytree(world.data / "splits", root / "splits")
    shutil.copytree(world.relevance, root / "relevance")
    record = json.loads((world.evaluation / "test.json").read_text())
    (root / "config/evaluation.yaml").write_text(yaml.safe_dump(record["config"]))
    (root / "config/relevance.yaml").write_text(yaml.safe_dump({"scorer": "rouge-score", "stemmer": False}))
    settings = json.loads((root / "splits/dataset.json").read_text())["settings"]
    (root / "config/dataset.yaml").write_text(yaml.safe_dump(settings))
    for place in RUNS:
        run, seed = folder / place, int(Path(place).parent.name.removeprefix("seed"))
        shutil.copytree(world.model, run / "model")
        shutil.copytree(world.evaluation, run / "eval")
        (run / TEST).write_text(json.dumps(record | {"run": run.name, "seed": seed}))
        lines = [{"kind": "train", "step": 1, "loss": 2.0 + seed}, {"kind": "val", "step": 1, "r_mean": 30.0}]
        (run / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
        outputs = {"model_sha256": record["inputs"]["model_sha256"], "metrics_sha256": _sha256(run / LOG)}
        section = {"teacher": "t", "distance": "mae", "training": {"epochs": 3}}
        (run / TRAINED).write_text(yaml.safe_dump({"seed": seed, "settings": section, "outputs": outputs}))
        (root / f"config/{run.name}.yaml").write_text(yaml.safe_dump(section))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- commands ---------------------------------------------------------------------------------------------------


def _summarise(*evaluations: str) -> list[str]:
    outputs = ["--csv", "s.csv", "--comparisons", "c.csv", "--markdown", "s.md", "--text", "s.txt"]
    return ["summarise", *(evaluations or [f"{run}/{TEST}" for run in RUNS]), *outputs]


def _bars(*evaluations: str) -> list[str]:
    return ["plot-three-ways", *(evaluations or [f"{run}/{TEST}" for run in RUNS]), "--output", "bars.png"]


def _losses(*logs: str) -> list[str]:
    return ["plot-losses", *(logs or [f"{run}/{LOG}" for run in (A, B)]), "--output", "losses.png"]


def _sheets(run: str = "student-a", queries: str = "1", split: str = "results/tiny/splits/test.jsonl") -> list[str]:
    files = ["--rankings", f"{A}/{RANKINGS}", "--split", split, "--cross-modal", "x.png", "--single-modal", "y.png"]
    return ["draw-sheets", *files, "--run", run, "--queries", queries]


def _pool(*folders: str, output: str = "pooled") -> list[str]:
    return ["pool", *folders, "--output", output]


# --- faults -----------------------------------------------------------------------------------------------------


def _set(file: str, *keys: str, to: Any) -> Spoil:
    """Changes one value in a JSON or YAML file; `...` removes it."""

    def spoil(folder: Path) -> None:
        path = folder / file
        content = yaml.safe_load(path.read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        if to is ...:
            del inner[keys[-1]]
        path.write_text(json.dumps(content))

    return spoil


def _copy(source: str, target: str) -> Spoil:
    return lambda folder: shutil.copyfile(folder / source, folder / target)


def _write(file: str, content: bytes) -> Spoil:
    return lambda folder: (folder / file).write_bytes(content)


def _cut(file: str, size: int) -> Spoil:
    return lambda folder: os.truncate(folder / file, size)


def _per_query(folder: Path) -> None:
    """Other values of the same mean."""
    path = folder / A / RANKINGS
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["per_query/t2i_r@10"] = arrays["per_query/t2i_r@10"][::-1]
    np.savez_compressed(path, **arrays)


def _older(spoil: Spoil, *files: str) -> Spoil:
    """Spoils files, then sets their times as early as possible."""

    def both(folder: Path) -> None:
        spoil(folder)
        for file in files:
            os.utime(folder / file, (0, 0))

    return both


def _caption(folder: Path) -> None:
    path = folder / "results/tiny/splits/test.jsonl"
    path.write_text(path.read_text().replace('"captions": ["a', '"captions": ["my', 1).replace("red", "blue"))


def _arrange(spoil: Spoil | None, command: list[str], world: World, folder: Path) -> list[str]:
    _study(world, folder)
    if spoil is not None:
        spoil(folder)
    return command


def _case(name: str, spoil: Spoil | None, *says: str, command: list[str] | None = None, **fields: Any) -> Case:
    return Case(name, partial(_arrange, spoil, command or _summarise()), says, **fields)


TEST_A, TRAINED_A, LOG_A = rf"{A}/eval/test\.json: ", rf"{A}/config\.yaml: ", rf"{A}/metrics\.jsonl: "
RECORDS = [
    _case("another run's evaluation", _copy(f"{B}/{TEST}", f"{A}/{TEST}"), TEST_A, "of run student-b", AGAIN),
    _case(
        "another seed's evaluation",
        _copy(f"{RUNS[1]}/{TEST}", f"{A}/{TEST}"),
        TEST_A + "the record is of seed 1, the folder of 0",
    ),
    _case("an edited seed", _set(f"{A}/{TEST}", "seed", to=7), TEST_A, "of seed 7"),
    _case("a seed in words", _set(f"{A}/{TEST}", "seed", to="0"), TEST_A, r"seed: found '0' \(text\)"),
    _case("a seed of true", _set(f"{A}/{TEST}", "seed", to=True), TEST_A, "seed: found true"),
    _case(
        "no run",
        _set(f"{A}/{TEST}", "run", to=...),
        TEST_A,
        "run: missing; give initial-, teacher- or student- and a name",
    ),
    _case("edited candidates", _set(f"{A}/{TEST}", "config", "candidates", to=9), TEST_A, "candidates 9", "has 6"),
    _case(
        "a setting of another version",
        _set(f"{A}/{TEST}", "config", "reranker", to="old"),
        TEST_A,
        "reranker 'old'",
        "has 'nothing'",
    ),
    _case("another split", _set(f"{A}/{TEST}", "inputs", "split_checksum", to="0" * 64), TEST_A, "another split than"),
    _case("the split edited later", _caption, r"splits/test\.jsonl"),
    _case(
        "another relevance", _set(f"{A}/{TEST}", "inputs", "relevance_sha256", to="f" * 64), TEST_A, "another relevance"
    ),
    _case(
        "the relevance edited later, as old as before",
        _older(_cut("results/tiny/relevance/test.npy", 500), "results/tiny/relevance/test.npy"),
        TEST_A,
        r"another relevance than \S*relevance/test\.npy",
    ),
    _case(
        "relevance of another scorer",
        _set("results/tiny/config/relevance.yaml", "scorer", to="coco-caption"),
        r"relevance/test\.json: made with scorer 'rouge-score', \S*relevance\.yaml has 'coco-caption'",
    ),
    _case(
        "another data set",
        _set("results/tiny/splits/dataset.json", "settings", "imbalance", to=0.9),
        r"splits/dataset\.json: made with imbalance 0\.9, \S*dataset\.yaml has 0\.0",
        r"rm \S*splits/dataset\.json; snakemake",
    ),
    _case("another model's weights", _cut(f"{A}/model/model.safetensors", 999), TEST_A, "another model than"),
    _case(
        "another model's digest", _set(f"{A}/{TEST}", "inputs", "model_sha256", to="0" * 64), TEST_A, "another model"
    ),
    _case(
        "an edited number",
        _set(f"{A}/{TEST}", "protocols", "corrected", "r_mean", to=99.0),
        TEST_A + "counts, notes, protocols, judgements, diagnostics are not as they were measured",
        AGAIN,
    ),
    _case(
        "a number in words",
        _set(f"{A}/{TEST}", "protocols", "paper", "r_mean", to="37"),
        TEST_A,
        r"protocols\.paper\.r_mean: found '37' \(text\)",
    ),
    _case(
        "an edited note",
        _set(f"{A}/{TEST}", "notes", to=["all is well"]),
        TEST_A,
        "notes, protocols, judgements, diag",
        AGAIN,
    ),
    _case("diagnostics that are gone", _set(f"{A}/{TEST}", "diagnostics", to=...), TEST_A, "diagnostics are", AGAIN),
    _case("edited counts", _set(f"{A}/{TEST}", "counts", "images", to=7), TEST_A, "counts, notes", AGAIN),
    _case(
        "no digest of the numbers",
        _set(f"{A}/{TEST}", "outputs", "numbers_sha256", to=...),
        TEST_A,
        r"outputs\.numbers_sha256: missing",
        "run the evaluate stage again",
    ),
    _case("no digest of the rankings", _set(f"{A}/{TEST}", "outputs", to=...), TEST_A, "outputs: missing"),
    _case("rankings with other values of the same mean", _per_query, TEST_A, r"another rankings than \S*npz"),
    _case("no rankings", lambda folder: (folder / A / RANKINGS).unlink(), TEST_A, "rankings.npz is missing"),
    _case("an evaluation cut short", _cut(f"{A}/{TEST}", 700), TEST_A.rstrip(), "not valid JSON"),
    _case("an empty evaluation", _write(f"{A}/{TEST}", b""), TEST_A.rstrip(), "line 1"),
    _case("a list for an evaluation", _write(f"{A}/{TEST}", b"[]"), TEST_A, "contains a list"),
    _case("an evaluation of nulls", _write(f"{A}/{TEST}", bytes(300)), TEST_A.rstrip()),
    _case(
        "a number that is none",
        _set(f"{A}/{TEST}", "protocols", "paper", "r_mean", to=float("nan")),
        TEST_A.rstrip(),
        "r_mean|NaN",
    ),
    _case("trained with other settings", _set(f"{A}/{TRAINED}", "settings", "distance", to="mse"), TRAINED_A, "'mse'"),
    _case(
        "trained with a nested setting changed",
        _set("results/tiny/config/student-a.yaml", "training", "epochs", to=4),
        TRAINED_A + r"trained with training\.epochs 3, \S*student-a\.yaml has 4",
    ),
    _case("trained with another seed", _set(f"{A}/{TRAINED}", "seed", to=5), TRAINED_A, "of seed 5"),
    _case("digests that are none", _set(f"{A}/{TRAINED}", "outputs", to="none"), TRAINED_A, "settings and outputs"),
    _case("no record of a training", _write(f"{A}/{TRAINED}", b"- 1\n"), TRAINED_A, "seed, settings and outputs"),
    _case(
        "a record of a training without digests",
        _set(f"{A}/{TRAINED}", "outputs", to=...),
        TRAINED_A,
        "seed, settings and outputs",
    ),
    _case(
        "one model's record, another's evaluation",
        _set(f"{A}/{TRAINED}", "outputs", "model_sha256", to="1" * 64),
        TEST_A + r"made from another model than \S*config\.yaml",
    ),
    _case(
        "the same evaluation twice",
        None,
        "are both run 'student-a', seed 0",
        command=_summarise(f"{A}/{TEST}", f"{A}/{TEST}"),
    ),
    _case(
        "a run named as no run is",
        lambda folder: [(folder / A).rename(folder / "mine"), _set(f"mine/{TEST}", "run", to="mine")(folder)],
        r"mine/eval/test\.json: ",
        command=_summarise(f"mine/{TEST}"),
    ),
    _case(
        "an evaluation elsewhere with other rankings beside it",
        lambda folder: [(folder / A / "eval").rename(folder / "eval"), _cut(RANKINGS, 1000)(folder)],
        r"eval/test\.json: made from another rankings",
        command=_summarise(TEST),
    ),
    _case("bars of an edited seed", _set(f"{A}/{TEST}", "seed", to=7), TEST_A, "of seed 7", command=_bars()),
    _case("another run's log", _copy(f"{RUNS[1]}/{LOG}", f"{A}/{LOG}"), LOG_A, AGAIN, command=_losses()),
    _case(
        "a log that is none",
        lambda folder: (folder / LOG).write_text('{\n"step": 1}\n'),
        r"metrics\.jsonl: line 1: not a line of a training log, which is an object with step and kind",
        r"found '\{'; give the metrics\.jsonl of a training$",
        command=_losses(LOG),
    ),
    _case("a log with a line less", _cut(f"{A}/{LOG}", 44), LOG_A, "not the log of the training", command=_losses()),
    _case(
        "a log that is given twice",
        None,
        "are both named 'student-a'",
        command=_losses(f"{A}/{LOG}", f"{A}/{LOG}"),
    ),
    _case("a pool of one folder", None, "1 folder of results given", command=_pool("results/tiny")),
    _case(
        "a pool of a folder twice",
        lambda folder: (folder / "again").symlink_to("results/tiny"),
        "results/tiny and again are the same folder",
        command=_pool("results/tiny", "again"),
    ),
    _case(
        "a pool of what are no results",
        None,
        r"results/tiny/seed0: no folder of results, since it has no config/report\.yaml; give results/NAME",
        command=_pool("results/tiny/seed0", "results/tiny"),
    ),
    _case(
        "a pool of the same data",
        lambda folder: [
            (folder / "results/tiny/config/report.yaml").write_text("runs: [student-b]\nseeds: [0]\n"),
            shutil.copytree(folder / "results/tiny", folder / "results/other", symlinks=True),
        ],
        "results/tiny and results/other have the same test images",
        command=_pool("results/tiny", "results/other"),
    ),
    _case(
        "a pool inside what is pooled",
        lambda folder: (folder / "other").mkdir(),
        "must be apart; give --output another path",
        command=_pool("results/tiny", "other", output="results/tiny/pooled"),
    ),
    _case("sheets named for another run", None, "student-a, not of student-b", command=_sheets("student-b")),
    _case("sheets of another split", None, "rankings of split", command=_sheets(split="results/tiny/splits/val.jsonl")),
    _case("sheets of edited rankings", _per_query, TEST_A, "another rankings", command=_sheets()),
    _case("sheets of no queries", None, "queries_shown", command=_sheets(queries="0")),
]
SOUND = [
    _case("sound results", None, status=0, changes=True),
    _case("sound bars", None, status=0, changes=True, command=_bars()),
    _case("sound losses", None, status=0, changes=True, command=_losses()),
    _case("sound sheets", None, status=0, changes=True, command=_sheets()),
    _case(
        "a sound evaluation elsewhere",
        lambda folder: (folder / A / "eval").rename(folder / "eval"),
        status=0,
        changes=True,
        command=_summarise(TEST),
    ),
    _case(
        "a sound evaluation and log beside a config.yaml and a model of the user's",
        lambda folder: [
            (folder / A / "eval").rename(folder / "eval"),
            (folder / A / LOG).rename(folder / LOG),
            (folder / "config.yaml").write_text("mine: true\n"),
            (folder / "model").mkdir(),
            (folder / "model/model.safetensors").write_text("mine"),
        ],
        status=0,
        changes=True,
        command=_summarise(TEST),
    ),
]
CASES = [*RECORDS, *SOUND]
