"""The annotations of the public data sets, read into records. Nothing else reads them, so that all commands accept
and refuse the same files; captions files of users are read by `rvlr.datasets.captions_file`.

Enters: files as published, or a user's copies, which may contain anything. Leaves: a `Part`, the records of one
split in the order of the file, with all captions. There are three layouts:

- the paper's (docs/METHOD.md, "The authors' files"): for val and test a list of `{"image", "caption": [...]}`, for
  train a list of `{"image", "caption": "..."}` with one caption each;
- Karpathy's `dataset_{coco,flickr30k}.json`: `{"images": [{"filepath", "filename", "split", "sentences":
  [{"raw"}]}]}`, without `filepath` for Flickr30K, whose images lie in one folder;
- VizWiz's own `{train,val}.json`: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption",
  "is_rejected", "is_precanned"}]}`.

The last two lie in zip archives. Other keys are ignored. All faults of a file are reported together, each with
its place as jq writes it, counted from 0: `images[3].sentences[0].raw`. Blank captions are dropped, of which there is
a note; where an entry lists the captions of an image, a blank one is a fault.
"""

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, ValidationInfo, model_validator
from pydantic_core import from_json

from rvlr import files
from rvlr.data.records import Record, Split, is_blank, read_split
from rvlr.errors import UserError, show
from rvlr.faults import FAULTS_SHOWN, describe
from rvlr.fetch.unpack import read_member

MEMBER_LIMIT = 2**29  # bytes; the largest member, dataset_coco.json, has 144 million


@dataclass(frozen=True)
class File:
    """An annotation file: where it lies, its name in `rvlr.config.sources.SOURCES` if it has one, and if the file is an
    archive, the member to read."""

    path: Path
    source: str | None = None
    member: str | None = None

    @property
    def place(self) -> Path:
        """The file as messages name it; a member by its archive and its own name."""
        return self.path / self.member if self.member else self.path

    @property
    def remedy(self) -> str:
        """What a user can do about a wrong file."""
        published = f", or have sources.{self.source} point to the published one" if self.source else ""
        return f"correct the file{published}"

    def read(self) -> bytes:
        """The content. Raises UserError if it cannot be read."""
        try:
            files.check_file(self.path)
        except UserError as error:
            if self.source is None:
                raise
            raise UserError(f"{error}; fetch it with `rvlr data fetch {self.source}`, or {self.remedy}") from None
        if self.member:
            return read_member(self.path, self.member, MEMBER_LIMIT)
        return files.read_bytes(self.path)


@dataclass(frozen=True)
class Part:
    """The records of one split, the file they are from with the SHA-256 of its content, and notes on what was left out.

    rows: of the paper's files, the image and the captions of every entry, blank captions included.
    """

    file: File
    sha256: str
    records: Sequence[Record]
    notes: tuple[str, ...] = ()
    rows: Sequence[tuple[str, Sequence[str]]] = ()


# --- layouts -------------------------------------------------------------------------------------------------


def _image_path(value: str, info: ValidationInfo) -> str:
    """The path below the image root. `info.context` are the folders that images may lie in, any if there are none;
    where that is only one, it may be left out."""
    folders: Sequence[str] = info.context or ()
    path = PurePosixPath(value)
    if len(folders) == 1 and len(path.parts) == 1:
        path = folders[0] / path
    elsewhere = folders and (len(path.parts) < 2 or path.parts[0] not in folders)
    if elsewhere or path.is_absolute() or not path.name or ".." in path.parts:
        allowed = " or ".join(folders) or "the folder of images"
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


_PAPER: dict[str | None, Any] = {"train": list[_OneCaption], "val": list[_AllCaptions], "test": list[_AllCaptions]}


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


def read_paper(file: File, folders: Sequence[str] = (), split: str | None = None) -> Part:
    """Read one of the paper's files; images are in the order of their first caption.

    folders: the folders below the image root that images may lie in; none: any. split: train, val or test, which says
    how captions are laid out; None: as the first entry has them. Raises UserError listing the faults.
    """
    found, sha256 = _parse(file, _PAPER.get(split), folders)
    rows = [(item.image, [item.caption] if isinstance(item.caption, str) else item.caption) for item in found]
    captions: dict[str, list[str]] = {}
    if found and isinstance(found[0].caption, str):
        for image, texts in rows:
            captions.setdefault(image, []).extend(texts)
    records = [_record(image, texts) for image, texts in captions.items() or rows]
    records, notes = _without_blank(file, records)
    if not records:
        raise UserError(f"{file.place}: no image with a caption in it; {file.remedy}")
    _check_ids(file, {split or "the file": records})
    return Part(file, sha256, records, notes, rows)


