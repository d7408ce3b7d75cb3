"""Faults of validated data in our words: which key, what was found, what is allowed.

Enters: pydantic's ValidationError and the type that was validated against, whose JSON schema says what is allowed.
Leaves: one line a fault. In the schema, `allowed` are the words for a pattern, and `unit` is the unit of a number.
"""

import datetime
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import TypeAdapter, ValidationError

from rvlr import files
from rvlr.errors import UserError, show

Schema = dict[str, Any]
FAULTS_SHOWN = 20

_LONGEST = 100  # characters of a word that is compared or shown as it is
_PLURALS = {"text": "texts", "a path": "paths", "a number": "numbers", "a whole number": "whole numbers"}


class Place(NamedTuple):
    """The place of a fault in a captions file: the line and, in JSON, the number of the record, from 1."""

    line: int
    record: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}" if self.record is None else f"record {self.record} (line {self.line})"


class Faults:
    """The faults of a captions file and its images, collected to be shown together. True if there are any."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[Place, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, message: str, place: Place | None = None) -> None:
        """Add a fault at `place`, or of the file as a whole."""
        self._found.append((place or Place(0), f"{place}: {message}" if place else message))

    def check(self, listing: Path | None = None) -> None:
        """Raise UserError with the faults in the order of the file, if there are any. The message shows the first
        `FAULTS_SHOWN`; if there are more, it says how many, and all faults are written to `listing`, if given."""
        if not self._found:
            return
        count = len(self._found)
        in_order = sorted(self._found, key=lambda fault: (fault[0].line, fault[0].record or 0))
        lines = [text for _, text in in_order[:FAULTS_SHOWN]]
        if count > FAULTS_SHOWN:
            where = f"; all are in {listing}" if listing is not None else ""
            lines.append(f"... and {count - FAULTS_SHOWN:,} more{where}")
            if listing is not None:
                files.write_text(listing, "".join(f"{text}\n" for _, text in in_order))
        title = f"{self.path}: {count:,} fault{'s' if count > 1 else ''}; nothing was written"
        raise UserError("\n  ".join([title, *lines]))

    def fail(self, message: str, place: Place | None = None) -> NoReturn:
        """Add a fault after which the file cannot be read further, and raise UserError with all faults."""
        self.add(message, place)
        self.check()
        raise AssertionError("a fault was added")


def suggest(word: Any, known: Iterable[str]) -> str | None:
    """The name among `known` that was probably meant: apart from case, hyphens and a few letters it is `word`."""
    if not isinstance(word, str) or len(word) > _LONGEST:
        return None
    names = {_plain(name): name for name in known}
    close = get_close_matches(_plain(word), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the name that was probably meant, or nothing."""
    close = suggest(word, known)
    return "" if close is None else f"; did you mean {close!r}?"


def describe(error: ValidationError, kind: Any, limit: int | None = None) -> list[str]:
    """The faults of a validation against the type `kind`, each once, as lines "key: what was found; what is allowed".

    Keys are written as jq writes them, `training.betas[1]`, counted from 0. limit: number of pydantic's faults to use.
    """
    schema = _tree(kind)
    found = [schema.locate(fault) for fault in error.errors(include_url=False)[:limit]]
    lines = [(place, *_line(schema, place, node, fault)) for place, node, fault in found]
    meant = {(*place[:-1], close) for place, _, close in lines if close is not None}
    kept = [(place, text) for (place, text, _), (_, _, fault) in zip(lines, found, strict=True)
            if not (fault["type"] == "missing" and place in meant)]  # fmt: skip
    return list(dict.fromkeys(f"{key}: {text}" if (key := path(place)) else text for place, text in kept))


