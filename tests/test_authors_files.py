"""The authors' feature and relevance files, both ways, against rows picked one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from typer.testing import CliRunner

from rvlr import arrays, config, provenance, relevance
from rvlr.cli import app
from rvlr.convert import features as converted
from rvlr.convert import relevance as converted_relevance
from rvlr.convert.features import IMAGE_FILE, TEXT_FILE
from rvlr.convert.rows import Scatter, read_rows
from rvlr.data import stored
from rvlr.data.features import read_features, write_index
from rvlr.data.records import Record, Split, read_split, write_splits
from rvlr.datasets.annotations import read_captions
from rvlr.errors import UserError

IMAGES = {  # two captions of c.jpg are the same, b.jpg has six
    "val/a.jpg": ["a dog", "A dog!", "two dogs"],
    "val/b.jpg": ["one", "two", "three", "four", "five", "six"],
    "train/c.jpg": ["a cat", "a hat", "a cat"],
    "train/d.jpg": ["a dog"],
}
WIDTHS = {"image": 7, "text": 5}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "VALUES_AT_ONCE", 3 * 7)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Training images as Flickr30K's: the first five captions of each."""
    records = [Record(Path(image).stem, image, tuple(texts[:5])) for image, texts in IMAGES.items()]
    write_splits(tmp_path / "splits", {"train": records, "val": [], "test": []}, "images")
    return read_split(tmp_path / "splits/train.jsonl")


@pytest.fixture
def annotations(tmp_path: Path) -> list[Path]:
    """As Flickr30K's: a train file, one caption a record, images mixed, then a val file."""
    order = [("train/d.jpg", 0), ("train/c.jpg", 2), ("train/c.jpg", 1), ("train/c.jpg", 0)]
    train = [{"image": image, "caption": IMAGES[image][n], "image_id": f"train_{n}"} for image, n in order]
    val = [{"image": image, "caption": IMAGES[image]} for image in ("val/b.jpg", "val/a.jpg")]
    paths = [tmp_path / "flickr30k_train.json", tmp_path / "flickr30k_val.json"]
    for path, content in zip(paths, (train, val), strict=True):
        path.write_text(json.dumps(content))
    return paths


ROWS = [  # what the rows of these two files stand for: image and caption of the split
    *[(3, 0), (2, 0), (2, 1), (2, 2)],  # both "a cat" are alike: the first in the file is the first of the split
    *[(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)],
    *[(0, 0), (0, 1), (0, 2)],
]


@pytest.fixture
def features(tmp_path: Path, split: Split) -> Path:
    folder, rng = tmp_path / "features", np.random.default_rng(0)
    folder.mkdir()
    for name, count in (("image", len(split.records)), ("text", len(split.captions))):
        np.save(folder / f"{name}.npy", rng.normal(size=(count, WIDTHS[name])).astype(np.float32))
    write_index(folder, split)
    return folder


def written(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted(folder.glob("*.npy"))}


