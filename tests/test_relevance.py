"""Relevance against the definition: rouge_score itself, and pycocoevalcap's formula written out."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from typer.testing import CliRunner, Result

from rvlr import config, provenance, relevance
from rvlr.cli import app
from rvlr.data.records import Record, Split, read_split, write_splits
from rvlr.datasets.annotations import read_captions
from rvlr.errors import UserError
from rvlr.ownership import LEDGER

WORDS = [
    "a",
    "dog",
    "dogs",
    "running",
    "runs",
    "runner",
    "the",
    "ß",
    "über",
    "ﬁne",
    "İstanbul",
    "42",
    "x-ray",
    "🐕",
    "…",
]
words = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
long_caption = st.integers(0, 2**32).map(
    lambda seed: " ".join(np.random.default_rng(seed).choice(WORDS, 200))
)  # no hypothesis list: shrinking 200 words takes longer than all other tests
one_caption = st.one_of(
    words, words, st.text(max_size=25), st.sampled_from(["", " ", "  a  dog ", "?!", "🐕🐕", "a\tdog\n"])
)
caption_lists = st.lists(st.lists(one_caption, min_size=1, max_size=4), min_size=1, max_size=3)
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def matrix(images: list[list[str]], output: Path, scorer: str = "rouge-score", stemmer: bool = False) -> np.ndarray:
    captions = [caption for group in images for caption in group]
    offsets = np.cumsum([0, *map(len, images)])
    relevance.compute(captions, offsets, output, scorer, stemmer)
    return np.load(output)


def slow_rouge(images: list[list[str]], stemmer: bool) -> np.ndarray:
    scorer = RougeScorer(["rougeL"], use_stemmer=stemmer)
    rows = [
        [max(scorer.score(target, caption)["rougeL"].fmeasure for target in group) for group in images]
        for own in images
        for caption in own
    ]
    return np.array(rows, np.float32)


def slow_lcs(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, left in enumerate(first):
        for j, right in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_coco(images: list[list[str]]) -> np.ndarray:
    """The formula of pycocoevalcap's `Rouge.calc_score`, one candidate and its references at a time."""
    beta, rows = 1.2, []
    for candidate in (caption.split(" ") for own in images for caption in own):
        row = []
        for group in images:
            references = [reference.split(" ") for reference in group]
            common = [slow_lcs(reference, candidate) for reference in references]
            precision = max(count / len(candidate) for count in common)
            recall = max(count / len(reference) for count, reference in zip(common, references, strict=True))
            both = precision != 0 and recall != 0
            row.append((1 + beta**2) * precision * recall / (recall + beta**2 * precision) if both else 0.0)
        rows.append(row)
    return np.array(rows, np.float32)


@given(caption_lists, st.booleans())
@relaxed
def test_equals_rouge_score_bit_for_bit(tmp_path: Path, images: list[list[str]], stemmer: bool) -> None:
    assert matrix(images, tmp_path / "m.npy", stemmer=stemmer).tobytes() == slow_rouge(images, stemmer).tobytes()


@given(caption_lists)
@relaxed
def test_equals_the_coco_formula_bit_for_bit(tmp_path: Path, images: list[list[str]]) -> None:
    assert matrix(images, tmp_path / "m.npy", "coco-caption").tobytes() == slow_coco(images).tobytes()


@given(long_caption, long_caption, words)
@settings(relaxed, max_examples=8)
def test_long_captions(tmp_path: Path, first: str, second: str, short: str) -> None:
    images = [[first, short], [second]]
    assert matrix(images, tmp_path / "m.npy").tobytes() == slow_rouge(images, False).tobytes()
    assert matrix(images, tmp_path / "m.npy", "coco-caption").tobytes() == slow_coco(images).tobytes()


ODD = [["", "?!", " "], ["🐕🐕", "a 🐕", "🐕"], ["Über straße ﬁne", "uber"], ["dog"], ["dog", "a dog", "a dog", "DOG"]]


@pytest.mark.parametrize("scorer", ["rouge-score", "stemmed", "coco-caption"])
def test_odd_captions(tmp_path: Path, scorer: str) -> None:
    """Nothing left after tokenisation, emoji, letters beyond ASCII, one word, duplicates, 200 words."""
    images = [*ODD, [" ".join(np.random.default_rng(0).choice(WORDS, 200)), "a dog"]]
    if scorer == "coco-caption":
        found, expected = matrix(images, tmp_path / "m.npy", scorer), slow_coco(images)
    else:
        stemmer = scorer == "stemmed"
        found, expected = matrix(images, tmp_path / "m.npy", stemmer=stemmer), slow_rouge(images, stemmer)
        assert not found[:3].any()  # captions without a token
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("scorer", "stemmer"), [("rouge-score", False), ("rouge-score", True), ("coco-caption", False)]
)
def test_one_pair_equals_the_entry_of_the_matrix(tmp_path: Path, scorer: str, stemmer: bool) -> None:
    captions, whole = [text for group in ODD for text in group], matrix(ODD, tmp_path / "m.npy", scorer, stemmer)
    for row, caption in enumerate(captions):
        found = [relevance.compute_pair(caption, group, scorer, stemmer) for group in ODD]
        assert np.array_equal(np.float32(found), whole[row])


