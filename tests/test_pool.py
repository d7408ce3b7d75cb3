"""Pooled results: the means of all splits, what their spread says, and what does not belong together is refused."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from pictures import pixels_of
from typer.testing import CliRunner

from rvlr.cli import app
from rvlr.data.records import Record, read_split, write_splits
from rvlr.errors import UserError
from rvlr.evaluation import corrected, rankings
from rvlr.evaluation.inputs import OF_FEATURES, Inputs
from rvlr.evaluation.record import numbers_sha256
from rvlr.report import compare, pool, results, tables

RUNS, SEEDS = ["initial-base", "student-a", "student-continued"], [0, 1]
GAIN = {"initial-base": 0.0, "student-a": 1.5, "student-continued": 1.0}
Study = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Writes a folder of results on `size` images, whose first one has the number `first` of all photographs."""

    def write(first: int = 0, size: int = 8, name: str = "", **sections: dict) -> Path:
        folder = tmp_path / "results" / (name or f"photos-{first}")
        records = [Record(f"p{n}", f"p{n}.png", (f"photo {n}", "one more")) for n in range(first, first + size)]
        write_splits(folder / "splits", dict.fromkeys(("train", "val", "test"), records), str(tmp_path / "photos"))
        split = read_split(folder / "splits/test.jsonl")
        frozen = {
            "dataset": {"kind": "custom", "split": {"seed": first}},
            "report": {"runs": RUNS, "seeds": SEEDS},
            "relevance": {"scorer": "rouge-score"},
            "evaluation": {"candidates": 4},
            **{run: {"epochs": 3} for run in RUNS},
        }
        (folder / "config").mkdir(parents=True)
        for section, content in (frozen | sections).items():
            (folder / f"config/{section}.yaml").write_text(yaml.safe_dump(content))
        for run in RUNS:
            for seed in SEEDS:
                evaluate(folder / f"seed{seed}/{run}/eval", split, run, seed, first)
        return folder

    return write


def evaluate(folder: Path, split, run: str, seed: int, first: int, subsets: tuple[str, ...] = ()) -> None:
    """Writes the evaluation of made-up embeddings by the package's own protocol."""
    owners = split.caption_image
    data, noise = np.random.default_rng(first), np.random.default_rng([first, seed, RUNS.index(run)])
    content, relevance = data.normal(size=(len(split.records), 6)), data.random((len(owners), len(split.records)))
    images, texts = (
        GAIN[run] * content[rows] + noise.normal(size=(len(rows), 6)) for rows in (np.arange(len(content)), owners)
    )
    logits = (images @ texts.T).astype(np.float32)
    result = corrected.evaluate(Inputs(images, texts, logits, logits.T, relevance.astype(np.float32), owners))
    rankings.write(folder / "rankings.npz", split, result)
    record = {
        "run": run,
        "seed": seed,
        "split": "test",
        "counts": {"images": len(split.records), "captions": len(owners)},
        "notes": ["made up"],
        "config": {"candidates": 4},
        "inputs": {"split_checksum": split.checksum, "relevance_sha256": f"r{first}", "model_sha256": "m"},
        "protocols": dict.fromkeys(("corrected", *subsets), result.numbers),
        "provenance": {"commit": "0123456789abcdef"},
    }
    sha256 = hashlib.sha256((folder / "rankings.npz").read_bytes()).hexdigest()
    record["outputs"] = {"rankings_sha256": sha256, "numbers_sha256": numbers_sha256(record)}
    (folder / "test.json").write_text(json.dumps(record))


def numbers(folder: Path, run: str, seed: int) -> dict[str, float]:
    found = json.loads((folder / f"seed{seed}/{run}/eval/test.json").read_text())
    return found["protocols"]["corrected"]


# --- numbers ------------------------------------------------------------------------------------------------


def test_scores_are_means_over_splits_and_seeds(study: Study) -> None:
    folders = [study(0), study(8, 9), study(17)]
    found = pool.read(folders)
    assert (found.counts.images, found.counts.captions) == (25, 50)
    assert (found.notes, found.averaged, found.where) == (["made up"], "splits and seeds", "3 test splits")
    assert found.seeds == dict.fromkeys(RUNS, SEEDS)
    for run in RUNS:
        each = [numbers(folder, run, seed)["t2t_ndcg@10"] for folder in folders for seed in SEEDS]
        score = found.scores["corrected"][run]["t2t_ndcg@10"]
        assert (score.mean, score.std) == pytest.approx((np.mean(each), np.std(each, ddof=1)))


