"""Configuration files that are wrong, hostile or another kind of file, and options that are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from storm import Case, World

Arrange = Callable[[World, Path], list[str]]

STUDY: dict[str, Any] = {
    "dataset": {"kind": "shapes"},
    "models": {"base": {"vision": {"name": "resnet10t"}}},
    "training": {"epochs": 1},
    "teachers": {"t": {}},
    "students": {"s": {"teacher": "t"}},
}
LINES = yaml.safe_dump(STUDY).count("\n")


def _study(*changes: tuple[str, Any], command: str = "check") -> Arrange:
    """`config check` of a study of which some keys, `a.b.c`, have other values; None takes a key away."""

    def arrange(world: World, folder: Path) -> list[str]:
        study = yaml.safe_load(yaml.safe_dump(STUDY))
        for key, value in changes:
            *above, last = key.split(".")
            section = study
            for part in above:
                section = section.setdefault(part, {})
            section[last] = value
        (folder / "my.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
        return ["config", command, "my.yaml"]

    return arrange


def _text(text: str | bytes, *arguments: str) -> Arrange:
    """A command on a file my.yaml with this content."""

    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(arguments) or ["config", "check", "my.yaml"]

    return arrange


def _more(text: str) -> Arrange:
    """`config check` of a sound study with lines after it."""
    return _text(yaml.safe_dump(STUDY, sort_keys=False) + text)


def _train(world: World, section: str, stage: str = "train-teacher", **more: str) -> list[str]:
    options = {
        "config": f"{world.sections}/{section}.yaml",
        "seed": "0",
        "start-model": str(world.model),
        "splits": f"{world.data}/splits",
        **({"features": str(world.features)} if stage == "train-student" else {}),
        "resume": "resume",
        "output": "out",
        **more,
    }
    return [stage, *(word for name, value in options.items() for word in (f"--{name}", value))]


def _evaluate(world: World, config: str, **more: str) -> list[str]:
    options = {
        "config": config,
        "run": "initial-base",
        "seed": "0",
        "model": str(world.model),
        "split": f"{world.data}/splits/test.jsonl",
        "relevance": f"{world.relevance}/test.npy",
        "output": "out",
        **more,
    }
    return ["evaluate", *(word for name, value in options.items() for word in (f"--{name}", value))]


def _extract(*more: str, pair: bool = False) -> Arrange:
    def arrange(world: World, folder: Path) -> list[str]:
        section = {"kind": "single-modal", "vision": {"name": "resnet10t"}, "text": {"weights": str(world.bert)}}
        (folder / "pair.yaml").write_text(yaml.safe_dump(section))
        config = "pair.yaml" if pair else f"{world.sections}/teacher.yaml"
        named = [str(world.model) if word == "MODEL" else word for word in more]
        return ["extract", "--config", config, "--split", f"{world.data}/splits/train.jsonl", "--output", "out", *named]

    return arrange


def _whole_study(world: World, folder: Path) -> list[str]:
    _study()(world, folder)
    return _evaluate(world, "my.yaml")


def _bert_without(name: str) -> Arrange:
    """`config check` of a study whose BERT lacks a file."""

    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "bert").mkdir()
        for file in world.bert.iterdir():
            if file.name != name:
                (folder / "bert" / file.name).symlink_to(file)
        return _study(("models.base.text.weights", "bert"))(world, folder)

    return arrange


def _own_data(captions: int, *subsets: str) -> Arrange:
    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "photos").mkdir()
        rows = "".join(f"{number}.jpg,a picture\n" for number in range(captions))
        (folder / "captions.csv").write_text(f"image,caption\n{rows}")
        own = {"kind": "custom", "images": "photos", "captions": "captions.csv"}
        return _study(("dataset", own), ("evaluation.subsets", list(subsets)))(world, folder)

    return arrange


def _multiplying(value: str, more: str, times: int) -> str:
    lines = [f"a0: &a0 {value}"]
    lines += [f"a{n}: &a{n} {more.replace('*', f'*a{n - 1}')}" for n in range(1, times)]
    return "\n".join(lines) + "\n"


FILES = {
    "a key twice": (
        _more("seeds: [1]\nseeds: [2]\n"),
        rf"my\.yaml: line {LINES + 2}: the key 'seeds' .* twice, first in line {LINES + 1}",
    ),
    "an ablation twice": (
        _text("students:\n  a: {teacher: t}\n  b: {teacher: t}\n  a: {teacher: t, distance: mse}\n"),
        r"my\.yaml: line 4: the key 'a' is given twice, first in line 2",
    ),
    "lists that multiply": (_more(_multiplying("[x, x]", "[*, *, *, *, *]", 30)), r"my\.yaml: line \d+: more than"),
    "mappings that multiply": (_more(_multiplying("{x: 1}", "{p: *, q: *}", 60)), r"my\.yaml: line \d+: more than"),
    "a mapping in itself": (
        _more("evaluation: &a\n  relevance: *a\n"),
        rf"my\.yaml: line {LINES + 2}: the alias \*a stands",
    ),
    "a hundred thousand brackets": (_text("[" * 100_000), r"my\.yaml: line 1: nested more than 50 deep"),
    "three megabytes": (_text("#" * 3_000_000), r"my\.yaml: 3,000,000 bytes; .* at most 262,144"),
    "a tab": (_text("dataset:\n\tkind: shapes\n"), r"my\.yaml: line 2: .* a tab"),
    "a model called 1": (_text("models:\n  1: {}\n"), r"my\.yaml: line 2: a key must be text; found 1"),
    "UTF-16": (_text("dataset: shapes".encode("utf-16")), r"my\.yaml: line 1: not UTF-8"),
    "a zero byte": (_text("dataset: sha\0pes"), r"my\.yaml: line 1: the character U\+0000"),
    "an object of Python": (
        _text("dataset: !!python/object/apply:os.system [id]"),
        r"my\.yaml: line 1: the tag !!python",
    ),
    "a seed with a leading zero": (_text("dataset:\n  seed: 010\n"), r"my\.yaml: line 2: 010 is a number in base 8"),
    "epochs as a time": (
        _more("evaluation: {candidates: 1:30}\n"),
        rf"my\.yaml: line {LINES + 1}: 1:30 is a number in base 60",
    ),
    "an empty file": (_text(""), r"my\.yaml: found null; the file must contain a mapping"),
    "a page of a web site": (_text("<!doctype html>\n<p>404: not found</p>"), r"my\.yaml: (line \d+: not valid|found)"),
}
VALUES: dict[str, tuple[list[tuple[str, Any]], str]] = {
    "a misspelt section": ([("evalution", {})], r"evalution: unknown key; did you mean 'evaluation'\?"),
    "a key of another kind": (
        [("dataset.kind", "custom"), ("dataset.captions_per_image", 2)],
        r"dataset\.captions_per_image: unknown key here; .* belongs to kind: shapes or coco or flickr30k or vizwiz",
    ),
    "a key of another section": ([("teachers.t.epochs", 3)], r"t\.epochs: unknown key here; .* belongs to training"),
    "a misspelt data set": ([("dataset", "shaeps")], r"dataset\.kind: found 'shaeps' .*did you mean 'shapes'\?"),
    "a teacher's name in capitals": ([("students.s.teacher", "T")], r"s\.teacher: no teacher 'T'; .*mean 't'\?"),
    "a model's name misspelt": ([("teachers.t.model", "bse")], r"teachers\.t\.model: no model 'bse'; .*mean 'base'\?"),
    "a misspelt source": ([("sources.coco-val204", {})], r"sources\.coco-val204: no source .*mean 'coco-val2014'\?"),
    "a distance that is none": ([("students.s.distance", "maee")], r"s\.distance: found 'maee' .*mean 'mae'\?"),
    "no without quotes": ([("training.mixed_precision", False)], r"mixed_precision: found false; .* YAML reads"),
    "a rate without end": ([("training.learning_rate", float("inf"))], r"learning_rate: found inf \(not finite\)"),
    "betas that are no numbers": ([("training.betas", [float("nan"), 0.9])], r"training\.betas\[0\]: found nan"),
    "epochs: true": ([("training.epochs", True)], r"training\.epochs: found true; give a whole number from 1"),
    "a million loading processes": ([("training.workers", 10**6)], r"training\.workers: found 1000000; .* to 256"),
    "epochs without end": ([("training.epochs", 10**12)], r"training\.epochs: found 1000000000000; .* to 100,000"),
    "a billion pixels": ([("models.base.vision.image_size", 10**9)], r"image_size: found 1000000000; .*pixels"),
    "a batch larger than train": ([("training.batch_size", 10_000)], r"batch_size: 10,000, but train has 7,500"),
    "a negative seed of the data": ([("dataset.seed", -1)], r"dataset\.seed: found -1; give a whole number from 0"),
    "a name of 200 letters": ([("students", {"s" * 200: {"teacher": "t"}})], r"at most 100 characters"),
    "a name that ends in a dot": ([("dataset.name", "mine.")], r"dataset\.name: found 'mine\.' .*not ending in '\.'"),
    "names in small and large letters": ([("students.S", {"teacher": "t"})], r"students\.S: 's' differs in capitals"),
    "braces in a path": ([("downloads", "data/{old}")], r"downloads: found 'data/\{old\}' with '\{'"),
    "a line end in a path": ([("downloads", "data\n")], r"downloads: found 'data\\n'"),
    "an empty path": ([("downloads", "")], r"downloads: found '' \(empty\); give a path"),
    "the home of nobody known": ([("downloads", "~no-such-person/d")], r"downloads: .* no such user"),
    "an option nan": ([("models.base.vision.options", {"a": float("nan")})], r"vision\.options: .*finite numbers"),
    "no such weights": ([("models.base.vision.weights", "w/swin.pth")], r"vision\.weights: no file w/swin\.pth"),
    "a folder for a file": ([("models.base.vision.weights", ".")], r"vision\.weights: \. is a folder, not a file"),
    "a file for a folder": ([("models.base.text.weights", "my.yaml")], r"text\.weights: my\.yaml is a file"),
    "pretraind": ([("models.base.vision.weights", "pretraind")], r"no file pretraind; .*did you mean 'pretrained'\?"),
    "a hundred faults": ([(f"key{n}", n) for n in range(100)], r"100 faults .*\.\.\. and 50 more"),
}  # fmt: skip
COMMANDS: dict[str, tuple[Arrange, str, int]] = {
    "a whole study as a section": (_whole_study, r"my\.yaml: a whole study found .*evaluation's section expected", 1),
    "a section as a whole study": (
        _text("teacher: t\ndistance: mse\n"),
        r"my\.yaml: a student's section found .*a whole study expected",
        1,
    ),
    "a student's section for a teacher": (
        lambda world, folder: _train(world, "student"),
        r"student\.yaml: a student's section found .*a trained teacher's section expected",
        1,
    ),
    "a teacher's section for a student": (
        lambda world, folder: _train(world, "teacher", "train-student"),
        r"teacher\.yaml: a trained teacher's section found .*a student's section expected",
        1,
    ),
    "an option twice": (
        lambda world, folder: [*_train(world, "teacher"), "--seed", "1"],
        r"--seed is given 2 times; give it once",
        2,
    ),
    "an option of a subcommand twice": (
        _text("", "data", "fetch", "bert-config", "--downloads", "a", "--downloads", "b"),
        r"--downloads is given 2 times",
        2,
    ),
    "an empty output": (lambda world, folder: _train(world, "teacher", output=""), r"--output is empty", 2),
    "an empty file name": (_text("", "config", "check", " "), r"FILE is empty", 2),
    "a negative seed": (
        lambda world, folder: _train(world, "teacher", seed="-1"),
        r"--seed': found '-1'; .* from 0",
        2,
    ),
    "a run without its kind": (
        lambda world, folder: _evaluate(world, f"{world.sections}/evaluation.yaml", run="rvlr"),
        r"--run': found 'rvlr'; give initial-, teacher- or student-",
        2,
    ),
    "no captions of each image": (
        _text("", "relevance", "--captions", "c.json", "--output", "r.npy", "--captions-per-image", "0"),
        r"--captions-per-image': found '0'; give a whole number from 1",
        2,
    ),
    "stems with coco-caption": (
        _text("", "relevance", "--captions", "c.json", "--output", "r.npy", "--scorer", "coco-caption", "--stemmer"),
        r"stemmer is true, but scorer 'coco-caption' has no stemmer",
        1,
    ),
    "a scorer that is none": (
        _text("", "relevance", "--captions", "c.json", "--output", "r.npy", "--scorer", "rouge-scor"),
        r"scorer: found 'rouge-scor' .*did you mean 'rouge-score'\?",
        1,
    ),
    "a misspelt source to fetch": (_text("", "data", "fetch", "coco-val204"), r"mean 'coco-val2014'\?", 1),
    "a misspelt source in a file": (
        _text("coco-val204: {size: 3}\n", "data", "fetch", "bert-config", "--sources", "my.yaml"),
        r"my\.yaml: .*coco-val204: no source has this name",
        1,
    ),
    "a section that is no JSON": (
        _text("", "freeze", "--section", "{'a': 1}", "--output", "s.yaml"),
        r"--section: line 1: not valid JSON",
        1,
    ),
    "a trained teacher without a model": (_extract(), r"--model is missing: .*teacher\.yaml is a trained teacher", 1),
    "relevance that nothing needs": (
        lambda world, folder: _train(world, "teacher", relevance=f"{world.relevance}/test.npy"),
        r"--relevance: training\.selected_by is r_mean, which needs none; leave it out",
        1,
    ),
    "a pair with a model": (
        _extract("--model", "MODEL", pair=True),
        r"--model: pair\.yaml is a pair .*leave it out",
        1,
    ),
    "show of a hostile file": (
        _text(_multiplying("[x, x]", "[*, *, *, *, *]", 30), "config", "show", "my.yaml"),
        r"my\.yaml: line \d+: more than 20,000 values",
        1,
    ),
    "a folder as a file": (_text("", "config", "check", "."), r"\.: a folder found, a file expected", 1),
    "a BERT without config.json": (_bert_without("config.json"), r"text\.weights: no config\.json in bert", 1),
    "own images that are not there": (
        _study(("dataset", {"kind": "custom", "images": "photos", "captions": "c.csv"})),
        r"dataset\.images: photos: nothing there; .*dataset\.captions: c\.csv: nothing there",
        1,
    ),
    "a subset larger than own test images": (
        _own_data(100, "first-5", "first-10"),
        r"1 fault .*evaluation\.subsets: 'first-10', but test has 10 images",
        1,
    ),
}

CASES = [
    *(Case(name, arrange, (says,)) for name, (arrange, says) in FILES.items()),
    *(Case(name, _study(*changes), (rf"my\.yaml: .*{says}",)) for name, (changes, says) in VALUES.items()),
    *(Case(name, arrange, (says,), status) for name, (arrange, says, status) in COMMANDS.items()),
]
