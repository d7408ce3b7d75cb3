"""Relevance from the scenes of `shapes`: what they have in common, and that models are judged by it, too."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from typer.testing import CliRunner

from rvlr import config, relevance
from rvlr.cli import app
from rvlr.config import Shapes
from rvlr.data.features import write_index
from rvlr.data.records import read_split, write_splits
from rvlr.datasets import shapes
from rvlr.datasets.shapes import scene, similarity
from rvlr.datasets.shapes.scene import COLUMNS, ROWS, Scene, Thing
from rvlr.errors import UserError
from rvlr.evaluation import corrected, features, mixed, rankings, stage
from rvlr.evaluation.inputs import Inputs
from rvlr.evaluation.scoring import score
from rvlr.models.retrieval import RetrievalModel

SMALL = Shapes(train=2, val=2, test=7, seed=3, captions_per_image=2)
CIRCLE = Thing("circle", "red", "small", "top", "left")
STAR = Thing("star", "blue", "large", "bottom", "left")
RING = Thing("ring", "green", "small", "middle", "right")


def matrix(scenes: Sequence[Scene]) -> np.ndarray:
    return np.concatenate(list(similarity.similarity(scenes)))


# --- what two scenes have in common ----------------------------------------------------------------------------------


def facts(item: Scene, names: Sequence[int]) -> set[tuple[object, ...]]:
    """The facts of a scene as tuples; its things are called by these names."""
    found: set[tuple[object, ...]] = {("background", item.background)}
    for name, thing in zip(names, item.things, strict=True):
        found |= {(name, field, value) for field, value in enumerate(astuple(thing))}
    for (name, one), (other_name, other) in itertools.permutations(zip(names, item.things, strict=True), 2):
        if COLUMNS.index(one.column) < COLUMNS.index(other.column):
            found.add((name, "left of", other_name))
        if ROWS.index(one.row) < ROWS.index(other.row):
            found.add((name, "above", other_name))
    return found


def pairings(one: Scene, other: Scene) -> Iterator[tuple[range, list[int]]]:
    """Names for the things of both: same name, same thing. Things without a counterpart have names of their own."""
    first, count = range(len(one.things)), len(other.things)
    for chosen in itertools.product([*first, None], repeat=count):
        taken = [name for name in chosen if name is not None]
        if len(set(taken)) == len(taken):
            yield first, [100 + place if name is None else name for place, name in enumerate(chosen)]


def slow(one: Scene, other: Scene) -> float:
    """The F-measure of the best pairing, written out."""
    best = 0.0
    for names, other_names in pairings(one, other):
        mine, theirs = facts(one, names), facts(other, other_names)
        shared = len(mine & theirs)
        if shared:
            precision, recall = shared / len(theirs), shared / len(mine)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def test_scenes_worked_by_hand() -> None:
    scenes = [
        Scene("white", (CIRCLE, STAR)),  # 1 background, 2 x 5 attributes, the circle is above the star: 12 facts
        Scene("white", (replace(CIRCLE, colour="blue"), STAR)),  # all but the colour
        Scene("black", (CIRCLE, STAR)),  # all but the background
        Scene("white", (CIRCLE,)),  # 6 facts, all shared
        Scene("white", (replace(STAR, row="top"), replace(CIRCLE, row="bottom"))),  # the places exchanged
        Scene("white", (CIRCLE, RING, STAR)),  # 1 + 15 + 5 relations: 21 facts, 12 of them shared
        Scene("black", (RING,)),  # 6 facts; small, as the circle is
    ]
    found = matrix(scenes)
    # places exchanged: things by their looks share background and 2 x 4 attributes, but not the relation: 9 of 12;
    # things by their places share background, 2 x 2 attributes and the relation: 6 of 12
    shared, counts = [12, 11, 11, 6, 9, 12, 1], [12, 12, 12, 6, 12, 21, 6]
    assert found[0] == pytest.approx([2 * same / (12 + count) for same, count in zip(shared, counts, strict=True)])
    # the ring is left of nothing here
    assert found[5, 6] == pytest.approx(2 * 5 / (21 + 6))


def test_two_things_of_one_are_not_one_thing_of_the_other() -> None:
    twins = Scene("white", (CIRCLE, replace(CIRCLE, column="right")))
    assert matrix([twins, Scene("white", (CIRCLE,))])[0, 1] == pytest.approx(2 * 6 / (12 + 6))


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_slow_version(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "SCENES_AT_ONCE", 5)
    scenes = [scene.sample(seed, Random(f"{seed}/{index}")) for index in range(12)]
    assert {len(item.things) for item in scenes} == {2, 3, 4}
    expected = [[slow(one, other) for other in scenes] for one in scenes]
    assert matrix(scenes) == pytest.approx(np.array(expected), abs=1e-6)


def test_it_is_symmetric_and_1_for_the_same_scene_alone() -> None:
    found = matrix(shapes.scenes(Shapes(train=1, val=2))["test"])
    assert found.shape == (400, 400)
    assert found.dtype == np.float32
    assert np.array_equal(found, found.T)
    assert np.array_equal(found == 1, np.eye(400, dtype=bool))
    assert found.min() >= 0
    assert len(np.unique(found)) > 100  # graded


def test_the_order_of_the_things_does_not_matter() -> None:
    scenes = shapes.scenes(SMALL)["test"]
    turned = [Scene(item.background, item.things[::-1]) for item in scenes]
    both = matrix([*scenes, *turned])
    assert np.array_equal(both[:7, :7], both[:7, 7:])


# --- the matrix of a split -------------------------------------------------------------------------------------------


def prepared(section: Shapes, folder: Path) -> Path:
    shapes.prepare(section, folder)
    return folder / "splits/test.jsonl"


def test_every_caption_has_the_relevance_of_its_image(tmp_path: Path) -> None:
    split, path = read_split(prepared(SMALL, tmp_path)), tmp_path / "scenes-test.npy"
    relevance.write_scenes(split, SMALL, path)
    found = relevance.read(path, split, by_scenes=True)
    assert np.array_equal(found, np.repeat(matrix(shapes.scenes(SMALL)["test"]), 2, axis=0))
    assert (found[np.arange(14), split.caption_image] == 1).all()
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["scorer"] == "scenes"
    assert about["offsets"] == split.offsets.tolist()


def test_the_imbalance_leaves_it_as_it_is(tmp_path: Path) -> None:
    found, captions = [], []
    for imbalance in (-0.5, 0, 0.8):
        section = SMALL.model_copy(update={"imbalance": imbalance})
        split = read_split(prepared(section, tmp_path / str(imbalance)))
        relevance.write_scenes(split, section, tmp_path / f"{imbalance}.npy")
        found.append((tmp_path / f"{imbalance}.npy").read_bytes())
        captions.append(split.captions)
    assert found[0] == found[1] == found[2]
    assert captions[0] == captions[1] != captions[2]


@pytest.mark.parametrize("wrong", [{"seed": 4}, {"imbalance": 0.5}, {"captions_per_image": 3}, {"test": 6}])
def test_a_split_of_other_scenes_is_refused(wrong: dict[str, float], tmp_path: Path) -> None:
    split = read_split(prepared(SMALL, tmp_path))
    with pytest.raises(UserError, match=r"the split 'test' has other captions than those of the scenes"):
        relevance.write_scenes(split, SMALL.model_copy(update=wrong), tmp_path / "m.npy")
    assert not (tmp_path / "m.npy").exists()


def test_the_command_writes_it_for_shapes_alone(tmp_path: Path) -> None:
    split, output = prepared(SMALL, tmp_path / "data"), tmp_path / "m.npy"
    command = ["scene-relevance", "--split", str(split), "--output", str(output)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert relevance.read(output, read_split(split), by_scenes=True).shape == (14, 7)
    other = tmp_path / "other"
    write_splits(other, {name: read_split(split).records for name in ("train", "val", "test")}, "images")
    done = CliRunner().invoke(app, [*command[:2], str(other / "test.jsonl"), "--output", str(tmp_path / "n.npy")])
    assert isinstance(done.exception, UserError)
    assert "not of the data set shapes, whose scenes alone are known" in str(done.exception)
    assert not (tmp_path / "n.npy").exists()


# --- models are judged by it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrices(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The relevance of the tiny test split, by words and by scenes."""
    folder, split = tmp_path_factory.mktemp("relevance"), read_split(tiny_data / "splits/test.jsonl")
    relevance.write(split, config.Relevance(), folder / "test.npy")
    settings = json.loads((tiny_data / "splits/dataset.json").read_text())["settings"]
    relevance.write_scenes(split, Shapes(**settings), folder / "scenes-test.npy")
    return folder / "test.npy", folder / "scenes-test.npy"


