"""YAML and JSON from outside: read as they are meant, or refused with file and line within seconds."""

import time
from pathlib import Path
from typing import Any

import pytest

from rvlr import documents, files
from rvlr.errors import UserError


def chain(start: str, more: str, length: int) -> str:
    """Lines in which each anchor stands for the one before it several times."""
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{number}: &a{number} {more.replace('*', f'*a{number - 1}')}" for number in range(1, length)]
    return "\n".join(lines)


REFUSED = {
    "key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice, first in line 1"),
    "key twice in a section": ("x:\n  a: 1\n  a: 1", "line 3: the key 'a' is given twice, first in line 2"),
    "key twice on a line": ("{a: 1, a: 2}", "line 1: the key 'a' is given twice"),
    "key twice, once in quotes": ("a: 1\n'a': 2", "line 2: the key 'a' is given twice"),
    "key twice in a list": ("- {a: 1}\n- {a: 1,\n   a: 2}", "line 3: the key 'a' is given twice, first in line 2"),
    "merged twice": ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "line 4: the key '<<' is given twice"),
    "lists that multiply": (chain("[x, x]", "[*, *, *, *]", 20), "more than 20,000 values"),
    "mappings that multiply": (chain("{x: 1}", "{p: *, q: *}", 40), "more than 20,000 values"),
    "merges that multiply": (chain("{x: 1}", "{<<: [*, *, *], p: *}", 40), "more than 20,000 values"),
    "list in itself": ("a: &a [1, *a]", "line 1: the alias *a stands inside what it stands for"),
    "mapping in itself": ("a: &a\n  b: *a", "line 2: the alias *a stands inside"),
    "deep list": ("[" * 100_000, "nested more than 50 deep"),
    "deep block": ("- " * 5_000, "nested more than 50 deep"),
    "many values": (f"a: [{'1, ' * 30_000}]", "more than 20,000 values"),
    "tab": ("a:\n\tb: 1", "line 2: not valid YAML: a tab"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: not valid YAML: a second document"),
    "number as key": ("a: 1\n1: 2", "line 2: a key must be text; found 1, read as a number"),
    "true as key": ("yes: 2", "line 1: a key must be text; found yes, read as true or false"),
    "nothing as key": ("~: 2", "line 1: a key must be text; found ~, read as nothing"),
    "date as key": ("2024-01-01: 2", "line 1: a key must be text; found 2024-01-01, read as a date"),
    "list as key": ("? [a, b]\n: 2", "line 1: a key must be text; found a list or mapping"),
    "zero byte": ("a: 1\nb: \0", "line 2: the character U+0000"),
    "bell": ("a: \a", "line 1: the character U+0007"),
    "Python": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag !!python/object/apply:os.system"),
    "own tag": ("a: !include other.yaml", "line 1: the tag !include"),
    "set": ("a: !!set {b, c}", "line 1: the tag !!set"),
    "bytes": ("a: !!binary aGk=", "line 1: the tag !!binary"),
    "base 8": ("a: 1\nseed: 010", "line 2: 010 is a number in base 8"),
    "base 60": ("epochs: 1:30", "line 1: 1:30 is a number in base 60"),
    "no date": ("a: 2024-13-45", "line 1: 2024-13-45 looks like a date"),
    "endless number": ("a: " + "1" * 5_000, "looks like a number"),
    "no number": ("a: !!int x", "line 1: x looks like a number"),
    "no truth": ("a: !!bool maybe", "line 1: maybe looks like true or false"),
    "equals sign": ("a: =", "line 1: the tag !!value"),
    "no such anchor": ("a: *b", "line 1: not valid YAML: found undefined alias"),
    "anchor twice": ("a: &x 1\nb: &x 2", "line 2: not valid YAML: an anchor with the name of another"),
    "merged number": ("<<: 3", "line 1: not valid YAML: expected a mapping"),
    "colon in text": ("a: b: c", "line 1: not valid YAML: a colon where none may be"),
    "indentation": ("a:\n    b: 1\n  c: 2", "line 3: not valid YAML: not indented"),
    "open quote": ("a: 'b", "line 1: not valid YAML: a quote is not closed"),
    "old Mac line ends": ("a: 1\ra: 2", "line 2: the key 'a' is given twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(case: str) -> None:
    text, expected = REFUSED[case]
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        documents.parse_yaml(text, "my.yaml")
    assert time.monotonic() - began < 5
    assert str(caught.value).startswith("my.yaml: line ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3", {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
        ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b]}", {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}}),
        ("a: &a [1]\nb: *a\nc: *a", {"a": [1], "b": [1], "c": [1]}),
        ("a: {x: 1}\nb: {x: 1}", {"a": {"x": 1}, "b": {"x": 1}}),
        ("'1': 2\n'true': 3", {"1": 2, "true": 3}),
        ("a: 1_000\nb: 0x10\nc: 1e5\nd: 08\ne: '010'", {"a": 1000, "b": 16, "c": "1e5", "d": "08", "e": "010"}),
    ],
)
def test_read_as_it_is_meant(text: str, value: Any) -> None:
    assert documents.parse_yaml(text, "my.yaml") == value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: é".encode("latin-1"), "line 1: not UTF-8 at byte 3"),
        ("a: é".encode("utf-16"), "line 1: not UTF-8 at byte 0"),
        (b"a: 1\nb: \xff", "line 2: not UTF-8 at byte 8"),
        (b"a: " + b"x" * 300_000, "300,003 bytes; such a file has at most 262,144"),
    ],
)
def test_files_that_are_no_text_or_too_large(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        files.read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"a": NaN}', "NaN, which is no finite number"),
        ('{"a": -Infinity}', "-Infinity, which is no finite number"),
        ('{"a": 1e999}', "1e999, which is no finite number"),
        ('{"a": ' + "1" * 5_000 + "}", "a number of thousands of digits"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "contains a list, [...]; give an object, {...}"),
        ("3", "contains a single value; give an object"),
        ("null", "contains a single value"),
        ("", "line 1: not valid JSON"),
        ('{"a": 1,}', "line 1: not valid JSON"),
    ],
)
def test_json(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        documents.parse_json(text, "my.json")
    assert str(caught.value).startswith("my.json: ")
    assert expected in str(caught.value)
    assert documents.parse_json('\ufeff{"a": 1.5}', "my.json") == {"a": 1.5}
    assert documents.parse_json("[1]", "my.json", list) == [1]
