"""People's judgements in evaluations, tables, the configuration and the command `rvlr agreement`."""

import csv
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, shipped
from PIL import Image
from rouge_score.rouge_scorer import RougeScorer
from test_judgements import caption, image, made_up_split, originals, write
from typer.testing import CliRunner

from rvlr import config, relevance
from rvlr.cli import app
from rvlr.config import checks
from rvlr.data.features import write_index
from rvlr.data.records import SPLITS, Record, Split, read_split, write_splits
from rvlr.errors import UserError
from rvlr.evaluation import features, judged
from rvlr.evaluation.inputs import Inputs
from rvlr.evaluation.scoring import score
from rvlr.judgements import agreement, correlation, cxc
from rvlr.models.retrieval import RetrievalModel
from rvlr.report import results, tables


@pytest.fixture(scope="module")
def coco_like(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared splits whose images are named like COCO's, `relevance.npy` of test, and `cxc` with ratings."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(5)
    (folder / "images/val2014").mkdir(parents=True)
    texts = iter(read_split(tiny_data / "splits/train.jsonl").captions)  # whose words the tiny model knows
    records = [replace(record, captions=tuple(islice(texts, 5))) for record in made_up_split(8).records]
    split = Split("test", records, folder / "images")
    for record in split.records:
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / "images" / record.image)
    write_splits(folder / "splits", dict.fromkeys(SPLITS, split.records), "../images")
    relevance.write(split, config.Relevance(), folder / "relevance.npy")
    pairs = [(a, b) for a in range(1, 9) for b in range(1, 9) if a != b]
    write(
        folder / "cxc",
        sis=[(image(a), image(b), round(rng.uniform(0, 5), 2), "i") for a, b in pairs],
        sts=[(caption(10 * a), caption(10 * b + 1), round(rng.uniform(0, 5), 2), "c") for a, b in pairs],
        sits=[(name, picture, round(rng.uniform(3, 5), 2), how) for name, picture, _, how in originals(8)],
    )
    return folder


