"""Folders of unfinished trainings that are somebody else's or damaged, and what stops a training in the middle."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from storm import Case, World

Arrange = Callable[[World, Path], list[str]]
OWN = r"rvlr did not make that folder for a training"
OVER = (
    r"no sound state to resume from: .*To start over, remove that folder and run the same command again: rm -r resume"
)
PREVIOUS = r"training continues from previous\.pt, step 6"


def _train(world: World, section: str = "unfinished", seed: int = 0, **changed: str) -> list[str]:
    options = {
        "config": f"{world.sections}/{section}.yaml",
        "start-model": str(world.model),
        "splits": f"{world.data}/splits",
        "resume": "resume",
        "output": "out",
        **changed,
    }
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["train-student" if "features" in options else "train-teacher", "--seed", str(seed), *named]


def _folder(*names: str, resume: str = "resume", **changed: str) -> Arrange:
    """`--resume` is a folder of the user's with these files in it; names that end in / are folders."""

    def arrange(world: World, folder: Path) -> list[str]:
        for name in names:
            path = folder / "resume" / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_text("my own")
        return _train(world, resume=resume, **changed)

    return arrange


def _spoilt(*names: str, by: Callable[[Path], object], seed: int = 0, **changed: str) -> Arrange:
    """A copy of the unfinished training, of which something is spoilt."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.unfinished, folder / "resume")
        for name in names:
            by(folder / "resume" / name)
        return _train(world, seed=seed, **changed)

    return arrange


def _both(by: Callable[[Path], object]) -> Arrange:
    return _spoilt("checkpoint.pt", "previous.pt", by=by)


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def _mine(path: Path) -> None:
    path.write_text("my own")


def _link(path: Path) -> None:
    """In its place, a link to what the user keeps somewhere else."""
    own = path.parent.parent / "own"
    path.rename(own)
    path.symlink_to(own)


def _save(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        torch.save(change(torch.load(path, weights_only=True)), path)

    return spoil


class _Object:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def _linked(world: World, folder: Path) -> list[str]:
    (folder / "photos").mkdir()
    _mine(folder / "photos/cat.jpg")
    (folder / "resume").symlink_to("photos")
    return _train(world)


def _broken_link(world: World, folder: Path) -> list[str]:
    (folder / "resume").symlink_to("nowhere")
    return _train(world)


def _as_file(**changed: str) -> Arrange:
    def arrange(world: World, folder: Path) -> list[str]:
        _mine(folder / "notes.txt")
        return _train(world, **changed)

    return arrange


def _copied(part: str) -> Arrange:
    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(getattr(world, part), folder / "resume")
        return _train(world)

    return arrange


def _student(world: World, folder: Path) -> list[str]:
    return _folder("notes.txt", config=f"{world.sections}/student.yaml", features=str(world.features))(world, folder)


def _learning(**training: object) -> Arrange:
    """A training with other settings; `scale` multiplies the start model's weights, `temperature` replaces one."""

    def arrange(world: World, folder: Path) -> list[str]:
        changed = dict(training)
        shutil.copytree(world.model, folder / "model")
        weights = load_file(folder / "model/model.safetensors")
        scale, temperature = changed.pop("scale", 1.0), changed.pop("temperature", None)
        weights = {name: value * scale if value.ndim > 1 else value for name, value in weights.items()}
        if temperature is not None:
            weights["temperature"] = torch.tensor(temperature)
        save_file(weights, folder / "model/model.safetensors")
        settings = {"epochs": 2, "batch_size": 8, "workers": 0, "learning_rate": 1e-3, **changed}
        (folder / "section.json").write_text(json.dumps({"kind": "retrieval", "training": settings}))
        return _train(world, **{"config": "section.json", "start-model": "model"})

    return arrange


