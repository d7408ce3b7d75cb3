"""Annotation files of the public data sets, read into records.

Enters: files as published, or a user's copies, which may hold anything. Leaves: a `Part`, the records of one
split in the order of the file, with all captions. There are three layouts:

- the paper's (METHOD.md "The authors' files"): for val and test a list of `{"image", "caption": [...]}`, for
  train a list of `{"image", "caption": "..."}` with one caption each;
- Karpathy's `dataset_{coco,flickr30k}.json`: `{"images": [{"filepath", "filename", "split", "sentences":
  [{"raw"}]}]}`, without `filepath` for Flickr30K, whose images lie in one folder;
- VizWiz's own `{train,val}.json`: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption",
  "is_rejected", "is_precanned"}]}`.

The last two lie in zip archives. Other keys are left alone. All faults of a file are reported together, each with
its place as jq writes it, counted from 0: `images[3].sentences[0].raw`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, ValidationInfo, model_validator

from rvlr import files
from rvlr.data.records import Record, is_blank
from rvlr.errors import UserError, show
from rvlr.faults import FAULTS_SHOWN, describe
from rvlr.fetch.unpack import read_member

MEMBER_LIMIT = 2**29  # bytes; the largest member, dataset_coco.json, has 144 million


@dataclass(frozen=True)
class File:
    """An annotation file: its key in `rvlr.config.sources.SOURCES`, where it lies, and if that is an archive, the
    member wanted of it."""

    key: str
    path: Path
    member: str | None = None

    @property
    def place(self) -> Path:
        """The file as messages name it; a member by its archive and its own name."""
        return self.path / self.member if self.member else self.path

    @property
    def mend(self) -> str:
        """What a user can do about a file that is not as it should be."""
        return f"correct the file, or have sources.{self.key} point to the published one"

    def read(self) -> bytes:
        """The content. Raises UserError if it cannot be read."""
        try:
            files.check_file(self.path)
        except UserError as error:
            raise UserError(f"{error}; fetch it with `rvlr data fetch {self.key}`, or {self.mend}") from None
        if self.member:
            return read_member(self.path, self.member, MEMBER_LIMIT)
        return files.read_bytes(self.path)


@dataclass(frozen=True)
class Part:
    """The records of one split, the file they are from with the SHA-256 of its content, and what was left out."""

    file: File
    sha256: str
    records: Sequence[Record]
    notes: tuple[str, ...] = ()


# --- layouts -------------------------------------------------------------------------------------------------


def _image_path(value: str, info: ValidationInfo) -> str:
    """The path below the image root. `info.context` are the folders images may lie in; where that is only one,
    it may be left out."""
    folders, path = info.context, PurePosixPath(value)
    if len(folders) == 1 and len(path.parts) == 1:
        path = folders[0] / path
    if len(path.parts) < 2 or path.parts[0] not in folders or ".." in path.parts:
        allowed = " or ".join(folders)
        raise ValueError(f"found {show(str(path))}; it must be the path of an image in {allowed}, without '..'")
    return path.as_posix()


def _not_blank(value: str) -> str:
    if is_blank(value):
        raise ValueError(f"found {show(value)}; it must be a caption")
    return value


ImagePath = Annotated[str, AfterValidator(_image_path)]
Caption = Annotated[str, AfterValidator(_not_blank)]


class _OneCaption(BaseModel):
    image: ImagePath
    caption: str


class _AllCaptions(BaseModel):
    image: ImagePath
    caption: Annotated[list[Caption], Field(min_length=1)]


class _Sentence(BaseModel):
    raw: str


class _KarpathyImage(BaseModel):
    """`filename` is, once validated, the path below the image root."""

    filepath: str = ""
    filename: str
    split: Literal["train", "restval", "val", "test"]
    sentences: Annotated[list[_Sentence], Field(min_length=1)]

    @model_validator(mode="after")
    def _join(self, info: ValidationInfo) -> Self:
        self.filename = _image_path(str(PurePosixPath(self.filepath, self.filename)), info)
        return self


class _Karpathy(BaseModel):
    images: list[_KarpathyImage]


class _VizWizImage(BaseModel):
    id: int
    file_name: ImagePath


class _VizWizCaption(BaseModel):
    image_id: int
    caption: str
    is_rejected: bool
    is_precanned: bool

    @property
    def dropped(self) -> bool:
        return self.is_rejected or self.is_precanned or is_blank(self.caption)


class _VizWiz(BaseModel):
    images: list[_VizWizImage]
    annotations: list[_VizWizCaption]


# --- readers -------------------------------------------------------------------------------------------------


def read_paper_train(file: File, folders: Sequence[str]) -> Part:
    """Read the paper's train file; images are in the order of their first caption.

    folders: the folders below the image root that images may lie in. Raises UserError listing the faults.
    """
    found, sha256 = _parse(file, list[_OneCaption], folders)
    captions: dict[str, list[str]] = {}
    for item in found:
        captions.setdefault(item.image, []).append(item.caption)
    records, notes = _without_blank(file, [_record(image, texts) for image, texts in captions.items()])
    return Part(file, sha256, records, notes)


def read_paper_split(file: File, folders: Sequence[str]) -> Part:
    """Read the paper's val or test file; otherwise as `read_paper_train`."""
    found, sha256 = _parse(file, list[_AllCaptions], folders)
    return Part(file, sha256, [_record(item.image, item.caption) for item in found])


