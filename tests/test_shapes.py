"""The data set `shapes`: reproducible, true, and imbalanced the way its knob says."""

import itertools
import re
from dataclasses import astuple, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rvlr.config import Shapes
from rvlr.data.records import SPLITS, read_split
from rvlr.datasets import shapes
from rvlr.datasets.shapes import grammar, scene
from rvlr.datasets.shapes.scene import COLUMNS, ROWS, Scene
from rvlr.errors import UserError

SMALL = Shapes(train=12, val=4, test=6, seed=3)
imbalances = st.floats(-1, 1)
streams = st.integers(0, 2**32).map(str)


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def caption_lines(folder: Path) -> list[list[str]]:
    return [[*record.captions] for name in SPLITS for record in read_split(folder / "splits" / f"{name}.jsonl").records]


def images_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".png")}


def some_scene(stream: str) -> Scene:
    return scene.sample(0, Random(stream))


# --- files -------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, section in {"a": SMALL, "b": SMALL, "c": SMALL.model_copy(update={"seed": 4})}.items():
        shapes.prepare(section, tmp_path / name)
    one, again, other = (read_bytes(tmp_path / name) for name in "abc")
    assert one == again
    assert one.keys() == other.keys()
    assert not set(images_of(one).values()) & set(images_of(other).values())
    assert caption_lines(tmp_path / "a") != caption_lines(tmp_path / "c")


def test_files_counts_and_sizes(tmp_path):
    section = SMALL.model_copy(update={"image_size": 48})
    shapes.prepare(section, tmp_path)
    for name in SPLITS:
        split = read_split(tmp_path / "splits" / f"{name}.jsonl")
        assert len(split.records) == getattr(section, name)
        assert len({record.image_id for record in split.records}) == len(split.records)
        for index, record in enumerate(split.records):
            assert len(record.captions) == 5
            with Image.open(split.path(index)) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 48))
    assert len(images_of(read_bytes(tmp_path))) == 22


def test_preparing_again_replaces_what_was_there(tmp_path):
    shapes.prepare(SMALL, tmp_path)
    fewer = SMALL.model_copy(update={"train": 5})
    shapes.prepare(fewer, tmp_path)
    assert len(images_of(read_bytes(tmp_path))) == 15


def test_splits_share_no_scene():
    drawn = shapes.scenes(Shapes())
    every = [item for items in drawn.values() for item in items]
    assert {name: len(items) for name, items in drawn.items()} == {"train": 1500, "val": 200, "test": 400}
    assert len(set(every)) == len(every)
    assert all(len({(thing.row, thing.column) for thing in item.things}) == len(item.things) for item in every)


def test_more_training_scenes_leave_the_others_alone():
    few, many = shapes.scenes(SMALL), shapes.scenes(SMALL.model_copy(update={"train": 50}))
    assert (few["val"], few["test"], few["train"]) == (many["val"], many["test"], many["train"][:12])


@pytest.mark.parametrize("number", [1, 7])
def test_captions_per_image(tmp_path, number):
    section = SMALL.model_copy(update={"captions_per_image": number})
    shapes.prepare(section, tmp_path)
    shapes.prepare(SMALL, tmp_path / "five")
    for lines, five in zip(caption_lines(tmp_path), caption_lines(tmp_path / "five"), strict=True):
        assert len(lines) == number
        assert lines[:5] == five[:number]