def read_captions(path: Path, captions_per_image: int | None = None) -> Split:
    """Read a split (.jsonl), or one of the paper's files (.json). `captions_per_image` keeps the first of each image,
    None keeps all. Raises UserError listing the faults."""
    ending = path.suffix.lower()
    if ending not in (".jsonl", ".json"):
        raise UserError(
            f"{path}: {path.suffix!r} found; allowed endings: .jsonl (a split), .json (the paper's annotations); a "
            "captions file of your own becomes a split by `rvlr prepare`"
        )
    split = read_split(path) if ending == ".jsonl" else Split(path.stem, read_paper(File(path)).records, path.parent)
    if captions_per_image is None:
        return split
    return replace(split, records=[replace(one, captions=one.captions[:captions_per_image]) for one in split.records])


def read_karpathy(file: File, folders: Sequence[str]) -> dict[str, Part]:
    """Read Karpathy's splits, train with restval; otherwise as `read_paper`."""
    found, sha256 = _parse(file, _Karpathy, folders)
    records: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for image in found.images:
        split = "train" if image.split == "restval" else image.split
        records[split].append(_record(image.filename, [sentence.raw for sentence in image.sentences]))
    _check_ids(file, records)
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
    _check_ids(file, {folder: records})
    dropped, left_out = sum(item.dropped for item in found.annotations), len(found.images) - len(records)
    note = (
        f"Of VizWiz's {file.member}, {dropped:,} rejected, precanned or blank captions were dropped, and {left_out:,} "
        f"of {len(found.images):,} images left out that have no other."
    )
    return Part(file, sha256, records, (note,))


def some_ids(ids: Sequence[str]) -> str:
    """Ids of images as messages name them."""
    return f"image {show(ids[0])}" if len(ids) == 1 else f"{len(ids):,} images, the first is {show(ids[0])},"


def _check_ids(file: File, splits: Mapping[str, Sequence[Record]]) -> None:
    """Raise UserError if an image is in one split twice."""
    faults = []
    for split, records in splits.items():
        twice = [image_id for image_id, count in Counter(one.image_id for one in records).items() if count > 1]
        if twice:
            faults.append(f"{file.place}: {split} holds {some_ids(twice)} more than once; {file.remedy}")
    if faults:
        raise UserError("\n".join(faults))


def _without_blank(file: File, records: list[Record]) -> tuple[list[Record], tuple[str, ...]]:
    """The records without blank captions and without images that have no other, and a note of that."""
    kept = [replace(one, captions=tuple(text for text in one.captions if not is_blank(text))) for one in records]
    dropped = sum(len(one.captions) for one in records) - sum(len(one.captions) for one in kept)
    notes = (f"{dropped:,} blank caption{'s' if dropped > 1 else ''} of {file.place} dropped.",) if dropped else ()
    return [one for one in kept if one.captions], notes


def _record(image: str, captions: Iterable[str]) -> Record:
    return Record(PurePosixPath(image).with_suffix("").as_posix(), image, tuple(captions))


def _parse(file: File, layout: Any, folders: Sequence[str]) -> tuple[Any, str]:
    """The content of a file in that layout, None: as its first entry has it, and its SHA-256. Raises UserError listing
    the faults."""
    data = file.read()
    text = data.removeprefix(codecs.BOM_UTF8)
    layout = layout or _layout_of(text)
    try:
        found = TypeAdapter(layout).validate_json(text, context=folders)
    except ValidationError as error:
        raise _refusal(file, describe(error, layout, FAULTS_SHOWN), error.error_count()) from None
    return found, hashlib.sha256(data).hexdigest()


def _layout_of(text: bytes) -> Any:
    try:
        caption = from_json(text)[0]["caption"]
    except (ValueError, LookupError, TypeError):  # a fault in any layout
        caption = None
    return _PAPER["test" if isinstance(caption, list) else "train"]


def _refusal(file: File, faults: Sequence[str], count: int) -> UserError:
    lines = list(faults[:FAULTS_SHOWN])
    if count > len(lines):
        lines.append(f"... and {count - len(lines):,} more")
    title = f"{file.place}: {count:,} fault{'s' if count > 1 else ''}; nothing was written; {file.remedy}"
    return UserError("\n  ".join([title, *lines]))
