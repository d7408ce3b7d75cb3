"""Whatever is done to a valid configuration: it stays valid, or it is refused with its key, in our words."""

import copy
import datetime
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ROOT, shipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rvlr import config, documents
from rvlr.errors import UserError

STUDY = shipped("coco") | {
    "sources": {"coco-val2014": {"addresses": ["https://a.example/b.zip"], "size": 3}},
    "downloads": "downloads",
}
STUDY["models"]["small"] = {"text": {"weights": "random", "size": {"hidden_size": 96}}}
STUDY["teachers"]["itc-itm"]["model"] = "base"
STUDY["teachers"]["pair"] = {
    "kind": "single-modal",
    "vision": {"name": "resnet18"},
    "text": {"weights": "bert-base-uncased", "pooling": "mean"},
}
STUDY["teachers"]["stored"] = {"kind": "stored", "features": {"train": "features/train", "test": "features/test"}}
STUDY["evaluation"]["relevance"] = {"scorer": "rouge-score"}
THEIR_WORDS = re.compile(r"Input should|Value error|union_tag|pydantic|Field required|valid dictionary|ValidationError")
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "no", "random", "\0", "{a}", "é"]
    ),
    st.sampled_from(
        [[], {}, [[]], [None], {"a": 1}, {"": None}, datetime.date(2024, 1, 2), "1e400", "nan", "x" * 5000]
    ),
    st.text(max_size=5),
    st.integers(),
    st.lists(st.integers(0, 3), max_size=4),
)


def places(data: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key and item of a document."""
    below = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for part, value in below:
        yield (*place, part)
        yield from places(value, (*place, part))


def edit(data: Any, place: tuple[str | int, ...], how: str, value: Any, name: str) -> None:
    for part in place[:-1]:
        data = data[part]
    if how == "change":
        data[place[-1]] = value
    elif how == "rename" and isinstance(data, dict):
        data[name] = data.pop(place[-1])
    else:
        del data[place[-1]]


def refusal(read: Callable[[], Any]) -> str | None:
    """The message that `read` is refused with; None if it is not."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


PLACES = sorted(places(STUDY), key=str)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(PLACES),
    st.sampled_from(["change", "change", "rename", "delete"]),
    VALUES,
    st.text(max_size=8),
)
def test_any_edit_is_valid_or_named(place: tuple[str | int, ...], how: str, value: Any, name: str) -> None:
    data = copy.deepcopy(STUDY)
    edit(data, place, how, value, name)
    message = refusal(lambda: config.parse(data, "my.yaml"))
    if message is None:
        return
    assert message.startswith("my.yaml: ")
    assert not THEIR_WORDS.search(message)
    lines = message.splitlines()[1:]
    assert len(set(lines)) == len(lines)
    assert any(word and word in message for word in (*map(str, place), name, repr(name)[1:-1]))


ODD = [
    "\t",
    "\n",
    "- ",
    ": ",
    "? ",
    "&a ",
    "*a",
    "<<: *a",
    "!!set ",
    "{",
    "}",
    "[",
    "---",
    "%",
    "'",
    '"',
    "|",
    "0x",
    "\0",
]


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_text_is_read_or_refused_with_its_line(data: st.DataObject) -> None:
    text = (ROOT / "config/config.yaml").read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(ODD) | st.text(max_size=4))
            + text[at + data.draw(st.integers(0, 9)) :]
        )
    message = refusal(lambda: documents.parse_yaml(text, "my.yaml"))
    assert message is None or re.match(r"my\.yaml: line \d+: ", message)
