"""Captions files of users: JSON, JSONL and CSV, read into entries with their places in the file.

Enters: the file. Leaves: a list of `Entry`, and the `Faults` that were found. The caller adds its own faults before
all are raised at once. A file that cannot be taken apart (not UTF-8, broken syntax, wrong header) is refused here.

JSON contains a list of records, and JSONL one record a line. A record has the keys `image` and either `captions` (a
list) or `caption` (a string, or a list as in the annotations published for COCO, Flickr30K and VizWiz), and if wanted
`image_id` and `split`, where null counts as absent. CSV has the header `image,caption[,split][,image_id]` in
any order and one caption a row, where an empty optional cell counts as absent. Blank lines are skipped in JSONL
and CSV. The file is not trusted: an image path that is absolute or has `..` is a fault.

The annotations of the public data sets are read by `rvlr.datasets.annotations`.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
)

from rvlr import files
from rvlr.data.records import is_blank
from rvlr.documents import each_key_once
from rvlr.errors import UserError, show
from rvlr.faults import Faults, Place, describe

COLUMNS = ("image", "caption", "split", "image_id")

_EXAMPLE = '{"image": "cat.jpg", "captions": ["a cat", "a grey cat asleep"]}'
_PATH = "the path of an image file below the images folder"
_FOREIGN = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]+://")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which JSON can write as an escape, but UTF-8 cannot


@dataclass(frozen=True)
class Entry:
    """One record or row. `image` is normalised, so that `./a.jpg` and `a.jpg` are one image. `captions` are empty if
    the record has a fault; `split` is train, val or test."""

    place: Place
    image: str
    captions: tuple[str, ...]
    image_id: str | None
    split: str | None


def check_ending(path: Path) -> None:
    """Raise UserError unless the name of a captions file has one of the endings of `READERS`."""
    if path.suffix.lower() not in READERS:
        allowed = ", ".join(READERS)
        raise UserError(f"{path}: extension {path.suffix!r}; a captions file must end in one of {allowed}")


def read(path: Path) -> tuple[list[Entry], Faults]:
    """Read a captions file.

    Returns the entries that name an image, and the faults of single records. Raises UserError if the file has another
    ending than those of `READERS`, cannot be read, is not UTF-8, not valid JSON or CSV, has a wrong CSV header or no
    record.
    """
    check_ending(path)
    faults = Faults(path)
    text = files.read_text(path).removeprefix("\ufeff")
    entries, empty = [], True
    for place, fields in READERS[path.suffix.lower()](text, faults):
        empty = False
        entry = _entry(fields, place, faults)
        if entry is not None:
            entries.append(entry)
    if empty and not faults:
        faults.fail("no records found; the file must contain at least one image with a caption")
    return entries, faults


# --- formats ------------------------------------------------------------------------------------------------

Fields = Iterator[tuple[Place, Any]]


def _syntax(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}; correct the syntax there"
    problem = "brackets nested too deep" if isinstance(error, RecursionError) else error
    return f"not a usable JSON record: {problem}; a record must look like {_EXAMPLE}"


_DECODER = json.JSONDecoder(object_pairs_hook=each_key_once)


def _read_json(text: str, faults: Faults) -> Fields:
    if not text.strip():
        return
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; a file with one record a line must end in .jsonl" if error.msg == "Extra data" else ""
        faults.fail(_syntax(error) + hint, Place(error.lineno))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested too deep
        faults.fail(_syntax(error))
    if not isinstance(records, list):
        faults.fail(f"found {show(records)}; the file must contain a list of records: [{_EXAMPLE}, ...]")
    # the second pass is for the lines: a parsed list does not say where its records begin
    position, line, counted = text.index("[") + 1, 1, 0
    for number in range(1, len(records) + 1):
        while text[position] in " \t\r\n,":
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        place = Place(line, number)
        try:
            fields, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            faults.add(_syntax(error), place)
            _, position = json.JSONDecoder().raw_decode(text, position)
        else:
            yield place, fields


def _read_jsonl(text: str, faults: Faults) -> Fields:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            faults.add(_syntax(error), Place(number))
        else:
            yield Place(number), fields


def _header(row: list[str], place: Place, faults: Faults) -> list[str]:
    unknown = [show(name) for name in row if name not in COLUMNS]
    missing = [show(name) for name in COLUMNS[:2] if name not in row]
    parts = []
    if unknown:
        parts.append(f"unknown column {', '.join(unknown)}")
    if missing:
        parts.append(f"no column {', '.join(missing)}")
    if len(set(row)) < len(row):
        parts.append("a column is named twice")
    if parts:
        allowed = "image,caption and if wanted split and image_id, separated by commas"
        faults.fail(f"{'; '.join(parts)}; the first row must name {allowed}", place)
    return row


def _read_csv(text: str, faults: Faults) -> Fields:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] = []
    begin = 1
    try:
        for row in reader:
            place, begin = Place(begin), reader.line_num + 1
            if not row:
                continue
            if not header:
                header = _header(row, place, faults)
            elif len(row) != len(header):
                found = f"{len(row)} fields where the header names {len(header)} ({', '.join(header)})"
                faults.add(f"{found}; put a caption with commas in it in double quotes", place)
            else:
                cells = zip(header, row, strict=True)
                yield place, {name: cell for name, cell in cells if cell or name in COLUMNS[:2]}
    except csv.Error as error:
        rule = "quote a field that contains commas, quotes or line breaks, and double the quotes inside"
        faults.fail(f"not valid CSV: {error} in the row that begins here; {rule}", Place(begin))


READERS: Mapping[str, Callable[[str, Faults], Fields]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}


# --- fields -------------------------------------------------------------------------------------------------


def _check_characters(value: Any) -> Any:
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError(f"found {show(value)}, in which half a character is missing; write it again")
    return value


def _image_path(value: str) -> str:
    path = PurePosixPath(value)
    if _FOREIGN.match(value):
        raise ValueError(
            f"found {show(value)}, an address or a Windows path; give the path below the images folder, with /"
        )
    if not value.strip():
        raise ValueError(f"found {show(value)}; give {_PATH}")
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"found {show(value)}, which leaves the images folder; give the path below it, without '..'")
    return path.as_posix()


def _caption(value: str) -> str:
    if is_blank(value):
        raise ValueError("empty; write a caption or remove it")
    if "\0" in value:
        raise ValueError(f"found {show(value)}, with a zero byte in it; remove that")
    return value


def _image_id(value: str | int | None) -> str | int | None:
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"found {show(value)}; give text or a whole number")
    return value


SplitName = Literal["train", "val", "test", "validation", "valid", "dev"]
_Text = Annotated[str, BeforeValidator(_check_characters)]
_Caption = Annotated[_Text, AfterValidator(_caption)]
_Captions = Annotated[list[_Caption], Field(min_length=1)]
_ImagePath = Annotated[_Text, AfterValidator(_image_path), Field(json_schema_extra={"allowed": _PATH})]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    image: _ImagePath
    captions: _Captions = []
    caption: Annotated[
        Annotated[_Caption, Tag("text")] | Annotated[_Captions, Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
    ] = []
    image_id: Annotated[str | int | None, BeforeValidator(_check_characters), AfterValidator(_image_id)] = None
    split: SplitName | None = None

    def entry(self, place: Place) -> Entry:
        captions = [self.caption] if isinstance(self.caption, str) else self.captions or self.caption
        split = None if self.split is None else self.split if self.split in ("train", "test") else "val"
        image_id = None if self.image_id is None else str(self.image_id)
        return Entry(place, self.image, tuple(captions), image_id, split)


_IMAGE: TypeAdapter[str] = TypeAdapter(_ImagePath)


def _entry(fields: Any, place: Place, faults: Faults) -> Entry | None:
    """Check the fields of one record and note their faults; None if no usable image is named."""
    if not isinstance(fields, dict):
        hint = "; a file with a list of records must end in .json" if isinstance(fields, list) else ""
        faults.add(f"found {show(fields)}; a record must look like {_EXAMPLE}{hint}", place)
        return None
    found: list[str] = []
    if ("captions" in fields) == ("caption" in fields):
        keys = "both 'captions' and 'caption'" if "caption" in fields else "neither 'captions' nor 'caption'"
        found.append(f"{keys}; give one: 'captions', a list of strings, or 'caption', a string or a list")
    try:
        record = _Record.model_validate(fields)
    except ValidationError as error:
        found += describe(error, _Record)
    for fault in found:
        faults.add(fault, place)
    if not found:
        return record.entry(place)
    try:  # whether the image is there is checked too
        return Entry(place, _IMAGE.validate_python(fields.get("image"), strict=True), (), None, None)
    except ValidationError:
        return None