def test_a_model_is_judged_by_both(
    tiny_data: Path, tiny_model: Path, matrices: tuple[Path, Path], tmp_path: Path
) -> None:
    split_file, (words, scenes) = tiny_data / "splits/test.jsonl", matrices
    split = read_split(split_file)
    plain = config.Scoring(candidates=4, workers=0, subsets=["folds-5"])
    both = plain.model_copy(update={"scene_relevance": True})
    stage.evaluate(plain, "initial-base", 0, tiny_model, split_file, words, tmp_path / "plain")
    stage.evaluate(both, "initial-base", 0, tiny_model, split_file, words, tmp_path / "both", None, scenes)
    before, after = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("plain", "both"))
    added = {"corrected/scenes", "corrected/scenes/folds-5"}
    assert after["protocols"].keys() - before["protocols"].keys() == added
    assert {name: after["protocols"][name] for name in before["protocols"]} == before["protocols"]
    assert after["inputs"].keys() - before["inputs"].keys() == {"scenes_sha256"}

    found, by_words = (after["protocols"][name] for name in ("corrected/scenes", "corrected"))
    inputs = score(
        RetrievalModel.from_pretrained(tiny_model), split, relevance.read(scenes, split, by_scenes=True), plain
    )
    expected = corrected.evaluate(inputs)
    mixed.add(expected, inputs, None)
    assert found == pytest.approx(expected.numbers)
    assert found["r_mean"] == by_words["r_mean"]
    assert all(found[f"{way}_ndcg@10"] != by_words[f"{way}_ndcg@10"] for way in ("i2i", "t2t", "i2it", "t2it"))

    values = rankings.read_values(tmp_path / "both/rankings.npz", found, rankings.SCENES)
    for name in ("i2i_ndcg@10", "t2it_ndcg@50"):
        assert values.values[name] == pytest.approx(expected.per_query[name])
    assert values.queries["per_query/t2t_query"].tolist() == list(range(len(split.captions)))
    with pytest.raises(UserError, match="averages to"):
        rankings.read_values(tmp_path / "both/rankings.npz", by_words, rankings.SCENES)
    with pytest.raises(UserError, match="not the rankings of a run"):
        rankings.read_values(tmp_path / "plain/rankings.npz", by_words, rankings.SCENES)


