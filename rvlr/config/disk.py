"""What a study needs on the disk, looked at before anything runs: own data and weights.

Enters: a validated `Config`. Leaves: faults, each "key: what was found; what to do". Weights below the downloads are
left out, since they are fetched when they are needed, and so are names on the hub.
"""

import re
from pathlib import Path
from typing import Any

from rvlr.config.checks import subsets, weights_of
from rvlr.errors import UserError
from rvlr.faults import did_you_mean

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_VISION_FILES = (".safetensors", ".pth")
_BERT_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


def missing(study: Any) -> list[str]:
    """What is not there, or cannot be what it should be."""
    faults = []
    for key, weights in weights_of(study):
        check = _vision_file if key.endswith(".vision.weights") else _text_folder
        text = None if Path(weights).is_relative_to(study.downloads) else check(weights)
        faults += [f"{key}: {text}"] if text else []
    return faults + (_own_data(study) if study.dataset.kind == "custom" else [])


def _own_data(study: Any) -> list[str]:
    """Own images and captions that are not there, and subsets for which the captions file leaves too few images."""
    dataset, faults = study.dataset, []
    if not dataset.images.is_dir():
        found = "a file" if dataset.images.exists() else "nothing there"
        faults.append(f"dataset.images: {dataset.images}: {found}; give the folder of your images")
    if not dataset.captions.is_file():
        found = "a folder" if dataset.captions.exists() else "nothing there"
        faults.append(f"dataset.captions: {dataset.captions}: {found}; give your captions file")
    elif study.evaluation.subsets:
        faults += subsets(study.evaluation.subsets, _test_images(dataset))
    return faults


def _test_images(dataset: Any) -> int | None:
    """How many images the test split will hold; None if the captions file has faults, which its preparation lists."""
    from rvlr.data import captions_file
    from rvlr.data.records import split_counts

    if dataset.captions.suffix.lower() not in captions_file.READERS:
        return None
    try:
        entries, wrong = captions_file.read(dataset.captions)
    except UserError:
        return None
    if wrong:
        return None
    splits = {entry.image: entry.split for entry in entries}
    if any(splits.values()):
        return sum(split == "test" for split in splits.values())
    return split_counts(len(splits), dataset.split.val, dataset.split.test)["test"]


def _vision_file(weights: str) -> str | None:
    if weights in ("random", "pretrained"):
        return None
    path, allowed = Path(weights), "give a .safetensors or .pth file, 'pretrained' or 'random'"
    if not path.exists():
        return f"no file {weights}; {allowed}{did_you_mean(weights, ('random', 'pretrained'))}"
    if not path.is_file():
        return f"{weights} is a folder, not a file; {allowed}"
    if path.suffix not in _VISION_FILES:
        return f"{weights} ends in {path.suffix!r}; {allowed}"
    return None if _readable(path) else f"{weights} may not be read; change its permissions"


def names_a_path(weights: str) -> bool:
    """Whether weights that are a folder or a name on the hub can only be meant as a path: they lie here or begin in a
    folder that does, or no name on the hub looks like that."""
    path = Path(weights)
    return not _HUB_NAME.fullmatch(weights) or path.exists() or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())


def _text_folder(weights: str) -> str | None:
    if weights == "random" or not names_a_path(weights):
        return None
    path, allowed = Path(weights), "give the folder of a BERT, or its name on the hub"
    if not path.exists():
        return f"no folder {weights}; {allowed}"
    if not path.is_dir():
        return f"{weights} is a file, not a folder; {allowed}"
    if not (path / "config.json").is_file():
        return f"{weights} holds no config.json; {allowed}"
    for what, names in (("weights", _BERT_WEIGHTS), ("tokenizer", _TOKENIZERS)):
        there = [path / name for name in names if (path / name).is_file()]
        if not there:
            return f"{weights} holds no {what} ({' or '.join(names[:2])}); {allowed}"
        if not _readable(there[0]):
            return f"{there[0]} may not be read; change its permissions"
    return None


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
