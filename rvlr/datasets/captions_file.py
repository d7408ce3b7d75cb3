"""Captions files of users: JSON, JSONL and CSV, read into entries that know their place in the file.

Enters: the file. Leaves: a list of `Entry`, and the `Faults` found on the way, to which the caller adds its
own before all are raised at once. A file that cannot be taken apart (not UTF-8, broken syntax, wrong header)
is refused here.

JSON holds a list of records and JSONL one record a line, with the keys `image`, `captions` (a list) or
`caption` (a string, or a list as in the annotations published for COCO, Flickr30K and VizWiz), and if wanted
`image_id` and `split`, where null counts as absent. CSV has the header `image,caption[,split][,image_id]` in
any order and one caption a row, where an empty optional cell counts as absent. Blank lines are skipped in JSONL
and CSV. The file is not trusted: an image path that is absolute or has `..` is a fault.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from rvlr import files
from rvlr.data.records import SPLITS
from rvlr.documents import each_key_once
from rvlr.errors import show
from rvlr.faults import Faults, Place

KEYS = ("image", "captions", "caption", "image_id", "split")
COLUMNS = ("image", "caption", "split", "image_id")
SPLIT_NAMES = {name: name for name in SPLITS} | dict.fromkeys(("validation", "valid", "dev"), "val")

_EXAMPLE = '{"image": "cat.jpg", "captions": ["a cat", "a grey cat asleep"]}'
_FOREIGN = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]+://")
_BETWEEN_RECORDS = re.compile(r"[ \t\r\n,]*")


@dataclass(frozen=True)
class Entry:
    """One record or row. `image` is normalised, so that `./a.jpg` and `a.jpg` are one image; `captions` holds
    the sound ones; `split` is train, val or test."""

    place: Place
    image: str
    captions: tuple[str, ...]
    image_id: str | None
    split: str | None


def read(path: Path) -> tuple[list[Entry], Faults]:
    """Read a captions file whose extension is one of `READERS`.

    Returns the entries that name an image, and the faults of single entries. Raises UserError if the file cannot be
    read, is not UTF-8, not valid JSON or CSV, has a wrong CSV header or holds no record.
    """
    faults = Faults(path)
    text = _decode(files.read_bytes(path), faults)
    entries, empty = [], True
    for place, fields in READERS[path.suffix.lower()](text, faults):
        empty = False
        entry = _entry(fields, partial(faults.add, place=place), place)
        if entry is not None:
            entries.append(entry)
    if empty and not faults:
        faults.fail("no records found; the file must hold at least one image with a caption")
    return entries, faults


def _decode(data: bytes, faults: Faults) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = Place(data.count(b"\n", 0, error.start) + 1)
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        faults.fail(f"not UTF-8 ({found}); save the file with the encoding UTF-8", place)


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
        faults.fail(f"found {show(records)}; the file must hold a list of records: [{_EXAMPLE}, ...]")
    # the second pass is for the lines: a parsed list does not tell where its records began
    position, line, counted = text.index("[") + 1, 1, 0
    for number in range(1, len(records) + 1):
        position = _BETWEEN_RECORDS.match(text, position).end()
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
                faults.add(f"{found}; put a caption that holds commas in double quotes", place)
            else:
                cells = zip(header, row, strict=True)
                yield place, {name: cell for name, cell in cells if cell or name in COLUMNS[:2]}
    except csv.Error as error:
        rule = "quote a field that holds commas, quotes or line breaks, and double the quotes inside"
        faults.fail(f"not valid CSV: {error} in the row that begins here; {rule}", Place(begin))


READERS: Mapping[str, Callable[[str, Faults], Fields]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}


# --- fields -------------------------------------------------------------------------------------------------

Complain = Callable[[str], None]


def _entry(fields: Any, complain: Complain, place: Place) -> Entry | None:
    """Check the fields of one record; None if it names no usable image."""
    if not isinstance(fields, dict):
        hint = "; a file that holds a list of records must end in .json" if isinstance(fields, list) else ""
        complain(f"found {show(fields)}; a record must look like {_EXAMPLE}{hint}")
        return None
    for name in fields:
        if name not in KEYS:
            complain(f"unknown key {show(name)}; allowed: {', '.join(KEYS)}; correct or remove it")
    image = _image(fields, complain)
    captions = _captions(fields, complain)
    image_id = _image_id(fields.get("image_id"), complain)
    split = _split(fields.get("split"), complain)
    return None if image is None else Entry(place, image, captions, image_id, split)


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can write as an escape but no UTF-8 file can hold."""
    return not re.search(r"[\ud800-\udfff]", text)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not any(sign.isprintable() and not sign.isspace() for sign in text)


def _image(fields: Mapping[str, Any], complain: Complain) -> str | None:
    if "image" not in fields:
        complain("no key 'image'; name the image file by its path below the images folder")
        return None
    value = fields["image"]
    if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
        complain(f"image is {show(value)}; it must be the path of a file below the images folder")
        return None
    if _FOREIGN.match(value):
        complain(f"image {show(value)} is an address or a Windows path; give the path below the images folder, with /")
        return None
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.name:
        complain(f"image {show(value)} leaves the images folder; give the path below it, without '..'")
        return None
    return path.as_posix()


def _captions(fields: Mapping[str, Any], complain: Complain) -> tuple[str, ...]:
    given = [name for name in ("captions", "caption") if name in fields]
    if len(given) != 1:
        found = "both 'captions' and 'caption'" if given else "neither 'captions' nor 'caption'"
        complain(f"{found}; give one: 'captions', a list of strings, or 'caption', a string or a list")
        return ()
    key, value = given[0], fields[given[0]]
    listed = isinstance(value, list)
    if value == [] or (key == "captions" and not listed):
        complain(f"{key} is {show(value)}; it must be a list of one or more strings")
        return ()
    sound = []
    for number, caption in enumerate(value if listed else [value], 1):
        name = f"caption {number}" if listed else "caption"
        if not isinstance(caption, str) or not _is_unicode(caption):
            complain(f"{name} is {show(caption)}; it must be a string of text")
        elif is_blank(caption):
            complain(f"{name} is empty; write one or remove it")
        elif "\0" in caption:
            complain(f"{name} is {show(caption)}, with a zero byte in it; remove that")
        else:
            sound.append(caption)
    return tuple(sound)


def _image_id(value: Any, complain: Complain) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or not _is_unicode(value):
        complain(f"image_id is {show(value)}; it must be a string or a whole number")
        return None
    return value


def _split(value: Any, complain: Complain) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in SPLIT_NAMES:
        complain(f"split is {show(value)}; allowed: {', '.join(SPLIT_NAMES)}")
        return None
    return SPLIT_NAMES[value]
