"""What no single section can know: names that stand for nothing, files that are not there, sizes that do not fit.

Enters: what was read, as mappings, or the validated whole. Leaves: faults, each "key: what was found; what to do".
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rvlr.faults import did_you_mean

DOWNLOADS = Path("downloads")

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


def references(data: dict[str, Any]) -> list[str]:
    """Names that stand for nothing, or for two things. Works on what was read, so that these faults are reported
    together with those of the sections."""
    groups = {
        group: {name: member for name, member in members.items() if isinstance(member, dict)}
        for group in ("models", "teachers", "students")
        if isinstance(members := data.get(group) or {}, dict)
    }
    if len(groups) < 3:
        return []
    models, teachers, students = (groups[group] for group in ("models", "teachers", "students"))
    faults = [
        f"models.{name}: {name!r} stands for a model and a teacher; rename one" for name in models if name in teachers
    ]
    faults += [fault for group, members in groups.items() for fault in _alike(group, members)]
    trained = [name for name, member in teachers.items() if member.get("kind") == "retrieval"]
    for name in trained:
        model = teachers[name].get("model")
        if model is None and len(models) > 1:
            faults.append(f"teachers.{name}.model: missing; choose one of {', '.join(models)}")
        elif model is not None:
            faults += _unknown(f"teachers.{name}.model", "model", model, models)
    if teachers and not trained and not students:
        faults.append("students: none, and no teacher is trained; there is nothing to do")
    starts = [*models, *trained]
    for name, student in students.items():
        teacher, start = student.get("teacher"), student.get("start")
        missing = _unknown(f"students.{name}.teacher", "teacher", teacher, teachers) if teacher is not None else []
        faults += missing
        if start is not None:
            faults += _unknown(f"students.{name}.start", "model or trained teacher", start, starts)
        elif teacher is not None and not missing and teacher not in trained and len(models) > 1:
            faults.append(f"students.{name}.start: missing; choose one of {', '.join(starts)}")
    return faults


def _unknown(key: str, what: str, name: Any, known: Iterable[str]) -> list[str]:
    if isinstance(name, str) and name in known:
        return []
    defined = f"defined: {', '.join(known) or 'none'}{did_you_mean(name, known)}"
    return [f"{key}: no {what} {name!r}; {defined}"] if isinstance(name, str) else []


def _alike(group: str, names: Iterable[str]) -> list[str]:
    """Names that some file systems do not tell apart: results of one would overwrite those of the other."""
    seen: dict[str, str] = {}
    faults = []
    for name in names:
        first = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            faults.append(f"{group}.{name}: {first!r} differs in capitals or accents alone; rename one")
    return faults


# --- what would fail only after hours ------------------------------------------------------------------------------


def late(study: Any) -> list[str]:
    """What a validated `Config` asks for that would fail only after hours: weights that are not there, subsets as large
    as the test split, a batch larger than the training split."""
    holders: dict[str, Any] = {f"models.{name}": model for name, model in study.models.items()}
    holders |= {f"teachers.{name}": pair for name, pair in study.teachers.items() if pair.kind == "single-modal"}
    faults = []
    for key, holder in holders.items():
        for part, check in (("vision", _vision_file), ("text", _text_folder)):
            weights = str(getattr(holder, part).weights)
            if Path(weights).is_relative_to(study.downloads):
                continue  # fetched when they are needed
            text = _not_fetched(Path(weights), study.downloads) or check(weights)
            faults += [f"{key}.{part}.weights: {text}"] if text else []
    dataset = study.dataset
    images = dataset.test if dataset.kind == "shapes" else dataset.counts.test if dataset.kind != "custom" else None
    faults += subsets(study.evaluation.subsets, images) + _batches(study)
    return faults


def subsets(names: Iterable[str], images: int | None) -> list[str]:
    """Subsets of the test split that are as large as it, or larger; none if its number of `images` is not known."""
    return [
        f"evaluation.subsets: {name!r}, but test has {images:,} images; name fewer than that"
        for name in (names if images is not None else ())
        if int(name.partition("-")[2]) >= images
    ]


def _batches(study: Any) -> list[str]:
    """Batches that the training split cannot fill, where its number of captions is known: not a step would be made."""
    if study.dataset.kind != "shapes":
        return []
    captions = study.dataset.train * study.dataset.captions_per_image
    runs = {f"teachers.{name}": one for name, one in study.teachers.items() if one.kind == "retrieval"}
    runs |= {f"students.{name}": one for name, one in study.students.items()}
    return [
        f"{key}.training.batch_size: {one.training.batch_size:,}, but train has {captions:,} captions; lower it"
        for key, one in runs.items()
        if one.training.batch_size > captions
    ]


def _not_fetched(weights: Path, downloads: Path) -> str | None:
    if not weights.is_relative_to(DOWNLOADS) or weights.exists():
        return None
    wanted = downloads / weights.relative_to(DOWNLOADS)
    return f"{weights} would not be fetched, since downloads is {downloads}; write {wanted}"


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


# --- one kind of file for another ----------------------------------------------------------------------------------


def other_kind(data: Any, wanted: Any, kinds: dict[str, Any]) -> str | None:
    """What `data` is, by its keys, if that is another of `kinds` than the `wanted` one; None if it may be that."""
    if not isinstance(data, dict) or not data:
        return None
    keys = {key for key in data if isinstance(key, str)}
    fits = {what: kind for what, kind in kinds.items() if keys <= kind.model_fields.keys()}
    own = [what for what, kind in kinds.items() if kind in wanted]
    if any(what in fits for what in own) or not fits:
        return None
    wants = " or ".join(own) or "sources by name"
    return (
        f"{next(iter(fits))} found (it has the key{'s' * (len(keys) > 1)} {', '.join(sorted(keys))}), {wants} expected"
    )
