"""Frozen sections: the parts of the configuration that stages read, one file each.

Every setting that reaches a result is in a section, and every stage has its sections among its inputs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rvlr import files
from rvlr.config import Scoring, StoredTeacher, Study, TrainedTeacher, runs
from rvlr.errors import UserError

Sections = Mapping[str, Mapping[str, Any]]


def sections(settings: Study) -> Sections:
    """Every section by name, defaults filled in; JSON values.

    Names that the configuration leaves to a default are filled in too (the model of a teacher, the start of a student),
    because that default depends on other sections.
    """
    evaluation = settings.evaluation
    scoring = Scoring(**{field: getattr(evaluation, field) for field in Scoring.model_fields})
    found = {
        "dataset": settings.dataset.model_dump(mode="json"),
        "relevance": evaluation.relevance.model_dump(mode="json"),
        "evaluation": scoring.model_dump(mode="json"),
        "report": {"runs": settings.evaluated_runs(), "seeds": settings.seeds},
        "sheets": {"seed": settings.seeds[0], "queries": evaluation.queries_shown},
    }
    if settings.dataset.image_sources:
        found["downloads"] = {"folder": str(settings.downloads)}
    found |= {runs.initial(name): model.model_dump(mode="json") for name, model in settings.models.items()}
    for name, teacher in settings.teachers.items():
        if isinstance(teacher, StoredTeacher):  # what its features are, their files say
            continue
        model = {"model": settings.teacher_model(name)} if isinstance(teacher, TrainedTeacher) else {}
        found[runs.teacher(name)] = teacher.model_dump(mode="json") | model
    for name, student in settings.students.items():
        start = runs.name(settings.start_of(name))
        found[runs.student(name)] = student.model_dump(mode="json") | {"start": start}
    return found


def differing(today: Sections, folder: Path) -> list[Path]:
    """The files below `folder` that do not contain today's section. A missing file counts too, unless `folder` has none
    of the sections: nothing was made yet."""
    expected = {folder / f"{name}.yaml": section for name, section in today.items()}
    if not any(path.exists() for path in expected):
        return []
    return [path for path, section in expected.items() if _read(path) != section]


def _read(path: Path) -> Any:
    """The content of a frozen file; None if it is missing, or is no YAML."""
    try:
        return files.read_yaml(path)
    except (UserError, OSError):
        return None
