"""Checks across sections: names that are not defined, sizes that do not fit, another kind of file.

Enters: the mappings that were read, or the validated study. Leaves: faults, each "key: what was found; what to do".
"""

import unicodedata
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvlr.config.base import Section
from rvlr.config.datasets import Coco
from rvlr.config.models import Model
from rvlr.config.training import SingleModalTeacher, Student, TrainedTeacher
from rvlr.errors import show
from rvlr.faults import did_you_mean, path

if TYPE_CHECKING:
    from rvlr.config.study import Study

DOWNLOADS = Path("downloads")
JUDGED_IMAGES, JUDGED_CAPTIONS = 5_000, 5
"""The COCO test images that people judged, and how many captions of each."""


def references(data: dict[str, Any]) -> list[str]:
    """Names that are not defined, or defined twice. The input is not validated yet, so that these faults are reported
    together with those of the sections."""
    groups = [data.get(group, {}) for group in ("models", "teachers", "students")]
    if not all(isinstance(members, dict) for members in groups):
        return []
    models, teachers, students = groups
    faults = [
        f"{path(('models', name))}: {name!r} stands for a model and a teacher; rename one"
        for name in models
        if name in teachers
    ]
    faults += [*_alike("models", models), *_alike("teachers", teachers), *_alike("students", students)]
    trained = [name for name, one in teachers.items() if not isinstance(one, dict) or one.get("kind") == "retrieval"]
    for name in trained:
        model = teachers[name].get("model") if isinstance(teachers[name], dict) else None
        if model is None and len(models) > 1:
            faults.append(f"{path(('teachers', name, 'model'))}: missing; choose one of {_listed(models)}")
        elif model is not None:
            faults += _unknown(("teachers", name, "model"), "model", model, models)
    if teachers and not trained and not students:
        faults.append("students: none, and no teacher is trained; there is nothing to do")
    starts = [*models, *trained]
    for name, student in students.items():
        teacher, start = (student.get(key) if isinstance(student, dict) else None for key in ("teacher", "start"))
        missing = _unknown(("students", name, "teacher"), "teacher", teacher, teachers) if teacher is not None else []
        faults += missing
        if start is not None:
            faults += _unknown(("students", name, "start"), "model or trained teacher", start, starts)
        elif teacher is not None and not missing and teacher not in trained and len(models) > 1:
            faults.append(f"{path(('students', name, 'start'))}: missing; choose one of {_listed(starts)}")
    return faults


def _unknown(key: tuple[str, ...], what: str, name: Any, known: Iterable[str]) -> list[str]:
    if isinstance(name, str) and name in known:
        return []
    defined = f"defined: {_listed(known)}{did_you_mean(name, known)}"
    return [f"{path(key)}: no {what} {show(name)}; {defined}"] if isinstance(name, str) else []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(path((name,)) for name in names) or "none"


def _alike(group: str, names: Iterable[str]) -> list[str]:
    """Names that are the same to some file systems: results of one would overwrite those of the other."""
    seen: dict[str, str] = {}
    faults = []
    for name in names:
        first = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            faults.append(f"{path((group, name))}: {first!r} differs in capitals or accents alone; rename one")
    return faults


# --- what would fail only after hours ------------------------------------------------------------------------------


def late(study: "Study") -> list[str]:
    """Faults of a validated study that would end it only after hours: weights that are not fetched, since they are not
    below the folder of downloads; subsets as large as the test split; scenes of a data set that does not know them;
    people's judgements that are not of the test split, or are not installed; a batch larger than the training split."""
    faults = []
    for key, weights in weights_of(study):
        path = Path(weights)
        if path.is_relative_to(DOWNLOADS) and study.downloads != DOWNLOADS and not path.exists():
            wanted = study.downloads / path.relative_to(DOWNLOADS)
            faults.append(f"{key}: {path} would not be fetched, since downloads is {study.downloads}; write {wanted}")
    if study.evaluation.scene_relevance and not study.dataset.knows_scenes:
        faults.append(
            f"evaluation.scene_relevance: true, but what images show is known of the data set shapes alone, not of "
            f"{study.dataset.kind!r}; leave it out"
        )
    faults += subsets(study.evaluation.subsets, study.dataset.test_images)
    return faults + _judgements(study) + _batches(study)


