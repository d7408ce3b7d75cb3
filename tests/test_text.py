"""Caption cleaning against a naive implementation of docs/METHOD.md, "Training", character by character."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvlr.data.text import clean_caption

DROPPED = ",.'!?\"()*#:;~"


def naive(caption: str, max_words: int) -> str:
    kept = []
    for character in caption.lower():
        if character in "-/":
            kept.append(" ")
        elif character not in DROPPED:
            kept.append(character)
    words, word, rest = [], "", "".join(kept)
    while rest:
        if rest.startswith("<person>"):
            word, rest = word + "person", rest[len("<person>") :]
        elif rest[0].isspace():
            words, word, rest = [*words, word], "", rest[1:]
        else:
            word, rest = word + rest[0], rest[1:]
    return " ".join([word for word in [*words, word] if word][:max_words])


def real_captions(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.json")):
        for record in json.loads(path.read_text(encoding="utf-8")):
            yield from record["caption"]


def test_every_real_caption(shared: Path) -> None:
    count = 0
    for caption in real_captions(shared / "data/captions"):
        assert clean_caption(caption, 60) == naive(caption, 60), caption
        assert clean_caption(caption, 8) == naive(caption, 8), caption
        count += 1
    assert count > 40_000


PIECES = [
    "<person>",
    "<Person>",
    "<per.son>",
    "x-ray",
    "a/b",
    " ",
    "\t",
    "\n\n",
    "  ",
    "\u00a0",
    "İ",
    "ΟΔΟΣ",
    "ß",
    "🐕",
    "…",
]


@given(st.lists(st.one_of(st.sampled_from([*PIECES, *DROPPED]), st.text(max_size=3))).map("".join), st.integers(1, 6))
def test_odd_captions(caption: str, max_words: int) -> None:
    assert clean_caption(caption, max_words) == naive(caption, max_words)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ('A "Dog", (running) \t on-the/grass!', "a dog running on the grass"),
        ("<person>'s hat: 50% * off; #1 ~ really?", "persons hat 50% off 1 really"),
        ("  one\n two  three four ", "one two three"),
        ("...", ""),
    ],
)
def test_by_hand(caption: str, cleaned: str) -> None:
    assert clean_caption(caption, 3 if "four" in caption else 60) == cleaned