def test_raw_features_are_judged_by_both(tiny_data: Path, matrices: tuple[Path, Path], tmp_path: Path) -> None:
    split_file, (words, scenes) = tiny_data / "splits/test.jsonl", matrices
    split, generator = read_split(split_file), np.random.default_rng(0)
    image, text = (generator.normal(size=(rows, 5)).astype(np.float32) for rows in (12, 24))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "text.npy", text)
    write_index(tmp_path, split)
    section = config.Scoring(subsets=["first-5"], scene_relevance=True)
    features.evaluate(section, "teacher-pair", 0, tmp_path, split_file, words, tmp_path / "eval", scenes)
    record = json.loads((tmp_path / "eval/test.json").read_text())
    gains = relevance.read(scenes, split, by_scenes=True)
    for name, images in (("corrected/scenes", 12), ("corrected/scenes/first-5", 5)):
        parts = image[:images], text[: 2 * images], gains[: 2 * images, :images], split.caption_image[: 2 * images]
        assert record["protocols"][name] == pytest.approx(corrected.single_modal(Inputs.of_features(*parts)).numbers)
    assert "scenes_sha256" in record["inputs"]


def test_one_matrix_is_not_taken_for_the_other(tiny_data: Path, matrices: tuple[Path, Path]) -> None:
    split, (words, scenes) = read_split(tiny_data / "splits/test.jsonl"), matrices
    with pytest.raises(UserError, match=r"/test\.npy: relevance by words found, by scenes expected"):
        relevance.read(words, split, by_scenes=True)
    with pytest.raises(UserError, match=r"scenes-test\.npy: relevance by scenes found, by words expected"):
        relevance.read(scenes, split)


@pytest.mark.parametrize(
    ("wanted", "options", "says"),
    [
        ("true", [], "scene_relevance: true; give the matrix that rvlr scene-relevance writes"),
        ("false", ["--scenes", "scenes.npy"], "scene_relevance: false; leave it out"),
    ],
)
def test_the_section_and_the_option_must_agree(wanted: str, options: list[str], says: str, tmp_path: Path) -> None:
    section = tmp_path / "evaluation.yaml"
    section.write_text(f"scene_relevance: {wanted}\n")
    command = ["evaluate", "--config", str(section), "--run", "initial-base", "--seed", "0", "--model", "model"]
    command += ["--split", "test.jsonl", "--relevance", "test.npy", "--output", str(tmp_path / "eval"), *options]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UserError)
    assert str(done.exception).endswith(says)


def test_only_shapes_knows_its_scenes() -> None:
    study = {
        "dataset": {"kind": "custom", "name": "mine", "images": "photos", "captions": "captions.csv"},
        "models": {"base": {}},
        "teachers": {"t": {}},
        "evaluation": {"scene_relevance": True},
    }
    with pytest.raises(UserError) as caught:
        config.parse(study, "my.yaml")
    assert str(caught.value) == (
        "my.yaml: 1 fault in the configuration\n  evaluation.scene_relevance: true, but what images show is known of "
        "the data set shapes alone, not of 'custom'; leave it out"
    )
    assert config.parse({**study, "dataset": "shapes"}, "my.yaml").evaluation.scene_relevance