def test_more_scenes_than_exist(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.train, val, test: .*no more than [0-9]+ different scenes"):
        shapes.prepare(Shapes().model_copy(update={"train": 10**12}), tmp_path)
    assert not any(tmp_path.iterdir())


def test_distinct_scenes_by_enumeration(monkeypatch):
    monkeypatch.setattr(scene, "SHAPES", ("circle", "star"))
    monkeypatch.setattr(scene, "COLOURS", {"red": (255, 0, 0)})
    monkeypatch.setattr(scene, "RADII", {"small": 0.1})
    monkeypatch.setattr(scene, "ROWS", ("top",))
    monkeypatch.setattr(scene, "THINGS", (2, 2, 3))
    scenes = set()
    for count in (2, 3):
        for cells in itertools.combinations(COLUMNS, count):
            for looks in itertools.product(("circle", "star"), repeat=count):
                scenes.add(tuple(zip(cells, looks, strict=True)))
    assert scene.distinct_scenes() == len(scene.BACKGROUNDS) * len(scenes)


# --- captions ----------------------------------------------------------------------------------------------


@given(streams, streams, imbalances)
def test_stated_facts_hold(stream, words, imbalance):
    item = some_scene(stream)
    told = grammar.tell(item, imbalance, Random(words))
    assert told.facts >= 1
    assert told.scene.background in (None, item.background)
    assert told.count in (None, len(item.things))
    for said, true in zip(told.scene.things, item.things, strict=True):
        assert all(a in (None, b) for a, b in zip(astuple(said), astuple(true), strict=True))
    if told.relation:
        one, other = item.things[told.relation.first], item.things[told.relation.second]
        if told.relation.kind == "left":
            assert COLUMNS.index(one.column) < COLUMNS.index(other.column)
        else:
            assert ROWS.index(one.row) < ROWS.index(other.row)


WORDS = {
    "shape": {"disc": "circle", "box": "square", "hoop": "ring", **{name: name for name in scene.SHAPES}},
    "colour": {"violet": "purple", **{name: name for name in scene.COLOURS}},
    "size": {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large"},
    "background": {name: name for name in scene.BACKGROUNDS},
}


PLURALS = {f"{word}{'es' if word in ('cross', 'box') else 's'}": word for word in (*WORDS["shape"], "shape", "thing")}


def words_of(text: str) -> list[str]:
    """Lower case, no punctuation, nouns in the singular."""
    return [PLURALS.get(word, word) for word in re.sub(r"[.,:]", "", text.lower()).split()]


@given(streams, streams, imbalances)
def test_the_text_says_what_is_told_and_nothing_else(stream, words, imbalance):
    item = some_scene(stream)
    told = grammar.tell(item, imbalance, Random(words))
    text = grammar.phrase(told, item, Random(words))
    assert len(text.split()) <= grammar.MAX_WORDS
    found = {kind: {names[word] for word in words_of(text) if word in names} for kind, names in WORDS.items()}
    for kind in ("shape", "colour", "size"):
        assert found[kind] == {getattr(thing, kind) for thing in told.scene.things} - {None}
    assert found["background"] == {told.scene.background} - {None}
    relation = re.search(r"\b(left of|right of|above|over|below|under)\b", text)
    assert bool(relation) == bool(told.relation)
    if relation:
        assert (relation[1] in ("left of", "right of")) == (told.relation.kind == "left")
        before, after = words_of(text[: relation.start()]), words_of(text[relation.end() :])
        nouns = [next(word for word in part if word in PLURALS.values()) for part in (before[::-1], after)]
        pair = [told.scene.things[told.relation.first].shape, told.scene.things[told.relation.second].shape]
        turned = relation[1] in ("right of", "below", "under")
        assert [WORDS["shape"].get(noun) for noun in nouns] == (pair[::-1] if turned else pair)
    if not relation:
        places = {value for thing in told.scene.things for value in (thing.row, thing.column)} - {None}
        assert {word.replace("center", "middle") for word in words_of(text)} & {*ROWS, *COLUMNS} == places


GROUP = re.compile(
    rf"\b(two|three|four)((?: (?:{'|'.join([*WORDS['size'], *WORDS['colour']])}))*) ({'|'.join(PLURALS)})\b"
)


@given(streams, streams)
@settings(max_examples=300)
def test_numbers_are_exact(stream, words):
    """A number counts all things of the scene that its words fit, unless a place narrows it down."""
    item = some_scene(stream)
    told = grammar.tell(item, 0, Random(words))
    text = grammar.phrase(told, item, Random(words)).lower()
    placed = any(thing.row or thing.column for thing in told.scene.things)
    for number, between, noun in GROUP.findall(text):
        described = [*words_of(between), *words_of(noun)]
        fitting = item.things
        for kind in ("shape", "colour", "size"):
            values = {WORDS[kind][word] for word in described if word in WORDS[kind]}
            fitting = [thing for thing in fitting if not values or getattr(thing, kind) in values]
        count = {"two": 2, "three": 3, "four": 4}[number]
        assert len(fitting) >= count if placed else len(fitting) == count


@given(streams, streams, st.floats(0, 1), st.floats(0, 1))
def test_a_greater_imbalance_tells_a_subset(stream, words, one, other):
    item = some_scene(stream)
    more, less = (grammar.tell(item, knob, Random(words)) for knob in sorted((one, other)))
    assert less.scene.background in (None, more.scene.background)
    assert less.count in (None, more.count)
    assert less.relation in (None, more.relation)
    for few, many in zip(less.scene.things, more.scene.things, strict=True):
        assert all(a in (None, b) for a, b in zip(astuple(few), astuple(many), strict=True))


def test_wording_varies_and_the_vocabulary_stays_small():
    section = Shapes(test=300)
    texts = [
        text
        for index, item in enumerate(shapes.scenes(section)["test"])
        for text, _ in shapes.captions(section, "test", index, item)
    ]
    vocabulary = {word for text in texts for word in re.sub(r"[.,:]", "", text.lower()).split()}
    assert 60 < len(vocabulary) < 120
    assert len(set(texts)) > 0.95 * len(texts)
    for trait in (str.islower, lambda text: text[0].isupper(), lambda text: text.endswith(".")):
        assert 0.25 < np.mean([trait(text) for text in texts]) < 0.75
    assert any("two" in text for text in texts)
    assert any("left of" in text for text in texts)


# --- the imbalance, and images -----------------------------------------------------------------------------


def test_positive_imbalance_shortens_captions_and_leaves_images(tmp_path):
    facts, lengths, images = [], [], []
    for knob in (0.0, 0.5, 1.0):
        section = SMALL.model_copy(update={"imbalance": knob, "train": 60})
        shapes.prepare(section, tmp_path)
        images.append(images_of(read_bytes(tmp_path)))
        lengths.append(np.mean([len(text.split()) for lines in caption_lines(tmp_path) for text in lines]))
        train = enumerate(shapes.scenes(section)["train"])
        facts.append(np.mean([t.facts for i, s in train for _, t in shapes.captions(section, "train", i, s)]))
    assert images[0] == images[1] == images[2]
    assert facts[0] > 1.2 * facts[1] > 1.4 * facts[2]
    assert lengths[0] > lengths[1] > lengths[2]


def test_negative_imbalance_changes_images_and_leaves_captions(tmp_path):
    shapes.prepare(SMALL, tmp_path / "0")
    shapes.prepare(SMALL.model_copy(update={"imbalance": -1.0}), tmp_path / "1")
    assert caption_lines(tmp_path / "0") == caption_lines(tmp_path / "1")
    full, poor = (images_of(read_bytes(tmp_path / name)) for name in "01")
    assert full.keys() == poor.keys()
    assert sum(full[name] != poor[name] for name in full) > 0.9 * len(full)


@given(streams, st.floats(-1, 0), st.floats(-1, 0))
def test_a_lower_imbalance_shows_less(stream, one, other):
    item = some_scene(stream)
    less, more = (shapes.shown(Shapes(imbalance=knob), "val", 0, item) for knob in sorted((one, other)))
    assert less.background in (None, more.background)
    for few, many, true in zip(less.things, more.things, item.things, strict=True):
        assert all(a in (None, b) for a, b in zip(astuple(few), astuple(many), strict=True))
        assert (few.row, few.column) == (true.row, true.column)


def nearest(palette: dict[str, scene.Rgb], pixel: np.ndarray) -> str:
    return min(palette, key=lambda name: np.abs(np.subtract(palette[name], pixel)).sum())


@given(streams, st.sampled_from([48, 64, 96]))
@settings(max_examples=50, deadline=None)
def test_the_image_shows_colours_places_and_background(stream, size):
    item = some_scene(stream)
    pixels = np.asarray(scene.render(item, size, Random(stream))).astype(int)
    taken = set()
    for thing in item.things:
        row, column = ROWS.index(thing.row), COLUMNS.index(thing.column)
        taken.add((row, column))
        if thing.shape != "ring":
            centre = pixels[(2 * row + 1) * size // 6, (2 * column + 1) * size // 6]
            assert nearest(scene.COLOURS, centre) == thing.colour
    for row, column in set(itertools.product(range(3), range(3))) - taken:
        assert (
            nearest(scene.BACKGROUNDS, pixels[(2 * row + 1) * size // 6, (2 * column + 1) * size // 6])
            == item.background
        )


@given(streams, st.sampled_from(["shape", "colour", "size"]))
@settings(max_examples=50, deadline=None)
def test_every_attribute_changes_the_image(stream, attribute):
    """With the same jitter, another value, or a hidden one, can be seen: many pixels change clearly."""
    item = some_scene(stream)
    thing = item.things[0]
    options = {"shape": scene.SHAPES, "colour": scene.COLOURS, "size": scene.RADII}[attribute]
    before = np.asarray(scene.render(item, 64, Random(stream))).astype(int)
    for value in (*options, None):
        if value != getattr(thing, attribute):
            changed = Scene(item.background, (replace(thing, **{attribute: value}), *item.things[1:]))
            after = np.asarray(scene.render(changed, 64, Random(stream))).astype(int)
            assert (np.abs(after - before).sum(axis=2) > 40).sum() >= 10
