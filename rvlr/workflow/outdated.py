"""Results that do not belong to today's settings, or are not what their records say.

They are found by content at every start, since Snakemake's own records of earlier runs may be gone (results copied,
folder renamed, `.snakemake` deleted) and times of files say nothing then.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rvlr import files, provenance
from rvlr.config import Study, runs
from rvlr.data import stored
from rvlr.errors import UserError
from rvlr.report import consistency
from rvlr.workflow import frozen, places


def find(settings: Study, sections: frozen.Sections, results: Path, evaluations: Iterable[Path]) -> list[str]:
    """The outdated files in `results`, sorted; the workflow makes them again.

    sections: as `frozen.sections` gives them. evaluations: the `eval/test.json` of every run. Raises UserError if a
    result was changed or copied, so that making it again would hide that, or if a file of the user lies in a folder
    that Snakemake replaces.
    """
    places.check_folders(results)
    outdated = frozen.differing(sections, results / "config")
    outdated += [*_replaced_captions(settings, results), *_replaced_features(settings, results)]
    if not outdated:
        mismatches = list(_mismatches(evaluations))
        wrong = [mismatch for mismatch in mismatches if not mismatch.outdated]
        if wrong:
            raise UserError("\n".join([*dict.fromkeys(map(str, wrong)), consistency.remedy(wrong)]))
        outdated = [mismatch.path for mismatch in mismatches]
    return sorted({str(path) for path in outdated})


def _replaced_captions(settings: Study, results: Path) -> list[Path]:
    """The record of a preparation that read another captions file than the one there is now. The file that is there now
    may be older, as a copy that was restored is."""
    record, captions = results / "splits/dataset.json", settings.dataset.own_captions
    if captions is None or not record.exists():
        return []
    try:
        digest = files.read_json(record).get("captions_sha256")
    except UserError:
        return [record]
    return [record] if digest != provenance.sha256(captions) else []


def _replaced_features(settings: Study, results: Path) -> Iterator[Path]:
    """The indices of copies of features that are not those there are now, whatever the times of the files, and of
    copies for a teacher whose features are extracted now."""
    given = settings.stored_features()
    for teacher in settings.teachers:
        for split, copies in (("train", "features"), ("test", "features-test")):
            found = [results / f"seed{seed}" / runs.teacher(teacher) / copies / "index.json" for seed in settings.seeds]
            made = [path for path in found if path.exists()]
            folder = given.get(teacher, {}).get(split)
            if folder is not None or teacher not in given:
                digests = stored.digests(folder) if made and folder is not None else None
                yield from (path for path in made if _copied(path) != digests)


def _copied(index: Path) -> Any:
    """The digests of the files that features were copied from; None if they were not copied."""
    try:
        return files.read_json(index).get("stored")
    except UserError:
        return None


def _mismatches(evaluations: Iterable[Path]) -> Iterator[consistency.Mismatch]:
    """What the records of results disagree with, as far as small files show."""
    for path in evaluations:
        if not path.exists():
            continue
        try:
            record = consistency.read_evaluation(path)
        except UserError as error:
            raise UserError(f"{error}: rm {path}; snakemake") from None
        yield from consistency.evaluation_mismatches(path, record, large=False)
