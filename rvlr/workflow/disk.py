"""What a study needs on the disk, looked at before anything runs: own data and weights.

Enters: a validated `Study`. Leaves: faults, each "key: what was found; what to do". Weights below the downloads are
left out, since they are fetched when they are needed, and so are names on the hub.
"""

import unicodedata
from collections.abc import Callable
from pathlib import Path

from rvlr.config import Custom, Study, refuse
from rvlr.config.checks import subsets, weights_of
from rvlr.data.stored import FILES
from rvlr.errors import UserError
from rvlr.faults import did_you_mean


def check(study: Study, source: str) -> None:
    """Raise UserError listing what `study` needs on the disk and does not find there: own data and local weights."""
    refuse(_missing(study), source)


def _missing(study: Study) -> list[str]:
    """What is not there, or cannot be what it should be."""
    faults = []
    for key, weights in weights_of(study):
        if Path(weights).is_relative_to(study.downloads):
            continue
        try:
            (_check_vision if key.endswith(".vision.weights") else _check_text)(weights, key)
        except UserError as error:
            faults.append(str(error))
        except OSError as error:  # in a folder that may not be entered
            faults.append(f"{key}: {weights}: {error.strerror}; change its permissions or give another path")
    for teacher, folders in study.stored_features().items():
        for split, folder in folders.items():
            faults += _features(f"teachers.{teacher}.features.{split}", folder)
    return faults + (_own_data(study.dataset, study) if isinstance(study.dataset, Custom) else [])


def _features(key: str, folder: Path) -> list[str]:
    """A folder of features that is not there, or lacks a file."""
    faults = _absent(key, folder, Path.is_dir, "a folder of features")
    if not faults:
        for name in FILES:
            faults += _absent(key, folder / name, Path.is_file, f"a folder with {', '.join(FILES)}")
    return faults


def _own_data(dataset: Custom, study: Study) -> list[str]:
    """Own images and captions that are not there, and subsets for which the captions file leaves too few images."""
    faults = _absent("dataset.images", dataset.images, Path.is_dir, "the folder of your images")
    absent = _absent("dataset.captions", dataset.captions, Path.is_file, "your captions file")
    if not absent and study.evaluation.subsets:
        faults += subsets(study.evaluation.subsets, _test_images(dataset))
    return faults + absent


def _absent(key: str, path: Path, is_right: Callable[[Path], bool], wanted: str) -> list[str]:
    try:
        if is_right(path):
            return []
        found = ("a folder" if path.is_dir() else "a file") if path.exists() else f"nothing there{_spelt(path)}"
    except OSError as error:
        found = error.strerror or str(error)
    return [f"{key}: {path}: {found}; give {wanted}"]


def _spelt(path: Path) -> str:
    """The end of a message, if the folder holds the same name with its accents stored in the other of two ways."""
    names = path.parent.iterdir() if path.parent.is_dir() else ()
    same = any(unicodedata.normalize("NFC", one.name) == unicodedata.normalize("NFC", path.name) for one in names)
    return ", but the same name with its accents stored in another way (Unicode NFC, NFD): copy it" if same else ""


def _test_images(dataset: Custom) -> int | None:
    """How many images the test split will hold; None if the captions file has faults, which its preparation lists."""
    from rvlr.data.records import split_counts
    from rvlr.datasets import captions_file

    if dataset.captions.suffix.lower() not in captions_file.READERS:
        return None
    try:
        entries, wrong = captions_file.read(dataset.captions)
    except UserError:
        return None
    if wrong:
        return None
    splits = {entry.image: entry.split for entry in entries}
    if any(splits.values()) and not dataset.split.redraw:
        return sum(split == "test" for split in splits.values())
    return split_counts(len(splits), dataset.split.val, dataset.split.test)["test"]


def _check_vision(weights: str, key: str) -> None:
    """Raise UserError unless vision weights are words, or a file that can be read."""
    if weights in ("random", "pretrained"):
        return
    from rvlr.models.hub import near

    path, allowed = Path(weights), "give a .safetensors or .pth file, 'pretrained' or 'random'"
    if not path.exists():
        meant = did_you_mean(weights, ("random", "pretrained"))
        raise UserError(f"{key}: no file {path}{_spelt(path) or near(path)}; {allowed}{meant}")
    if not path.is_file():
        raise UserError(f"{key}: {path} is a folder, not a file; {allowed}")
    _check_readable(path, key)


def _check_text(weights: str, key: str) -> None:
    """Raise UserError unless text weights are `random`, a name on the hub, or a folder with all that a BERT needs."""
    if weights == "random":
        return
    from rvlr.models import hub

    folder = hub.local(weights, key)
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