def test_export_picks_the_rows_in_the_authors_order(
    features: Path, split: Split, annotations: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/theirs.npy").touch()
    converted.export_features(features, split, annotations, tmp_path / "out")
    ours, (image, text) = written(features), (np.load(tmp_path / "out" / name) for name in (IMAGE_FILE, TEXT_FILE))
    assert image.dtype == text.dtype == np.float32
    assert len(image) == len(text) == len(ROWS)
    for row, (index, number) in enumerate(ROWS):
        assert np.array_equal(image[row], ours["image.npy"][index])
        assert np.array_equal(text[row], ours["text.npy"][split.offsets[index] + number])
    assert (tmp_path / "out/theirs.npy").exists()


@pytest.mark.parametrize("in_split_order", [False, True])
def test_round_trips_are_exact(
    features: Path, split: Split, annotations: list[Path], tmp_path: Path, in_split_order: bool
) -> None:
    if in_split_order:  # one file, one record an image
        annotations = [tmp_path / "train.json"]
        lists = [{"image": record.image, "caption": record.captions} for record in split.records]
        annotations[0].write_text(json.dumps(lists))
    there, back, again = tmp_path / "there", tmp_path / "back", tmp_path / "again"
    converted.export_features(features, split, [] if in_split_order else annotations, there)
    converted.import_features(there / IMAGE_FILE, there / TEXT_FILE, annotations, split, back)
    for name, rows in written(features).items():
        assert np.array_equal(np.load(back / name), rows), name
    converted.export_features(back, split, annotations, again)
    for name in (IMAGE_FILE, TEXT_FILE):
        assert (again / name).read_bytes() == (there / name).read_bytes()


def test_imported_features_say_so_and_are_accepted(split: Split, annotations: list[Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    theirs = {name: rng.normal(size=(len(ROWS), width)).astype(np.float32) for name, width in WIDTHS.items()}
    theirs["image"] += 3 * rng.normal(size=(4, WIDTHS["image"]))[[image for image, _ in ROWS]]  # an image's are alike
    for name, rows in theirs.items():
        np.save(tmp_path / f"{name}.npy", rows)
    files = tmp_path / "image.npy", tmp_path / "text.npy"
    converted.import_features(*files, annotations, split, tmp_path / "out")
    found = read_features(tmp_path / "out", split)
    largest = 0.0
    for index in range(len(split.records)):
        rows = np.stack([theirs["image"][row] for row, (image, _) in enumerate(ROWS) if image == index]).astype(float)
        np.testing.assert_allclose(found.image[index], rows.mean(axis=0), rtol=1e-6)
        largest = max(largest, np.abs(rows - rows.mean(axis=0)).max())
    for row, (index, number) in enumerate(ROWS):
        assert np.array_equal(found.text[split.offsets[index] + number], theirs["text"][row])
    about = json.loads((tmp_path / "out/index.json").read_text())["imported"]
    assert about["largest_deviation"] == pytest.approx(largest)
    assert about["image"] == {"file": "image.npy", "sha256": provenance.sha256(files[0])}
    assert [file["file"] for file in about["annotations"]] == ["flickr30k_train.json", "flickr30k_val.json"]


def test_imported_features_are_a_stored_teachers(
    features: Path, split: Split, annotations: list[Path], tmp_path: Path
) -> None:
    converted.export_features(features, split, annotations, tmp_path)
    converted.import_features(tmp_path / IMAGE_FILE, tmp_path / TEXT_FILE, annotations, split, tmp_path / "imported")
    stored.copy(tmp_path / "imported", split, tmp_path / "copied")
    for name, rows in written(features).items():
        assert np.array_equal(np.load(tmp_path / "copied" / name), rows), name
    np.save(tmp_path / "imported/text.npy", np.load(tmp_path / "imported/text.npy") * 2)
    with pytest.raises(UserError, match=r"imported/text\.npy: changed since it was made"):
        stored.copy(tmp_path / "imported", split, tmp_path / "copied")


def test_annotations_in_another_order_are_noticed(tmp_path: Path) -> None:
    records = [Record(f"{n}", f"{n}.jpg", tuple(f"{n} {times}" for times in range(5))) for n in range(30)]
    lists = [{"image": record.image, "caption": record.captions} for record in records]
    (tmp_path / "theirs.json").write_text(json.dumps(lists))
    rows = np.random.default_rng(0).normal(size=(30, 6)).repeat(5, axis=0)
    for name in ("image", "text"):
        np.save(tmp_path / f"{name}.npy", rows.astype(np.float32))
    files, split = (tmp_path / "image.npy", tmp_path / "text.npy"), Split("train", records, tmp_path)
    converted.import_features(*files, [tmp_path / "theirs.json"], split, tmp_path / "out")
    np.save(files[0], np.random.default_rng(1).permutation(rows).astype(np.float32))
    with pytest.raises(UserError, match=r"image\.npy: rows of one image differ as much as those of different images"):
        converted.import_features(*files, [tmp_path / "theirs.json"], split, tmp_path / "out")
    assert read_features(tmp_path / "out", split)  # what was there is kept


def laid(tmp_path: Path, captions: int, images: int = 40) -> tuple[np.ndarray, np.ndarray, Split, list[Path]]:
    """Rows of images and of captions, of which every image shares its first, and the annotations they belong to."""
    records = [
        Record(f"{n}", f"{n}.jpg", ("a dog", *(f"{n} {times}" for times in range(1, captions)))) for n in range(images)
    ]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([{"image": record.image, "caption": record.captions} for record in records]))
    rng, split = np.random.default_rng(0), Split("train", records, tmp_path)
    image = rng.normal(size=(images, 6)).repeat(captions, axis=0) + 0.3 * rng.normal(size=(images * captions, 6))
    text = rng.normal(size=(images * captions, 5))
    text[::captions] = text[0]
    return image.astype(np.float32), text.astype(np.float32), split, [path]


@pytest.mark.parametrize("captions", [1, 2, 3, 5])
@pytest.mark.parametrize("shuffled", [None, "image", "text"])
def test_shuffled_rows_are_noticed_for_any_number_of_captions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, captions: int, shuffled: str | None
) -> None:
    image, text, split, annotations = laid(tmp_path, captions)
    order = np.random.default_rng(1).permutation(len(image))
    np.save(tmp_path / "image.npy", image[order] if shuffled == "image" else image)
    np.save(tmp_path / "text.npy", text[order] if shuffled == "text" else text)
    files = tmp_path / "image.npy", tmp_path / "text.npy"
    if shuffled is None or captions == 1:  # one row an image, and one caption for all: nothing to see
        with caplog.at_level("WARNING"):
            converted.import_features(*files, annotations, split, tmp_path / "out")
        said = caplog.text.count("cannot be checked: too few are of one image")
        assert said == (captions == 1)
        return
    alike = {"image": "one image", "text": "one caption"}[shuffled]
    with pytest.raises(UserError, match=rf"{shuffled}\.npy: rows of {alike} differ as much as"):
        converted.import_features(*files, annotations, split, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_expected_spread_is_the_mean_over_orders() -> None:
    rng, counts = np.random.default_rng(0), np.array([1, 2, 5, 3, 3])
    rows, within = rng.normal(size=(counts.sum(), 4)), []
    for _ in range(2000):
        spread = Scatter(4)
        spread.add(rng.permutation(rows), counts)
        within.append(spread.within)
    assert spread.total == pytest.approx(np.square(rows - rows.mean(axis=0)).sum())
    assert np.mean(within) == pytest.approx(spread.expected, rel=0.01)


def test_one_file_with_a_record_a_caption_has_rows_for_all(tmp_path: Path) -> None:
    path = tmp_path / "coco_train.json"
    rows = [("b.jpg", caption) for caption in IMAGES["val/b.jpg"]]
    path.write_text(json.dumps([{"image": image, "caption": text, "image_id": 7} for image, text in rows]))
    assert read_rows([path]) == rows
    (tmp_path / "more.json").write_text(json.dumps([{"image": "e.jpg", "caption": ["last"]}]))
    assert read_rows([path, tmp_path / "more.json"]) == [*rows[:5], ("e.jpg", "last")]


def test_features_that_do_not_fit(features: Path, split: Split, annotations: list[Path], tmp_path: Path) -> None:
    there = tmp_path / "there"
    converted.export_features(features, split, annotations, there)
    image, text, output = there / IMAGE_FILE, there / TEXT_FILE, tmp_path / "out"

    def fails(message: str, files: list[Path] = annotations) -> None:
        with pytest.raises(UserError, match=message):
            converted.import_features(image, text, files, split, output)
        assert not (output / "index.json").exists()

    fails(
        r"embed_regu\.npy: shape 12 x 7 found, 4 x any expected: the annotation files have 4 captions", annotations[:1]
    )
    rows = np.load(text)
    rows[-1, 0] = np.nan
    np.save(text, rows)
    fails(r"text_embed_regu\.npy: row 11 \(counted from 0\) contains NaN or infinity")
    assert not output.exists()
    np.save(text, np.zeros((12, 5)))
    fails("float64 found, float32 expected")
    np.save(text, np.zeros((12, 5), np.float32))
    val = json.loads(annotations[1].read_text())
    val[1]["caption"][1] = "a dog."
    annotations[1].write_text(json.dumps(val))
    fails(r"1 of the 12 captions of the split 'train' not found, the first being 'A dog!' of image 'val/a\.jpg'; ")
    val[1] |= {"image": "a.jpg"}
    annotations[1].write_text(json.dumps(val))
    fails(r"3 of the 12 captions .*the first image there is 'train/d\.jpg'")
    with pytest.raises(UserError, match=r"the split 'train': 3 of the 12 captions of .*flickr30k_val\.json not found"):
        converted.export_features(features, split, annotations, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    annotations[1].write_text(json.dumps([{"image": "x.jpg", "caption": [""]}]))
    fails(r"\[0\]\.caption\[0\]: found ''; it must be a caption")


# --- relevance ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captions_file(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of COCO in the authors' format, the first with six captions."""
    records = json.loads((shared / "data/captions/coco_val.json").read_text())
    records.sort(key=lambda record: -len(record["caption"]))
    path = tmp_path_factory.mktemp("captions") / "coco_test.json"
    path.write_text(json.dumps([records[0], *records[100:111]]))
    return path


@pytest.fixture(scope="module")
def theirs(captions_file: Path) -> np.ndarray:
    """(captions, images), by rouge_score itself."""
    images = [record["caption"][:5] for record in json.loads(captions_file.read_text())]
    score = RougeScorer(["rougeL"]).score
    return np.array(
        [
            [max(score(target, caption)["rougeL"].fmeasure for target in targets) for targets in images]
            for own in images
            for caption in own
        ]
    )


def run(*arguments: Any) -> str:
    """Run a command; returns what it logged. Its UserError is raised again."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None:
        raise found.exception
    return found.stderr


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relevance_both_ways(captions_file: Path, theirs: np.ndarray, tmp_path: Path, dtype: str) -> None:
    flat, output = tmp_path / "coco-rougeL.npy", tmp_path / "test.npy"
    np.save(flat, theirs.astype(dtype).flatten())
    options = ["--captions", captions_file, "--captions-per-image", 5]
    messages = run("import-relevance", flat, *options, "--output", output)
    assert "200 of 200 sampled values agree with rouge-score" in messages
    split = read_captions(captions_file, 5)
    assert np.array_equal(relevance.read(output, split), theirs.astype(dtype).astype(np.float32))
    about = json.loads(output.with_suffix(".json").read_text())["imported"]
    assert (about["sampled"], about["agreeing"], about["file"]) == (200, 200, flat.name)
    run("export-relevance", output, *options, "--output", tmp_path / "again.npy")
    assert np.array_equal(np.load(tmp_path / "again.npy"), theirs.astype(dtype).astype(np.float32).flatten())


def test_what_we_compute_can_be_exported_and_imported(captions_file: Path, tmp_path: Path) -> None:
    options = ["--captions", captions_file, "--scorer", "coco-caption", "--output"]
    run("relevance", *options, tmp_path / "ours.npy")
    run("export-relevance", tmp_path / "ours.npy", *options[:2], "--output", tmp_path / "flat.npy")
    assert np.load(tmp_path / "flat.npy").shape == (61 * 12,)
    run("import-relevance", tmp_path / "flat.npy", *options, tmp_path / "back.npy")
    assert (tmp_path / "back.npy").read_bytes() == (tmp_path / "ours.npy").read_bytes()


def test_relevance_that_does_not_fit(
    captions_file: Path, theirs: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output, five = tmp_path / "flat.npy", tmp_path / "test.npy", read_captions(captions_file, 5)

    def fails(values: np.ndarray, message: str, split: Split = five, **section: Any) -> None:
        np.save(path, values)
        with pytest.raises(UserError, match=message):
            converted_relevance.import_relevance(path, split, config.Relevance(**section), output)
        assert not output.exists()

    flat = theirs.flatten()
    fails(flat, "720 found, 732 expected: 61 captions x 12 images.*first 5", read_captions(captions_file))
    fails(theirs, "60 x 12 found, 720 expected")
    fails(flat.astype(int), "int64 found")
    fails(
        flat, r"agree: 200 with rouge-score, 1?\d\d with rouge-score and stemmer, \d+ with coco", scorer="coco-caption"
    )
    fails(
        theirs[:, ::-1].flatten(), r"of 200 sampled values agree: \d?\d with rouge-score, .*not in the order of 'coco_t"
    )
    monkeypatch.setattr(converted_relevance, "SAMPLED", 0)
    fails(
        theirs[:, ::-1].flatten(), r"\d\d captions have a relevance other than 1 to their own image, the first being '"
    )
    for value in (1.5, -0.1, np.nan):
        wrong = theirs.copy()
        wrong[50, 0] = value
        fails(wrong.flatten(), r"values from .* for caption 50 \(counted from 0\); a relevance lies between 0 and 1")


def test_features_on_the_command_line(features: Path, annotations: list[Path], tmp_path: Path) -> None:
    files = [part for path in annotations for part in ("--annotations", path)]
    options = ["--split", tmp_path / "splits/train.jsonl", *files, "--output"]
    run("export-features", "--features", features, *options, tmp_path / "there")
    theirs = ["--image", tmp_path / "there" / IMAGE_FILE, "--text", tmp_path / "there" / TEXT_FILE]
    messages = run("import-features", *theirs, *options, tmp_path / "back")
    assert "rows of one image differ from their mean by up to 0" in messages
    assert (tmp_path / "back/text.npy").read_bytes() == (features / "text.npy").read_bytes()