def test_differences_are_means_over_splits_with_what_the_splits_vary(study: Study) -> None:
    folders = [study(0), study(8, 9), study(17)]
    (found,) = pool.read(folders).comparisons
    assert (found.run, found.reference, found.images) == ("student-a", "student-continued", 25)
    assert (found.seeds, found.covers) == (SEEDS, ["images", "seeds", "splits"])
    alone = [results.read(sorted(folder.glob("seed*/*/eval/test.json"))).comparisons[0] for folder in folders]
    for metric, one in found.differences.items():
        by_split = [
            np.mean(
                [
                    numbers(folder, found.run, seed)[metric] - numbers(folder, found.reference, seed)[metric]
                    for seed in SEEDS
                ]
            )
            for folder in folders
        ]
        assert one.by_split == pytest.approx(by_split, abs=1e-4)
        assert one.value == pytest.approx(np.mean(by_split), abs=1e-4)
        # never narrower than the spread of the splits says, with the quantile of many degrees of freedom
        spread = np.std(by_split, ddof=1) / 3**0.5
        assert (one.high - one.low) / 2 >= 1.96 * spread - 1e-4
        assert [each.differences[metric].value for each in alone] == pytest.approx(by_split, abs=1e-4)
    shown = [one for one in found.differences.values() if one.holm is not None]
    assert len(shown) == 7
    assert min(one.holm for one in shown) == pytest.approx(min(1, 7 * min(one.p for one in shown)))


def test_raw_features_count_once_a_split_and_are_not_compared(study: Study) -> None:
    more = {"report": {"runs": [*RUNS, "teacher-pair"], "seeds": SEEDS}, "teacher-pair": {"kind": "single-modal"}}
    folders = [study(0, **more), study(8, **more)]
    for folder, value in zip(folders, (60.0, 70.0), strict=True):
        for seed in SEEDS:
            record = json.loads((folder / "seed0/student-a/eval/test.json").read_text())
            record |= {"run": "teacher-pair", "seed": seed}
            record["inputs"] |= {"model_sha256": None, "features_sha256": "f"}
            record["protocols"] = {"corrected": dict.fromkeys(OF_FEATURES, value)}
            path = folder / f"seed{seed}/teacher-pair/eval/test.json"
            path.parent.mkdir(parents=True)
            shutil.copyfile(folder / "seed0/student-a/eval/rankings.npz", path.with_name("rankings.npz"))
            record["outputs"]["numbers_sha256"] = numbers_sha256(record)
            path.write_text(json.dumps(record))
    found = pool.read(folders)
    assert found.scores["corrected"]["teacher-pair"]["t2t_ndcg@10"] == results.Score(65.0, pytest.approx(50**0.5))
    assert [one.run for one in found.comparisons] == ["student-a"]


def test_stored_teachers_which_have_no_section_are_pooled(study: Study) -> None:
    folders = [study(0), study(8)]
    for folder in folders:
        (folder / "config/student-a.yaml").unlink()
    assert pool.read(folders).runs == RUNS
    (folders[0] / "config/student-a.yaml").write_text("epochs: 3")
    with pytest.raises(UserError, match=r"photos-8/config/student-a\.yaml: no such file"):
        pool.read(folders)


def test_a_split_twice_as_large_counts_no_more(study: Study) -> None:
    folders = [study(0, 8), study(8, 16)]
    value = pool.read(folders).comparisons[0].differences["i2t_r@1"]
    assert value.value == pytest.approx(np.mean(value.by_split))