def path(place: Sequence[str | int]) -> str:
    """A key with the keys above it, as jq writes it."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _name(part: str) -> str:
    return part if part.isprintable() and len(part) <= _LONGEST else show(part)


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("_", "-")


def _line(schema: "Tree", place: tuple[str | int, ...], node: Schema, fault: Any) -> tuple[str, str | None]:
    """The fault of one key in words, and the key that was meant if this key is unknown."""
    what, value = fault["type"], fault["input"]
    if what == "extra_forbidden":
        return _unknown(schema, place, node)
    if what == "value_error":
        return str(fault["ctx"]["error"]), None
    if what == "json_invalid":
        return f"not valid JSON: {fault['ctx']['error']}", None
    if what in ("missing", "union_tag_not_found"):
        return f"missing; give {schema.allowed(node)}", None
    text = f"found {found(value)}; give {schema.allowed(node)}"
    if any(one.get("type") == "string" for one in schema.branches(node)):
        if isinstance(value, bool):
            text += "; YAML reads yes, no, on and off without quotes as true and false"
        elif isinstance(value, int | float | datetime.date):
            text += "; put it in quotes if it is text"
    return text + did_you_mean(value, schema.choices(node)), None


def _unknown(schema: "Tree", place: tuple[str | int, ...], node: Schema) -> tuple[str, str | None]:
    keys = list(node.get("properties", {}))
    kinds = schema.kinds_with(place[-1], node)
    if kinds:
        return f"unknown key here; {_name(str(place[-1]))} belongs to kind: {' or '.join(kinds)}", None
    close = suggest(place[-1], keys)
    if close is not None:
        return f"unknown key; did you mean {close!r}?", close
    elsewhere = schema.sections_with(place[-1])
    if elsewhere:
        return f"unknown key here; {_name(str(place[-1]))} belongs to {elsewhere[0]}", None
    return f"unknown key; the keys here are {', '.join(keys)}", None


def found(value: Any) -> str:
    """A value as it was found, with its type where the value alone does not show it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"{show(value)} (text)" if value.strip() else f"{show(value)} (empty)"
    if isinstance(value, int):
        return str(value) if value.bit_length() < 128 else f"a whole number of {value.bit_length():,} bits"
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else f"{value} (not finite)"
    if isinstance(value, datetime.date):
        return f"the date {value}"
    if isinstance(value, dict):
        return f"a mapping, {show(value)}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}, {show(list(value))}" if value else "an empty list"
    return show(value)


# --- what is allowed -----------------------------------------------------------------------------------------------


@cache
def _tree(kind: Any) -> "Tree":
    return Tree(kind)


