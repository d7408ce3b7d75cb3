"""What a study needs on the disk, looked at before anything runs: own data and weights.

Enters: a validated `Config`. Leaves: faults, each "key: what was found; what to do". Weights below the downloads are
left out, since they are fetched when they are needed, and so are names on the hub.
"""

from pathlib import Path
from typing import Any

from rvlr.config.checks import subsets, weights_of
from rvlr.errors import UserError
from rvlr.faults import did_you_mean


def missing(study: Any) -> list[str]:
    """What is not there, or cannot be what it should be."""
    faults = []
    for key, weights in weights_of(study):
        if Path(weights).is_relative_to(study.downloads):
            continue
        try:
            (_check_vision if key.endswith(".vision.weights") else _check_text)(weights, key)
        except UserError as error:
            faults.append(str(error))
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


def _check_vision(weights: str, key: str) -> None:
    """Raise UserError unless vision weights are words, or a file that can be read."""
    from rvlr.models.hub import near

    if weights in ("random", "pretrained"):
        return
    path, allowed = Path(weights), "give a .safetensors or .pth file, 'pretrained' or 'random'"
    if not path.exists():
        meant = did_you_mean(weights, ("random", "pretrained"))
        raise UserError(f"{key}: no file {path}{near(path)}; {allowed}{meant}")
    if not path.is_file():
        raise UserError(f"{key}: {path} is a folder, not a file; {allowed}")
    _check_readable(path, key)


def _check_text(weights: str, key: str) -> None:
    """Raise UserError unless text weights are `random`, a name on the hub, or a folder with all that a BERT needs."""
    from rvlr.models import hub

    folder = None if weights == "random" else hub.local(weights, key)
    if folder is None:
        return
    tokenizer = (*hub.VOCABULARIES, "tokenizer_config.json")
    for what, names in (("config.json", ("config.json",)), ("weights", hub.WEIGHTS), ("tokenizer", tokenizer)):
        file = hub.file_in(folder, names)
        if file is None:
            several = f" (none of {', '.join(names)})" if len(names) > 1 else ""
            raise UserError(f"{key}: no {what} in {folder}{several}; give the folder of a BERT, or its name on the hub")
        _check_readable(file, key)


def _check_readable(path: Path, key: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{key}: {path}: {error.strerror}; change its permissions or give another path") from None