def _bad_image(
    split: str, command: Callable[[World], list[str]], content: bytes = b"\xff\xd8\xff\xe0 no image"
) -> Arrange:
    """One image of the split is spoilt after the data set was made; two worker processes read them."""

    def arrange(world: World, folder: Path) -> list[str]:
        for part in ("splits", "images"):
            shutil.copytree(world.data / part, folder / part)
        sorted((folder / "images" / split).iterdir())[3].write_bytes(content)
        for name in ("unfinished", "evaluation"):
            text = (world.sections / f"{name}.yaml").read_text()
            (folder / f"{name}.yaml").write_text(text.replace("workers: 0", "workers: 2"))
        return command(world)

    return arrange


def _train_here(world: World) -> list[str]:
    return _train(world, config="unfinished.yaml", splits="splits")


def _extract_here(world: World) -> list[str]:
    files = ["--config", "unfinished.yaml", "--model", str(world.model), "--split", "splits/train.jsonl"]
    return ["extract", *files, "--output", "features"]


def _evaluate_here(world: World) -> list[str]:
    files = ["--config", "evaluation.yaml", "--model", str(world.model), "--split", "splits/test.jsonl"]
    more = ["--relevance", f"{world.relevance}/test.npy", "--run", "initial-base", "--seed", "0"]
    return ["evaluate", *files, *more, "--output", "eval"]


