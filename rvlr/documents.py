"""YAML and JSON from outside, read strictly: what other readers silently accept is an error here.

Enters: text and the name of its file. Leaves: plain values, mappings with text as keys. For any text, reading ends
within seconds, with a value or with a UserError that names the file and the line.
"""

import json
import re
from typing import Any, NoReturn

import yaml

from rvlr.errors import UserError, show

YAML_BYTES = 2**18
JSON_BYTES = 2**28  # the index of features names every caption
_NODES = 20_000  # values of a YAML file, those behind aliases counted wherever they are used
_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_READ_AS = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "timestamp": "a date"}
_PLAIN = {f"{_TAG}{name}" for name in (*_READ_AS, "str", "seq", "map", "merge")}
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_HINTS = {  # the start of PyYAML's words -> ours
    "but found another document": "a second document begins here; a file may contain one only",
    r"found character '\t'": "a tab; YAML indents with spaces",
    "mapping values are not allowed here": "a colon where none may be; indent the line as its neighbours are, or put "
    "text that contains ': ' in quotes",
    "expected <block end>": "not indented as the lines before it, or a quote or bracket is left over",
    "second occurrence": "an anchor with the name of another one; rename it",
    "found unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a key without a colon, or text over several lines without quotes",
}


def parse_yaml(text: str, source: str) -> Any:
    """The value of one YAML document. Raises UserError naming `source` and the line of the fault.

    The reader refuses: keys that are given twice or are not text (a key laid over one that `<<` merges in is fine),
    aliases that contain themselves or multiply the values to more than 20,000, tags, numbers that YAML 1.1 reads in
    base 8 or 60, and several documents.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        sign = f"U+{ord(error.character) if isinstance(error.character, str) else error.character:04X}"
        raise UserError(f"{source}: line {line}: the character {sign}, which no text contains; remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UserError(f"{source}: line {line}: {_explain(error)}") from None


def parse_json(text: str, source: str, kind: type = dict) -> Any:
    """The object, or with `kind=list` the list, in a JSON text. Raises UserError naming `source` and the fault."""
    try:
        found = json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=each_key_once,
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: line {error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{source}: not valid JSON: nested too deeply") from None
    except ValueError as error:
        digits = "digits" in str(error)  # Python reads no whole number of more than 4,300
        raise UserError(f"{source}: not valid JSON: {'a number of thousands of digits' if digits else error}") from None
    if not isinstance(found, kind):
        names: dict[type, str] = {dict: "an object, {...}", list: "a list, [...]"}
        raise UserError(f"{source}: contains {names.get(type(found), 'a single value')}; give {names[kind]}")
    return found


# --- YAML --------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses what `parse_yaml` lists."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []  # anchors of the nodes around the current one
        self._count = 0
        self._size: dict[yaml.Node, int] = {}  # values in a node, those behind aliases too

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        before = self._count
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs give it no types
        if len(self._open) >= _DEPTH:
            _refuse(f"nested more than {_DEPTH} deep", event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                _refuse(f"the alias *{event.anchor} stands inside what it stands for", event)
            node = self._compose(parent, index)
            self._count += self._size[node]
        else:
            self._open.append(event.anchor)
            node = self._compose(parent, index)
            self._open.pop()
            self._count += 1
            self._size[node] = self._count - before
            if node.tag not in _PLAIN:
                tag = node.tag.replace(_TAG, "!!")
                _refuse(f"the tag {tag}; only text, numbers, true, false, lists and mappings are read", event)
        if self._count > _NODES:
            _refuse(f"more than {_NODES:,} values, those behind aliases counted wherever they are used", event)
        return node

    def _compose(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        node = super().compose_node(parent, index)
        assert node is not None  # there is a next event
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        kind = node.tag.removeprefix(_TAG)
        base = None
        if kind in ("int", "float") and node.style is None:
            base = 60 if ":" in node.value else 8 if kind == "int" and _OCTAL.fullmatch(node.value) else None
        if base:
            _refuse(f"{node.value} is a number in base {base} to YAML; write it in base 10, or in quotes as text", node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            kind = key.tag.removeprefix(_TAG)
            if kind not in ("str", "merge"):
                found = f"{key.value}, read as {_READ_AS[kind]}" if kind in _READ_AS else "a list or mapping"
                _refuse(f"a key must be text; found {found}; put text in quotes", key)
            if key.value in lines:
                _refuse(f"the key {key.value!r} is given twice, first in line {lines[key.value]}; keep one", key)
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            value = node.value if isinstance(node, yaml.ScalarNode) else "this"
            shown = value if len(value) <= 40 else f"{value[:40]}..."
            kind = _READ_AS.get(node.tag.removeprefix(_TAG), "a value")
            _refuse(f"{shown} looks like {kind} to YAML, but is none; put text in quotes", node)


def _refuse(problem: str, place: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message, or our words for it."""
    problem = error.problem or error.context or "not valid YAML"
    if isinstance(error, yaml.constructor.ConstructorError) and error.context is None:
        return problem
    hint = next((ours for theirs, ours in _HINTS.items() if problem.startswith(theirs)), None)
    return f"not valid YAML: {hint or problem}"


# --- JSON --------------------------------------------------------------------------------------------------------


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values as a mapping, for `object_pairs_hook`. Raises ValueError for a key given twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {show(twice)} is given twice; keep one")
    return fields


def _refuse_number(word: str) -> NoReturn:
    raise ValueError(f"{word}, which is no finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        _refuse_number(digits[:40])
    return value