def weights_of(study: "Study") -> Iterator[tuple[str, str]]:
    """The key of the weights of every model, and the weights."""
    models: dict[str, Model | SingleModalTeacher] = {f"models.{name}": one for name, one in study.models.items()}
    for name, teacher in study.teachers.items():
        if isinstance(teacher, SingleModalTeacher):
            models[f"teachers.{name}"] = teacher
    for key, model in models.items():
        yield f"{key}.vision.weights", str(model.vision.weights)
        yield f"{key}.text.weights", str(model.text.weights)


def subsets(names: Iterable[str], images: int | None) -> list[str]:
    """Faults of subsets that are not smaller than the test split. images: of the test split, None if not known."""
    return [
        f"evaluation.subsets: {name!r}, but test has {images:,} images; name fewer than that"
        for name in names
        if images is not None and int(name.partition("-")[2]) >= images
    ]


def _judgements(study: "Study") -> list[str]:
    """Faults of people's judgements: they are of COCO's test images and the first captions of each, which own
    photographs may be a copy of."""
    asked, dataset = study.evaluation.judgements, study.dataset
    wanted = [name for name, value in asked if value]
    keys = " and ".join(f"evaluation.judgements.{name}" for name in wanted)
    faults = []
    if wanted and dataset.kind not in ("coco", "custom"):
        faults.append(
            f"{keys}: true, but people judged COCO's images alone, and this data set is {dataset.kind!r}; leave it out"
        )
    if wanted and isinstance(dataset, Coco):
        kept = dataset.captions_per_image
        if kept is not None and kept < JUDGED_CAPTIONS:
            faults.append(f"{keys}: true, but dataset.captions_per_image is {kept}; people judged {JUDGED_CAPTIONS}")
        if dataset.counts.test not in (None, JUDGED_IMAGES):
            found = f"dataset.counts.test is {dataset.counts.test:,}"
            faults.append(f"{keys}: true, but {found}; people judged all {JUDGED_IMAGES:,} COCO test images")
    if asked.eccv and find_spec("eccv_caption") is None:
        faults.append("evaluation.judgements.eccv: true, but eccv_caption is not installed; pip install eccv_caption")
    return faults


def _batches(study: "Study") -> list[str]:
    """Faults of batches that are larger than the training split, if its size is known: no step would be made."""
    captions = study.dataset.train_captions
    teachers = {f"teachers.{name}": one for name, one in study.teachers.items() if isinstance(one, TrainedTeacher)}
    runs: dict[str, TrainedTeacher | Student] = {**teachers}
    runs |= {f"students.{name}": one for name, one in study.students.items()}
    return [
        f"{key}.training.batch_size: {one.batch_size:,}, but train has {captions:,} captions; lower it"
        for key, one in runs.items()
        if captions is not None and one.batch_size > captions
    ]


# --- one kind of file for another ----------------------------------------------------------------------------------


def other_kind(data: dict[str, Any], wanted: Iterable[Any], kinds: Iterable[type[Section]]) -> str | None:
    """A message if the keys of `data` show that it is another of `kinds` than the `wanted` sections, else None."""
    keys = {key for key in data if isinstance(key, str)}
    fits = [kind.title for kind in kinds if keys and keys <= kind.model_fields.keys()]
    own = [kind.title for kind in kinds if kind in wanted]
    if not fits or not own or any(what in fits for what in own):
        return None
    shown = f"the key{'s' * (len(keys) > 1)} {', '.join(sorted(keys))}"
    return f"{fits[0]} found (it has {shown}), {' or '.join(own)} expected"