def test_the_command_writes_tables_and_figures(study: Study, tmp_path: Path) -> None:
    folders, output = [study(0), study(8), study(16)], tmp_path / "pooled"
    done = CliRunner().invoke(app, ["pool", *map(str, folders), "--output", str(output)])
    assert done.exit_code == 0, done.output
    markdown = (output / "summary.md").read_text()
    assert "# Three-way retrieval on 3 test splits\n" in markdown
    assert "3 splits, pooled: photos-0, photos-8, photos-16; seeds 0, 1; commit" in markdown
    assert "Mean ± sample standard deviation over splits and seeds" in markdown
    assert "The interval covers the choice of test images, seeds and splits of the data." in markdown
    line = next(line for line in markdown.partition("## Differences")[2].splitlines() if line.startswith("| T→T"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    with (output / "comparisons.csv").open(newline="") as stream:
        rows = {row["metric"]: row for row in csv.DictReader(stream)}
    row = rows["t2t_ndcg@10"]
    assert cells[1] == f"{float(row['difference']):+.2f}"
    assert cells[2] == ", ".join(f"{float(value):+.2f}" for value in row["by_split"].split())
    assert (row["covers"], row["images"]) == ("images seeds splits", "24")
    with (output / "summary.csv").open(newline="") as stream:
        summary = list(csv.DictReader(stream))
    assert {(one["run"], one["splits"], one["images"]) for one in summary} == {(run, "3", "24") for run in RUNS}
    assert "24 images, 48 captions; 3 splits" in (output / "summary.txt").read_text()
    for name in ("three-ways", "differences"):
        assert pixels_of(output / f"figures/{name}.png").shape[0] > 200


def test_folders_of_one_name_are_named_in_full(study: Study) -> None:
    folders = [study(0, name="a/photos"), study(8, name="b/photos")]
    assert f"2 splits, pooled: {folders[0]}, {folders[1]}; " in " ".join(tables.table(pool.read(folders)).split("\n"))


# --- what belongs together ----------------------------------------------------------------------------------


def test_images_in_two_test_sets_are_told(study: Study) -> None:
    folders = [study(0), study(6)]
    found = pool.read(folders)
    assert found.notes[1:] == [
        f"2 of the 8 test images of {folders[1]} are also test images of {folders[0]}; intervals take them for "
        "different images, so they are too narrow"
    ]


def test_the_same_test_set_is_refused(study: Study) -> None:
    with pytest.raises(UserError, match=r"photos-0 and .*/copy have the same test images"):
        pool.read([study(0), study(0, name="copy")])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"student-a": {"epochs": 4}}, r"student-a\.yaml: epochs 4, \S+/photos-0/config/student-a\.yaml has 3"),
        ({"report": {"runs": RUNS, "seeds": [0]}}, r"report\.yaml: seeds \[0\], \S+ has \[0, 1\]"),
        ({"report": {"runs": RUNS[1:], "seeds": SEEDS}}, r"report\.yaml: runs "),
        ({"evaluation": {"candidates": 8}}, r"evaluation\.yaml: candidates 8, \S+ has 4"),
        ({"dataset": {"kind": "shapes"}}, "data of kind 'shapes', .*photos-0 has 'custom'"),
        ({"relevance": []}, r"relevance\.yaml: not a section"),
    ],
)
def test_studies_that_differ_in_more_than_data_are_refused(study: Study, sections: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pool.read([study(0), study(8, **sections)])


def test_folders_that_are_no_results_are_refused(study: Study, tmp_path: Path) -> None:
    one, other = study(0), study(8)
    for folders, message in (
        ([one], "1 folder of results given; give two or more"),
        ([one, tmp_path / "results/../results/photos-0"], "are the same folder"),
        ([tmp_path, one], "no folder of results, since it has no config/report.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            pool.read(folders)
    (one / "config/report.yaml").write_text("runs: [../../x]\nseeds: [0]\n")
    with pytest.raises(UserError, match=r"report\.yaml: runs\[0\]"):
        pool.read([one, other])


def test_a_missing_or_changed_evaluation_is_refused(study: Study) -> None:
    one, other = study(0), study(8)
    path = other / "seed1/student-a/eval/test.json"
    content = path.read_text()
    path.write_text(content.replace('"images": 8', '"images": 9'))
    with pytest.raises(
        UserError, match=f"{path}: counts, notes, protocols, judgements, diagnostics are not as they were measured"
    ):
        pool.read([one, other])
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file"):
        pool.read([one, other])


def test_splits_with_other_metrics_are_refused(study: Study) -> None:
    one, other = study(0), study(8)
    for path in other.glob("seed*/*/eval/test.json"):
        record = json.loads(path.read_text())
        record["protocols"]["paper"] = record["protocols"]["corrected"]
        record["outputs"]["numbers_sha256"] = numbers_sha256(record)
        path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="protocols and metrics"):
        pool.read([one, other])


def test_one_split_is_compared_as_ever(study: Study) -> None:
    folder = study(0)
    found = results.read(sorted(folder.glob("seed*/*/eval/test.json")))
    (single,) = compare.compare_runs(found.sources, ["r_mean"])
    assert single.covers == ["images", "seeds"]
    assert single.differences["r_mean"].by_split == (single.differences["r_mean"].value,)