def test_an_evaluation_and_its_tables_have_the_judgements(coco_like: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.yaml").write_text("candidates: 4\nworkers: 0\njudgements: {cxc: true}\n")
    given = ["--config", tmp_path / "evaluation.yaml", "--run", "initial-a", "--seed", 0, "--model", tiny_model]
    given += ["--split", coco_like / "splits/test.jsonl", "--relevance", coco_like / "relevance.npy"]
    arguments = ["evaluate", *map(str, given), "--output", str(tmp_path / "eval")]
    without = CliRunner().invoke(app, arguments)
    assert "no ratings are given; name their folder with --cxc" in str(without.exception)
    assert not (tmp_path / "eval/test.json").exists()
    done = CliRunner().invoke(app, [*arguments, "--cxc", str(coco_like / "cxc")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "eval/test.json").read_text())

    split = read_split(coco_like / "splits/test.jsonl")
    inputs = score(RetrievalModel.from_pretrained(tiny_model), split, None, config.Scoring(candidates=4, workers=0))
    assert record["judgements"] == {"cxc": judged.by_cxc(inputs, cxc.read(coco_like / "cxc", split))}
    assert record["inputs"]["cxc_sha256"] == cxc.sha256(coco_like / "cxc")

    found = results.read([tmp_path / "eval/test.json"])
    tables.summarise(found, tmp_path / "all.csv", tmp_path / "differences.csv", tmp_path / "summary.md")
    with (tmp_path / "all.csv").open() as stream:
        (row,) = [line for line in csv.DictReader(stream) if line["protocol"] == "cxc"]
    assert float(row["t2t_r@5_mean"]) == pytest.approx(record["judgements"]["cxc"]["t2t_r@5"], abs=1e-5)
    section = (tmp_path / "summary.md").read_text().partition("## People's judgements")[2]
    for name in ("t2i_r@1", "i2i_r@1", "t2t_rated_r@10", "sits_spearman"):
        assert f" {record['judgements']['cxc'][name]:.1f} " in section

    record["judgements"]["cxc"]["t2t_r@1"] += 1
    (tmp_path / "eval/test.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"judgements, .* are not as they were measured"):
        results.read([tmp_path / "eval/test.json"])


def test_raw_features_are_judged_within_each_modality(coco_like: Path, tmp_path: Path) -> None:
    split, rng = read_split(coco_like / "splits/test.jsonl"), np.random.default_rng(0)
    rows = {"image": rng.standard_normal((8, 6)), "text": rng.standard_normal((40, 4))}
    for name, values in rows.items():
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
    write_index(tmp_path, split)
    section = config.Scoring(judgements=config.Judgements(cxc=True))
    matrix, file = coco_like / "relevance.npy", coco_like / "splits/test.jsonl"
    features.evaluate(section, "teacher-raw", 0, tmp_path, file, matrix, tmp_path / "eval", ratings=coco_like / "cxc")
    found = json.loads((tmp_path / "eval/test.json").read_text())["judgements"]["cxc"]
    pair = [values.astype(np.float32) for values in rows.values()]
    inputs = Inputs.of_features(*pair, np.zeros((40, 8), dtype=np.float32), split.caption_image)
    assert found == judged.by_cxc(inputs, cxc.read(coco_like / "cxc", split), across=False)
    assert "t2t_r@1" in found
    assert "i2t_r@1" not in found
    with pytest.raises(UserError, match=r"--cxc: evaluation\.judgements\.cxc is false"):
        judged.read(config.Judgements(), split, coco_like / "cxc")


# --- ROUGE-L and people --------------------------------------------------------------------------------------------


def test_the_agreement_of_rouge_l_by_hand() -> None:
    """Relevance of every pair from its definition, caption by caption."""
    texts = [
        ["a red dog runs", "the dog", "a dog on grass", "a red animal", "dog"],
        ["a red cat sits", "the cat", "a cat on grass", "a red animal", "cat"],
        ["blue sea", "the sea", "a sea with sand", "blue water", "sea"],
    ]
    split = Split("test", [Record(f"{i}", image(i + 1), tuple(texts[i])) for i in range(3)], Path())
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    ratings = np.array([4.0, 1.0, 5.0, 0.5, 2.0, 0.0])
    first, second = np.array(pairs).T
    captions = np.array([(0, 5), (0, 1), (5, 10), (1, 6), (10, 2)])
    crossed = np.array([(0, 1), (5, 0), (10, 0), (2, 2), (0, 0)])  # the last one is a caption and its own image
    judgements = cxc.Judgements(
        cxc.Pairs(first, second, ratings, np.array(["i"] * 6)),
        cxc.Pairs(*captions.T, ratings[:5], np.array(["c", "c", "c", "m", "c"])),
        cxc.Pairs(*crossed.T, ratings[:5], np.array(["i"] * 5)),
    )

    def rouge(one: str, other: str) -> float:
        return RougeScorer(["rougeL"]).score(one, other)["rougeL"].fmeasure

    def best(text: str, picture: int) -> float:
        return max(rouge(text, other) for other in texts[picture])

    flat = [text for own in texts for text in own]
    apart = [0, 2, 3, 4]  # captions 0 and 1 are of one image
    wanted = {
        "two images: first caption of the query, `paper`": ([best(texts[a][0], b) for a, b in pairs], ratings),
        "two images: mean over the query's captions, `corrected`": (
            [np.mean([best(text, b) for text in texts[a]]) for a, b in pairs],
            ratings,
        ),
        "caption and image": ([best(flat[c], i) for c, i in crossed[:4]], ratings[:4]),
        "two captions: of the second to the first one's image": (
            [best(flat[d], c // 5) for c, d in captions[apart]],
            ratings[apart],
        ),
        "two captions: of one to the other": ([rouge(flat[c], flat[d]) for c, d in captions], ratings[:5]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "sampled_spearman", lambda queries, first, second: (0.25, 0.125))
        patch.setattr(agreement, "FEWEST", 1)
        patch.setattr(correlation, "spearman", lambda first, second: (first.tolist(), second.tolist()))
        rows = agreement.measure(split, judgements, config.Relevance())
    found = {row.what: row for row in rows if row.sampling in ("i", agreement.ALL)}
    assert list(found) == list(wanted)
    for what, (values, people) in wanted.items():
        assert found[what].pairs == len(people)
        assert found[what].spearman == (people.tolist(), pytest.approx(values, abs=1e-6)), what
    of_methods = [(row.sampling, row.pairs) for row in rows if row.sampling in ("c", "m")]
    assert of_methods == [("c", 3), ("m", 1), ("c", 4), ("m", 1)]


@pytest.mark.slow
def test_the_documentation_has_the_agreement_that_the_command_prints(shared: Path) -> None:
    given = ["--captions", shared / "data/captions/coco_test.json", "--cxc", shared / "data/cxc"]
    done = CliRunner().invoke(app, ["agreement", *map(str, given)])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("|")]
    assert len(lines) == 9
    assert "\n".join(lines) in (ROOT / "docs/METHOD.md").read_text(encoding="utf-8")


# --- the configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": {"kind": "shapes"}}, "evaluation.judgements.cxc: true, but people judged COCO's images alone"),
        ({"dataset": {"kind": "flickr30k"}}, "this data set is 'flickr30k'; leave it out"),
        ({"dataset": {"kind": "coco", "captions_per_image": 3}}, "dataset.captions_per_image is 3; people judged 5"),
        ({"dataset": {"kind": "coco", "counts": {"test": 2000}}}, "dataset.counts.test is 2,000; people judged all"),
        ({"evaluation": {"judgements": {"cxc": True, "csc": True}}}, "evaluation.judgements.csc"),
        ({"evaluation": {"judgements": {"cxc": "downloads/cxc"}}}, "evaluation.judgements.cxc"),
    ],
)
def test_judgements_that_cannot_be_had_are_refused(settings: dict[str, Any], message: str) -> None:
    study = {**shipped("coco"), "evaluation": {"judgements": {"cxc": True}}}
    assert config.parse(study, "study").evaluation.judgements == config.Judgements(cxc=True)
    with pytest.raises(UserError, match=message):
        config.parse(study | settings, "study")


def test_a_package_that_is_missing_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    study = {**shipped("coco"), "evaluation": {"judgements": {"eccv": True}}}
    config.parse(study, "study")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"evaluation\.judgements\.eccv: true, but eccv_caption is not installed; pip"):
        config.parse(study, "study")