def test_captions_beyond_255_words(tmp_path: Path) -> None:
    images = [["dog " * 300], ["dog " * 299 + "cat"]]
    assert matrix(images, tmp_path / "m.npy") == pytest.approx(np.array([[1, 299 / 300], [299 / 300, 1]]))


def test_by_hand(tmp_path: Path) -> None:
    # "a dog runs" and "the dog runs fast" share "dog runs": P = 2/3, R = 2/4, F = 2 * 2 / (3 + 4) = 4/7;
    # "a cat" shares "a": F = 2 * 1 / (3 + 2) = 2/5
    images = [["A dog runs."], ["The dog runs fast!", "a cat"]]
    expected = np.array([[1, 4 / 7], [4 / 7, 1], [2 / 5, 1]])
    assert matrix(images, tmp_path / "m.npy") == pytest.approx(expected)


def test_coco_caption_by_hand(tmp_path: Path) -> None:
    # best precision 2/3 from the first reference, best recall 2/3 from the second: F = 2/3 for any beta
    images = [["a dog runs"], ["the dog runs very fast", "a dog sleeps"]]
    assert matrix(images, tmp_path / "m.npy", "coco-caption")[0, 1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("counts", [[1], [1, 6, 2], [5, 5, 5, 5], [1, 2, 3, 4, 5, 6]])
def test_any_number_of_captions(tmp_path: Path, counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    images = [[" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)] for count in counts]
    found = matrix(images, tmp_path / "m.npy")
    assert found.shape == (sum(counts), len(counts))
    assert found.tobytes() == slow_rouge(images, False).tobytes()


def test_batches_join_seamlessly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [["a dog", "two dogs"], ["a dog", "a cat runs"], ["cat", "a dog"], ["the end"]]
    whole = matrix(images, tmp_path / "m.npy")
    monkeypatch.setattr(relevance, "CAPTIONS_AT_ONCE", 2)
    assert matrix(images, tmp_path / "m.npy").tobytes() == whole.tobytes()


def test_no_word_becomes_a_surrogate() -> None:
    (string,) = relevance.encode([tuple(map(str, range(0xE100)))])
    assert len(set(string)) == 0xE100
    string.encode("utf-8")


@pytest.mark.parametrize("name", ["coco_val", "flickr30k_test", "vizwiz_test"])
@pytest.mark.parametrize("stemmer", [False, True])
def test_real_captions(shared: Path, tmp_path: Path, name: str, stemmer: bool) -> None:
    records = json.loads((shared / "data" / "captions" / f"{name}.json").read_text())
    images = [record["caption"] for record in records[:: len(records) // 6]]
    assert matrix(images, tmp_path / "m.npy", stemmer=stemmer).tobytes() == slow_rouge(images, stemmer).tobytes()


def split(*captions: str) -> Split:
    return Split("val", [Record(str(n), f"{n}.jpg", tuple(text.split("|"))) for n, text in enumerate(captions)], Path())


def test_written_and_read_back(tmp_path: Path) -> None:
    path, made_from = tmp_path / "relevance" / "val.npy", split("a dog|two dogs", "a cat")
    relevance.write(made_from, config.Relevance(), path)
    found = relevance.read(path, made_from)
    assert (found.shape, found.dtype, found.flags["C_CONTIGUOUS"], found.flags["WRITEABLE"]) == (
        (3, 2),
        "f4",
        True,
        False,
    )
    about = json.loads(path.with_suffix(".json").read_text())
    assert about.pop("provenance")["rvlr"]
    assert about == {
        "scorer": "rouge-score",
        "stemmer": False,
        "captions_per_image": {"least": 1, "most": 2},
        "offsets": [0, 2, 3],
        "checksum": made_from.checksum,
        "matrix": {"shape": [3, 2], "sha256": provenance.sha256(path)},
    }
    assert sorted(file.name for file in path.parent.iterdir() if file.name != LEDGER) == ["val.json", "val.npy"]


def test_reading_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "val.npy"
    with pytest.raises(UserError, match=r"val.json: no such file; run the relevance stage again"):
        relevance.read(path, split("a dog"))
    relevance.write(split("a dog|two dogs", "a cat"), config.Relevance(), path)
    with pytest.raises(UserError, match=r"made from other captions .* run the relevance stage again"):
        relevance.read(path, split("a dog|two dogs", "a hat"))
    np.save(path, np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match=r"2 x 2 found, 3 x 2 expected; run the relevance stage again"):
        relevance.read(path, split("a dog|two dogs", "a cat"))
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"<f8 numbers found, float32 .* expected; run"):
        relevance.read(path, split("a dog|two dogs", "a cat"))
    path.unlink()
    with pytest.raises(UserError, match=r"val.npy: no such file; run the relevance stage again"):
        relevance.read(path, split("a dog|two dogs", "a cat"))


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made_from = tmp_path / "val.npy", split("a dog|two dogs", "a cat")
    relevance.write(made_from, config.Relevance(), path)
    monkeypatch.setattr(relevance, "cdist", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relevance.write(made_from, config.Relevance(stemmer=True), path)
    assert [file.name for file in tmp_path.iterdir() if file.name != LEDGER] == ["val.npy"]


def test_the_captions_themselves_are_not_overwritten(tmp_path: Path) -> None:
    captions = tmp_path / "coco_val.json"
    captions.write_text(json.dumps([{"image": f"{name}.jpg", "caption": ["a dog"]} for name in "ab"]))
    made_from = read_captions(captions)
    with pytest.raises(UserError, match=r"coco_val\.json: exists, and rvlr did not make it"):
        relevance.write(made_from, config.Relevance(), captions.with_suffix(".npy"))
    with pytest.raises(UserError, match="the matrix is written as"):
        relevance.write(made_from, config.Relevance(), captions)
    assert captions.read_text().startswith("[")


AUTHORS = [
    {"image": "val2014/b.jpg", "caption": ["one", "two", "three", "four", "five", "six"]},
    {"image": "val2014/a.jpg", "caption": ["a dog", "two dogs"]},
]


def test_both_kinds_of_captions_are_read(tmp_path: Path) -> None:
    path, records = tmp_path / "coco_val.json", [Record("b", "b.jpg", ("one", "two")), Record("a", "a.jpg", ("a dog",))]
    path.write_text(json.dumps(AUTHORS))
    found = read_captions(path)
    assert [record.image for record in found.records] == ["val2014/b.jpg", "val2014/a.jpg"]
    assert found.captions == [*AUTHORS[0]["caption"], *AUTHORS[1]["caption"]]
    assert read_captions(path, 5).offsets.tolist() == [0, 5, 7]
    train = [{"image": name, "caption": text, "image_id": 1} for name, text in (("b", "1"), ("a", "2"), ("b", "3"))]
    (tmp_path / "train.json").write_text(json.dumps(train))
    assert read_captions(tmp_path / "train.json").captions == ["1", "3", "2"]
    write_splits(tmp_path, {"train": records, "val": [], "test": []}, "images")
    assert read_captions(tmp_path / "train.jsonl").checksum == read_split(tmp_path / "train.jsonl").checksum
    assert read_captions(tmp_path / "train.jsonl", 1).captions == ["one", "a dog"]
    with pytest.raises(UserError, match=r"'\.txt' found; allowed endings"):
        read_captions(tmp_path / "captions.txt")
    path.write_text('[{"image": "a.jpg", "caption": [3]}]')
    with pytest.raises(UserError, match=r"(?s)1 fault.*\[0\]\.caption\[0\]: found 3; give text"):
        read_captions(path)


def test_command_line(tmp_path: Path) -> None:
    captions, frozen = tmp_path / "coco_val.json", tmp_path / "relevance.yaml"
    captions.write_text(json.dumps(AUTHORS))
    frozen.write_text("scorer: coco-caption\nstemmer: false\n")

    def run(*options: str) -> Result:
        paths = ["--captions", str(captions), "--output", str(tmp_path / "m.npy")]
        return CliRunner().invoke(app, ["relevance", *paths, *options])

    for options, scorer, stemmer, count in (
        ([], "rouge-score", False, 8),
        (["--stemmer", "--captions-per-image", "5"], "rouge-score", True, 7),
        (["--scorer", "coco-caption"], "coco-caption", False, 8),
        (["--config", str(frozen)], "coco-caption", False, 8),
    ):
        found = run(*options)
        assert found.exit_code == 0, found.output
        about = json.loads((tmp_path / "m.json").read_text())
        assert (about["scorer"], about["stemmer"], about["offsets"][-1]) == (scorer, stemmer, count)
        assert np.load(tmp_path / "m.npy").shape == (count, 2)
    for options in (["--config", str(frozen), "--scorer", "rouge-score"], ["--config", str(frozen), "--stemmer"]):
        assert "give either it or --scorer and --stemmer" in str(run(*options).exception)
    assert isinstance(run("--scorer", "bleu").exception, UserError)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0, 2, 2, 3], "image 1 .* has no caption"), ([0, 2], "number of captions, 3"), ([0], "one image or more")],
)
def test_offsets_must_fit(tmp_path: Path, offsets: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        relevance.compute(["a", "b", "c"], np.array(offsets), tmp_path / "m.npy", "rouge-score", False)
    assert not list(tmp_path.iterdir())


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'bleu' found; 'rouge-score' or 'coco-caption' allowed"):
        relevance.compute(["a"], np.array([0, 1]), tmp_path / "m.npy", "bleu", False)
    with pytest.raises(UserError, match="has no stemmer"):
        relevance.compute(["a"], np.array([0, 1]), tmp_path / "m.npy", "coco-caption", True)
    with pytest.raises(UserError, match="has no stemmer"):
        config.parse({"scorer": "coco-caption", "stemmer": True}, "test", config.Relevance)