class Tree:
    """The JSON schema of a type: where a fault lies in the schema, and what the schema allows there."""

    def __init__(self, kind: Any) -> None:
        self.root: Schema = TypeAdapter(kind).json_schema()

    def resolve(self, node: Schema) -> Schema:
        """The node that a node refers to, or the node itself."""
        while "$ref" in node:
            target = self.root["$defs"][node["$ref"].rpartition("/")[2]]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        return node

    def branches(self, node: Schema) -> list[Schema]:
        """The alternatives of a node."""
        node = self.resolve(node)
        alternatives = node.get("anyOf") or node.get("oneOf")
        if alternatives is None:
            return [node]
        return [branch for one in alternatives for branch in self.branches(one)]

    def locate(self, fault: Any) -> tuple[tuple[str | int, ...], Schema, Any]:
        """The key of a fault, its node in the schema (for an unknown key, the node of the section around it), and the
        fault. pydantic's paths also name the alternatives of a union, which are no keys."""
        node = self.resolve(self.root)
        place: list[str | int] = []
        holder = node
        for part in fault["loc"]:
            below = self._below(node, part)
            if part == "[key]":  # the name itself, not its value
                node = holder.get("propertyNames", {"type": "string"})
            elif isinstance(below, dict):
                holder, node, place = node, self.resolve(below), [*place, part]
            elif (tag := self._tagged(node, part)) is not None:
                node = self.resolve(tag)
            elif fault["type"] == "extra_forbidden":
                place = [*place, part]
                node = next((one for one in self.branches(node) if "properties" in one), node)
        if fault["type"].startswith("union_tag"):
            place = [*place, node.get("discriminator", {}).get("propertyName", "kind")]
            node = {"enum": list(node.get("discriminator", {}).get("mapping", {}))}
            fault = {**fault, "input": fault["input"].get(place[-1]) if isinstance(fault["input"], dict) else None}
        return tuple(place), node, fault

    def _tagged(self, node: Schema, part: str | int) -> Schema | None:
        reference = node.get("discriminator", {}).get("mapping", {}).get(part)
        return None if reference is None else {"$ref": reference}

    def _below(self, node: Schema, part: str | int) -> Schema | None:
        """The node of a key or an item of `node`; None if the schema has none."""
        for branch in [] if "discriminator" in node else self.branches(node):
            if isinstance(part, int):
                items = branch.get("prefixItems", [])
                inner = items[part] if part < len(items) else branch.get("items")
            else:
                inner = branch.get("properties", {}).get(part, self._named(branch))
            if isinstance(inner, dict):
                return inner
        return None

    def _named(self, branch: Schema) -> Any:
        """The node of the values in a mapping of names."""
        return next(iter(branch.get("patternProperties", {}).values()), branch.get("additionalProperties"))

    def sections_with(self, key: Any) -> list[str]:
        """The sections that have a key, those nearest the top first; NAME stands for any name."""
        found = [section for section, node in self._sections(self.root, ()) if key in node["properties"]]
        return sorted(dict.fromkeys(found), key=lambda section: (section.count("."), found.index(section)))

    def kinds_with(self, key: Any, node: Schema) -> list[str]:
        """The other kinds of the section `node` that have a key."""
        sections = list(self._sections(self.root, ()))
        homes = {section for section, branch in sections if branch["properties"] == node.get("properties")}
        siblings = [branch["properties"] for section, branch in sections if section in homes]
        found = [self.choices(one["kind"]) for one in siblings if key in one and "kind" in one]
        return list(dict.fromkeys(kind for kinds in found for kind in kinds))

    def _sections(self, node: Schema, place: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
        for branch in self.branches(node):
            if "properties" in branch:
                yield ".".join(place) or "the top level", branch
                for key, inner in branch["properties"].items():
                    yield from self._sections(inner, (*place, key))
            elif isinstance(named := self._named(branch), dict):
                yield from self._sections(named, (*place, "NAME"))

    def choices(self, node: Schema) -> list[str]:
        """The texts that are allowed, where they are listed."""
        listed = [branch.get("enum", [branch["const"]] if "const" in branch else []) for branch in self.branches(node)]
        return [str(one) for values in listed for one in values]

    def allowed(self, node: Schema) -> str:
        """What is allowed, in words, and the default of a number as an example."""
        default = self.resolve(node).get("default")
        example = f", such as {default}" if isinstance(default, int | float) and not isinstance(default, bool) else ""
        return f"{self.words(node)}{example}"

    def words(self, node: Schema) -> str:
        """What is allowed, in words, without an example."""
        node = self.resolve(node)
        if "discriminator" in node:
            kind, tags = node["discriminator"]["propertyName"], sorted(node["discriminator"]["mapping"])
            return f"a mapping with {kind}: {', '.join(tags[:-1])} or {tags[-1]}"
        return " or ".join(dict.fromkeys(self._words(branch) for branch in self.branches(node)))

    def _words(self, branch: Schema) -> str:
        if "enum" in branch or "const" in branch:
            values = branch.get("enum", [branch.get("const")])
            return ("one of " if len(values) > 1 else "") + ", ".join(map(repr, values))
        if "allowed" in branch:
            return str(branch["allowed"])
        kind = branch.get("type")
        if kind in ("integer", "number"):
            unit = f" ({branch['unit']})" if "unit" in branch else ""
            return ("a whole number" if kind == "integer" else "a number") + _range(branch) + unit
        if kind == "array":
            return self._list(branch)
        if kind == "object":
            keys = branch.get("properties", {})
            return f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping, one entry a name"
        if kind == "string":
            return "a path" if branch.get("format") == "path" else "text"
        return {"boolean": "true or false", "null": "null"}.get(str(kind), "another value")

    def _list(self, branch: Schema) -> str:
        items = branch.get("prefixItems") or [branch.get("items", {})]
        word = self.allowed(items[0])
        start = next((one for one in _PLURALS if word.startswith(one)), None)
        word = word.replace(start, _PLURALS[start], 1) if start else f"values, each {word}"
        count = f"{len(items)} " if "prefixItems" in branch else ""
        least = f", at least {branch['minItems']}" if not count and branch.get("minItems") else ""
        return f"a list of {count}{word}{least}"


def _range(branch: Schema) -> str:
    low, above = branch.get("minimum"), branch.get("exclusiveMinimum")
    high, below = branch.get("maximum"), branch.get("exclusiveMaximum")
    if low is not None:
        start = f" from {low:,}" if high is not None or below is not None else f" of at least {low:,}"
    else:
        start = f" above {above:,}" if above is not None else ""
    if high is not None:
        return f"{start} to {high:,}" if low is not None else f"{start}{',' * bool(start)} up to {high:,}"
    return f"{start}{',' * bool(start)} below {below:,}" if below is not None else start