FOREIGN = {
    "a folder of photographs": (_folder("cat.jpg", "dog.jpg"), (r"--resume resume: contains cat\.jpg", OWN)),
    "a folder with a hidden file only": (_folder(".git/config"), (r"contains \.git", OWN)),
    "a folder with an empty folder": (_folder("photos/"), (r"contains photos", OWN)),
    "a folder with a checkpoint of another program": (_folder("checkpoint.pt"), (r"contains checkpoint\.pt", OWN)),
    "a folder with metrics of another program": (_folder("metrics.jsonl", "tensorboard/e"), (OWN,)),
    "the working folder": (_folder("thesis.tex", resume="."), (r"--resume \.: contains resume|lies inside",)),
    "a model folder": (_copied("model"), (OWN,)),
    "a folder of features": (_copied("features"), (OWN,)),
    "a folder of results": (_copied("evaluation"), (OWN,)),
    "a link to a folder of photographs": (_linked, (r"contains cat\.jpg", OWN)),
    "a link to nothing": (_broken_link, (r"--resume resume: not a folder",)),
    "a file": (_as_file(resume="notes.txt"), (r"--resume notes\.txt: not a folder; give a path",)),
    "below a file": (_as_file(resume="notes.txt/x"), (r"notes\.txt.*a folder",)),
    "a device": (_as_file(resume="/dev/null"), (r"/dev/null: not a folder",)),
    "of a name too long": (_as_file(resume="r" * 300), (r"File name too long", r"give a shorter path")),
    "of a student, the user's": (_student, (r"contains notes\.txt", OWN)),
    "with a file of the user's": (_spoilt("thesis.tex", by=_mine), (r"move thesis\.tex to another place",)),
    "with a copy of a checkpoint": (_spoilt("checkpoint.pt.bak", by=_mine), (r"move checkpoint\.pt\.bak",)),
    "with a folder of the user's": (_spoilt("plots", by=Path.mkdir), (r"move plots to another place",)),
    "with best weights of no step": (_spoilt("best-final.safetensors", by=_mine), (r"move best-final\.safetensors",)),
    "with events of the user's": (_spoilt("tensorboard/notes", by=_mine), (r"move tensorboard/notes",)),
    "whose tensorboard is a link": (_spoilt("tensorboard", by=_link), (r"move tensorboard to another place",)),
    "whose checkpoint is a link": (_spoilt("checkpoint.pt", by=_link), (r"move checkpoint\.pt to another place",)),
    "without its mark": (_spoilt(".rvlr-resume", by=Path.unlink), (OWN, r"\.rvlr-resume is not in it")),
}
RECOVERED = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": _half,
    "with one bit changed": _flip,
    "of another model": _save(lambda state: {**state, "model": {"w": torch.zeros(2)}}),
    "edited with PyTorch": _save(lambda state: {**state, "step": 2, "best_score": -1.0}),
    "missing": Path.unlink,
}
HOPELESS = {
    "both checkpoints are empty": (_both(lambda path: path.write_bytes(b"")), (OVER, r"its 0 bytes")),
    "both checkpoints are zeros": (_both(_zeros), (OVER,)),
    "both checkpoints have no keys": (_both(_save(lambda state: {})), (OVER,)),
    "both checkpoints hold code": (_both(_save(lambda state: _Object())), (OVER,)),
    "both checkpoints are JSON": (_both(lambda path: path.write_text('{"step": 3}')), (OVER,)),
    "the best weights are missing": (_spoilt("best-6.safetensors", by=Path.unlink), (OVER, r"best-6\.safetensors")),
    "the best weights are damaged": (_spoilt("best-6.safetensors", by=_flip), (OVER, r"best-6\.safetensors")),
}
REPAIRED = {
    "metrics.jsonl of NUL bytes": ("metrics.jsonl", _zeros),
    "metrics.jsonl cut": ("metrics.jsonl", _half),
    "metrics.jsonl missing": ("metrics.jsonl", Path.unlink),
}
UNREADABLE = r"ERROR image .*03\.png.{0,2} (is not an image|cannot be read)"
FAST = r"lower training\.learning_rate or set training\.clip_norm"
CAUSES = {
    "weights of 1e30": (_learning(scale=1e30), (r"step 1: .*before any weight has changed.*weights of model up to",)),
    "weights of 1e30 in bf16": (
        _learning(scale=1e30, mixed_precision="bf16"),
        (r"step 1: .*set training\.mixed_precision: 'no'",),
    ),
    "a learning rate of 1e30": (_learning(learning_rate=1e30, warmup=0), (r"after 1 finite step", FAST)),
    "a temperature below 0": (_learning(temperature=-0.1), (r"model/model\.safetensors: temperature is -0\.1",)),
    "a temperature of 0": (_learning(temperature=0.0), (r"temperature is 0, but it must be positive",)),
    "a training image that is none": (
        _bad_image("train", _train_here),
        (UNREADABLE,),
    ),
    "an image that is none, for features": (
        _bad_image("train", _extract_here),
        (UNREADABLE,),
    ),
    "an image that is none, of test": (
        _bad_image("test", _evaluate_here),
        (UNREADABLE,),
    ),
}
PLAIN = r"^(?!.*(Caught|worker process|Original Traceback))"
CASES = [
    *(Case(f"resume folder: {name}", arrange, says) for name, (arrange, says) in FOREIGN.items()),
    *(
        Case(f"checkpoint {name}", _spoilt("checkpoint.pt", by=by), (r"checkpoint\.pt is", PREVIOUS), 0, changes=True)
        for name, by in RECOVERED.items()
    ),
    *(Case(name, arrange, says) for name, (arrange, says) in HOPELESS.items()),
    *(
        Case(name, _spoilt(part, by=by), (r"was missing or damaged; it is written again", r"step 8"), 0, changes=True)
        for name, (part, by) in REPAIRED.items()
    ),
    Case("tensorboard missing", _spoilt("tensorboard", by=shutil.rmtree), (r"resumed at step 8",), 0, changes=True),
    Case(
        "another seed, and a damaged checkpoint",
        _spoilt("checkpoint.pt", by=_half, seed=1),
        (r"previous\.pt belongs to other settings or inputs; training starts over",),
        0,
        changes=True,
    ),
    Case(  # what is trained by then is kept
        "an empty image of val",
        _bad_image("val", _train_here, b""),
        (r"ERROR image .*03\.png.{0,2} is an empty file", PLAIN),
        changes=True,
    ),
    Case("resume is an empty string", _as_file(resume=""), (r"--resume is empty",), 2),
    Case("output below a file", _as_file(output="notes.txt/out"), (r"--output notes\.txt/out",)),
    *(Case(name, arrange, (*says, PLAIN)) for name, (arrange, says) in CAUSES.items()),
]