def read_karpathy(file: File, folders: Sequence[str]) -> dict[str, Part]:
    """Read Karpathy's splits, train with restval; otherwise as `read_paper_train`."""
    found, sha256 = _parse(file, _Karpathy, folders)
    records: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for image in found.images:
        split = "train" if image.split == "restval" else image.split
        records[split].append(_record(image.filename, [sentence.raw for sentence in image.sentences]))
    return {split: Part(file, sha256, *_without_blank(file, those)) for split, those in records.items()}


def read_vizwiz(file: File, folder: str) -> Part:
    """Read VizWiz's own annotations of the images in `folder`, without captions that were rejected, are precanned
    ("quality issues are too severe ...") or blank, and without images that have no other.

    Raises UserError listing the faults.
    """
    found, sha256 = _parse(file, _VizWiz, [folder])
    captions: dict[int, list[str]] = {}
    faults = []
    for number, image in enumerate(found.images):
        if image.id in captions:
            faults.append(f"images[{number}].id: {image.id} is the id of an image before; each needs one of its own")
        captions[image.id] = []
    for number, item in enumerate(found.annotations):
        if item.image_id not in captions:
            faults.append(f"annotations[{number}].image_id: {item.image_id} is the id of none of the images")
        elif not item.dropped:
            captions[item.image_id].append(item.caption)
    if faults:
        raise _refusal(file, faults, len(faults))
    records = [_record(image.file_name, captions[image.id]) for image in found.images if captions[image.id]]
    dropped, left_out = sum(item.dropped for item in found.annotations), len(found.images) - len(records)
    note = (
        f"Of VizWiz's {file.member}, {dropped:,} rejected, precanned or blank captions were dropped, and {left_out:,} "
        f"of {len(found.images):,} images left out that have no other."
    )
    return Part(file, sha256, records, (note,))


def _without_blank(file: File, records: list[Record]) -> tuple[list[Record], tuple[str, ...]]:
    """The records without blank captions, of which there is a note, and without images that have no other."""
    kept = [replace(one, captions=tuple(text for text in one.captions if not is_blank(text))) for one in records]
    dropped = sum(len(one.captions) for one in records) - sum(len(one.captions) for one in kept)
    notes = (f"{dropped:,} blank caption{'s' if dropped > 1 else ''} of {file.place} dropped.",) if dropped else ()
    return [one for one in kept if one.captions], notes


def _record(image: str, captions: Iterable[str]) -> Record:
    return Record(PurePosixPath(image).with_suffix("").as_posix(), image, tuple(captions))


def _parse(file: File, layout: Any, folders: Sequence[str]) -> tuple[Any, str]:
    """The content of a file in that layout, and its SHA-256. Raises UserError listing the faults."""
    data = file.read()
    try:
        found = TypeAdapter(layout).validate_json(data, context=folders)
    except ValidationError as error:
        raise _refusal(file, describe(error, layout, FAULTS_SHOWN), error.error_count()) from None
    return found, hashlib.sha256(data).hexdigest()


def _refusal(file: File, faults: Sequence[str], count: int) -> UserError:
    lines = list(faults[:FAULTS_SHOWN])
    if count > len(lines):
        lines.append(f"... and {count - len(lines):,} more")
    title = f"{file.place}: {count:,} fault{'s' if count > 1 else ''}; nothing was written; {file.mend}"
    return UserError("\n  ".join([title, *lines]))
