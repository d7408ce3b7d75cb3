"""Tables and figures: right numbers in the right places, nothing averaged that does not belong together."""

import csv
import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import coloured, pixels_of

from rvlr.errors import UserError
from rvlr.evaluation.inputs import OF_FEATURES
from rvlr.evaluation.record import numbers_sha256
from rvlr.report import compare, differences, figures, results, style, tables
from rvlr.report.compare import Comparison, Difference
from rvlr.report.consistency import Counts
from rvlr.report.results import Results

CROSS = [f"{direction}_{what}" for direction in ("i2t", "t2i") for what in ("r@1", "r@5", "r@10", "mean")]
LISTS = [f"{direction}_ndcg@{k}" for direction in ("i2i", "t2t", "i2it", "t2it") for k in (10, 20, 50)]
METRICS = [*CROSS, "r_mean", "r_sum", *LISTS]
INPUTS = {"split_checksum": "c0ffee", "relevance_sha256": "facade", "model_sha256": "decade"}
FEATURES = {"split_checksum": "c0ffee", "relevance_sha256": "facade", "features_sha256": "abacus"}
IDS = {
    "image_ids": np.array(["a", "b", "c", "d"]),
    "caption_ids": np.array([f"{image}#{number}" for image in "abcd" for number in range(2)]),
}

Evaluate = Callable[..., Path]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Writes an evaluation whose metrics are all `value`, except those given by name, and rankings of four images with
    two captions each, whose per-query values are all alike."""

    def write(run: str, seed: int = 0, value: float = 50.0, metrics: dict | None = None, **fields: object) -> Path:
        ranks = {"i2t_median_rank": 2.0, "t2i_median_rank": 3.5}
        corrected = dict.fromkeys(METRICS, value) | ranks | (metrics or {})
        paper = dict.fromkeys(METRICS, value / 2)
        if "features_sha256" in fields.get("inputs", {}):
            corrected, paper = ({name: one[name] for name in OF_FEATURES} for one in (corrected, paper))
        content = {
            "run": run,
            "seed": seed,
            "split": "test",
            "counts": {"images": 400, "captions": 2000},
            "notes": ["val is held out of train"],
            "config": {"candidates": 64},
            "inputs": INPUTS,
            "protocols": {"corrected": corrected, "paper": paper},
            "provenance": {"commit": "0123456789abcdef"},
        }
        path = tmp_path / f"seed{seed}" / run / "eval" / f"{len(list(tmp_path.rglob('*.json')))}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {}
        for name in compare.PER_QUERY:
            queries = np.arange(len(IDS["image_ids" if name[0] == "i" else "caption_ids"]))
            values[f"per_query/{name}"] = np.full(len(queries), corrected.get(name, 0), dtype=np.float32)
            values[f"per_query/{name.partition('_')[0]}_query"] = queries
        rankings = path.with_name("rankings.npz")
        np.savez(rankings, **IDS, **values)
        content |= fields
        content["outputs"] = {
            "rankings_sha256": hashlib.sha256(rankings.read_bytes()).hexdigest(),
            "numbers_sha256": numbers_sha256(content),
        }
        path.write_text(json.dumps(content | fields))
        return path

    return write


def parse_tables(markdown: str) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """(protocol, section) -> run -> column -> cell, and ("Differences", pair) -> metric -> column -> cell."""
    tables: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    protocol = section = ""
    header: list[str] = []
    for line in markdown.splitlines():
        if line.startswith("## "):
            protocol = line.removeprefix("## ").removeprefix("Protocol ").strip("`")
        elif line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] in ("run", "metric"):
                header = cells
            elif not cells[0].startswith(":-"):
                row = dict(zip(header, cells, strict=True))
                tables.setdefault((protocol, section), {})[row.pop(header[0])] = row
    return tables


# --- tables -------------------------------------------------------------------------------------------------


@pytest.fixture
def written(evaluate: Evaluate, tmp_path: Path) -> tuple[list[dict[str, str]], str, list[dict[str, str]]]:
    """CSV, Markdown and CSV of differences, of an untrained model, a teacher and two students, one of three seeds."""
    paths = [
        evaluate("student-rvlr", 0, 60),
        evaluate("student-rvlr", 2, 63),
        evaluate("student-rvlr", 1, 66, {"i2t_r@1": 61}),
        evaluate("initial-small", 0, 99),
        evaluate("teacher-a", 0, 40, {"t2i_r@5": 80.0}),
        evaluate("student-plain", 0, 62.96, {"i2t_median_rank": 1.5}),
    ]
    scores, differences = tmp_path / "out" / "s.csv", tmp_path / "out" / "c.csv"
    tables.summarise(results.read(paths), scores, differences, tmp_path / "out" / "s.md")
    return rows_of(scores), (tmp_path / "out" / "s.md").read_text(), rows_of(differences)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_mean_and_sample_deviation_of_everything(written) -> None:
    rows, _, _ = written
    order = ["initial-small", "teacher-a", "student-rvlr", "student-plain"]
    assert [(row["protocol"], row["run"]) for row in rows] == [(p, r) for p in ("corrected", "paper") for r in order]
    student = rows[2]
    assert student["seeds"] == "3"
    # 60, 63, 66: deviations -3, 0, 3; (9 + 0 + 9) / 2 = 9
    assert float(student["t2i_r@1_mean"]) == 63
    assert float(student["t2i_r@1_std"]) == 3
    # 60, 63, 61: mean 184/3; squared deviations 16/9 + 25/9 + 1/9 = 14/3; / 2 = 7/3
    assert float(student["i2t_r@1_mean"]) == pytest.approx(184 / 3, abs=1e-6)
    assert float(student["i2t_r@1_std"]) == pytest.approx((7 / 3) ** 0.5, abs=1e-6)
    assert float(rows[6]["r_sum_std"]) == 1.5
    assert all(student[f"{metric}_{part}"] for metric in METRICS for part in ("mean", "std"))
    assert rows[1]["t2i_r@5_mean"] == "80.000000"
    assert rows[1]["t2i_r@5_std"] == ""
    assert (student["i2t_median_rank_mean"], rows[6]["i2t_median_rank_mean"]) == ("2.000000", "")
    assert (student["split"], student["images"], student["captions"]) == ("test", "400", "2000")


def test_notes_on_the_data_stand_above_the_tables(written, evaluate: Evaluate) -> None:
    assert "\n- Data: val is held out of train\n" in written[1]
    assert "\nData: val is held out of train\n" in tables.table(results.read([evaluate("teacher-b", 0, 40)]))


def test_markdown_orders_runs_and_marks_the_best_trained(written) -> None:
    _, markdown, _ = written
    tables = parse_tables(markdown)
    plain = [(p, s) for p in ("corrected", "paper") for s in ("Cross-modal", "Single-modal", "Mixed")]
    assert [key for key in tables if key[0] != "Differences"] == plain
    for table in map(tables.get, plain):
        assert [*table] == ["initial-small", "teacher-a", "student-rvlr", "student-plain"]
        assert [row["seeds"] for row in table.values()] == ["1", "1", "3", "1"]
        assert not any("**" in cell for cell in table["initial-small"].values())
    cross = tables["corrected", "Cross-modal"]
    columns = ["seeds", *(f"{d} R@{k}" for d in ("I→T", "T→I") for k in (1, 5, 10)), "R-mean", "R-sum"]
    assert [*cross["teacher-a"]] == [*columns, "I→T median rank", "T→I median rank"]
    assert [*tables["paper", "Cross-modal"]["teacher-a"]] == columns  # which has no median ranks
    assert {run: row["T→I R@5"] for run, row in cross.items()} == {
        "initial-small": "99.0",
        "teacher-a": "**80.0**",
        "student-rvlr": "63.0 ± 3.0",
        "student-plain": "63.0",
    }
    # 63 and 62.96 print alike, so neither is better
    assert (cross["student-rvlr"]["R-mean"], cross["student-plain"]["R-mean"]) == ("**63.0 ± 3.0**", "**63.0**")
    assert (cross["student-rvlr"]["I→T R@1"], cross["student-plain"]["I→T R@1"]) == ("61.3 ± 1.5", "**63.0**")
    # the lower the better
    assert [row["I→T median rank"] for row in cross.values()] == ["2.0", "2.0", "2.0 ± 0.0", "**1.5**"]
    assert [row["T→I median rank"] for row in cross.values()] == ["3.5", "**3.5**", "**3.5 ± 0.0**", "**3.5**"]
    assert [*tables["paper", "Mixed"]["teacher-a"]][1:] == [
        f"{d} NDCG@{k}" for d in ("I→IT", "T→IT") for k in (10, 20, 50)
    ]
    assert "400 images, 2,000 captions; seeds 0, 1, 2; commit `0123456789ab`" in markdown
    assert "R@K: hit: at least one right item among the first K" in markdown


DIAGNOSED = {
    "modality_gap": 0.82,
    "mmd2": 0.0625,
    "alignment": 1.1,
    "uniformity_image": -2.5,
    "uniformity_text": -3.25,
}


def test_diagnostics_have_a_table_and_rows_of_their_own(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [
        evaluate("teacher-a", 0, diagnostics=DIAGNOSED),
        evaluate("student-b", 0, diagnostics=DIAGNOSED),
        evaluate("student-b", 1, diagnostics={**DIAGNOSED, "modality_gap": 0.86}),
    ]
    csv, markdown = tmp_path / "s.csv", tmp_path / "s.md"
    tables.summarise(results.read(paths), csv, tmp_path / "c.csv", markdown)
    table = parse_tables(markdown.read_text())["Diagnostics", "Embeddings"]
    assert [*table["teacher-a"].items()] == [
        ("seeds", "1"),
        ("modality gap", "0.820"),
        ("MMD²", "0.062"),
        ("alignment", "1.100"),
        ("uniformity I", "-2.500"),
        ("uniformity T", "-3.250"),
    ]
    assert table["student-b"]["modality gap"] == "0.840 ± 0.028"
    assert "Structure of teachers" not in markdown.read_text()
    rows = {row["run"]: row for row in rows_of(csv) if row["protocol"] == "diagnostics"}
    assert [*rows] == ["teacher-a", "student-b"]
    assert (rows["student-b"]["mmd2_mean"], rows["student-b"]["i2t_r@1_mean"]) == ("0.062500", "")
    assert float(rows["student-b"]["modality_gap_mean"]) == pytest.approx(0.84)
    with pytest.raises(UserError, match=r"diagnostics is .*uniformity_text"):
        results.read([*paths, evaluate("student-c")])


def test_raw_features_have_a_row_with_dashes_and_are_never_called_trained(evaluate: Evaluate, tmp_path: Path) -> None:
    """They come first here, know more than the students, and are the same with every seed."""
    paths = [evaluate("teacher-pair", seed, 80, inputs=FEATURES) for seed in (0, 1)]
    students = [(run, seed) for run in ("student-a", "student-continued") for seed in (0, 1)]
    paths += [evaluate(run, seed, 50 + seed, diagnostics=DIAGNOSED) for run, seed in students]
    found = results.read(paths)
    assert [run for run in found.runs if found.is_trained(run)] == ["student-a", "student-continued"]
    tables.summarise(found, tmp_path / "s.csv", tmp_path / "c.csv", tmp_path / "s.md")
    markdown = (tmp_path / "s.md").read_text()
    shown = parse_tables(markdown)
    for protocol, value in (("corrected", "80.0"), ("paper", "40.0")):
        row = shown[protocol, "Single-modal"]["teacher-pair"]
        assert row.pop("seeds") == "2"
        assert set(row.values()) == {value}
        for section in ("Cross-modal", "Mixed"):
            row = shown[protocol, section]["teacher-pair"]
            assert set(row.values()) - {row["seeds"]} == {"–"}
    assert shown["corrected", "Single-modal"]["student-a"]["T→T NDCG@10"] == "**50.5 ± 0.7**"
    assert [*shown["Diagnostics", "Embeddings"]] == ["student-a", "student-continued"]
    assert markdown.count("A teacher with dashes is not trained here") == 1
    assert {row["run"] for row in rows_of(tmp_path / "c.csv")} == {"student-a"}
    rows = rows_of(tmp_path / "s.csv")
    about = ["run", "protocol", "seeds", "split", "splits", "images", "captions"]
    assert [*rows[0]][:8] == [*about, "i2t_r@1_mean"]
    assert (rows[0]["run"], rows[0]["i2t_r@1_mean"], rows[0]["t2t_ndcg@10_mean"]) == ("teacher-pair", "", "80.000000")
    line = next(line for line in tables.table(found).splitlines() if line.startswith("teacher-pair"))
    assert line.split() == ["teacher-pair", "–", "–", "–", "80.0", "80.0", "–", "–"]
    figures.plot_three_ways(found, tmp_path / "bars.png")
    pixels = pixels_of(tmp_path / "bars.png")
    third = pixels.shape[1] // 3
    grey = [coloured(pixels[:, third * n : third * (n + 1)], style.UNTRAINED).sum(axis=1).max() for n in range(3)]
    assert grey[1] > 2 * max(grey[0], grey[2])  # bars there, in the legend at most elsewhere


def test_raw_features_of_other_data_are_refused(evaluate: Evaluate) -> None:
    paths = [evaluate("student-a"), evaluate("teacher-pair", inputs=FEATURES | {"relevance_sha256": "decaf"})]
    with pytest.raises(UserError, match=r"inputs\.relevance_sha256 is decaf in the one and facade"):
        results.read(paths)
    with pytest.raises(UserError, match="inputs: model_sha256 or features_sha256 is needed"):
        results.read([evaluate("teacher-c", inputs=FEATURES | INPUTS)])


def test_structure_has_a_row_for_each_run_and_teacher(evaluate: Evaluate, tmp_path: Path) -> None:
    kept = ("image_neighbours", "text_neighbours", "image_cka", "text_cka")
    known = {f"{name}/{teacher}": 0.25 + step for teacher, step in (("x", 0), ("y", 0.5)) for name in kept}
    path = evaluate("student-b", 0, diagnostics=DIAGNOSED | known | {"text_cka/y": -0.01})
    csv, markdown = tmp_path / "s.csv", tmp_path / "s.md"
    tables.summarise(results.read([path]), csv, tmp_path / "c.csv", markdown)
    found = [line.split("|") for line in markdown.read_text().splitlines() if line.startswith("| student-b")]
    cells = [[cell.strip() for cell in row][1:-1] for row in found[-2:]]
    assert cells == [
        ["student-b", "x", "0.250", "0.250", "0.250", "0.250"],
        ["student-b", "y", "0.750", "0.750", "0.750", "-0.010"],
    ]
    row = next(row for row in rows_of(csv) if row["protocol"] == "diagnostics")
    assert row["text_cka/y_mean"] == "-0.010000"


def test_differences_are_shown_with_seeds_images_and_resamples(written) -> None:
    _, markdown, rows = written
    tables = {pair: table for (part, pair), table in parse_tables(markdown).items() if part == "Differences"}
    assert [*tables] == ["student-rvlr minus teacher-a", "student-plain minus teacher-a"]
    for table in tables.values():
        lists = [f"{way} NDCG@10" for way in ("I→I", "T→T", "I→IT", "T→IT")]
        assert [*table] == ["I→T R@1", "T→I R@1", "R-mean", *lists]
    row = tables["student-plain minus teacher-a"]["I→T R@1"]
    # alike in all four images, so nothing is left to chance
    alike = {"p": "< 0.0001", "p (Holm)": "< 0.0001"}
    assert row == {"difference": "+22.96", "95 % interval": "+22.96 to +22.96"} | alike
    # the mean over the recalls, of which one of the teacher is 40 more; r_mean of the evaluations is made up
    assert tables["student-plain minus teacher-a"]["R-mean"]["difference"] == f"{22.96 - 40 / 6:+.2f}"
    assert len(rows) == 2 * 22
    first = rows[0]
    assert {name: first[name] for name in ("run", "reference", "protocol", "seeds", "reference_seeds", "images")} == {
        "run": "student-rvlr",
        "reference": "teacher-a",
        "protocol": "corrected",
        "seeds": "0",
        "reference_seeds": "0",
        "images": "4",
    }
    numbers = ("metric", "difference", "low", "high", "by_split", "covers")
    assert [first[name] for name in numbers] == ["i2t_r@1", *["20.000000"] * 4, "images"]
    # adjusted for what the Markdown shows: seven metrics of two runs
    assert float(first["p_holm"]) == pytest.approx(14 * float(first["p"]))
    assert {row["metric"] for row in rows if row["p_holm"]} == {
        metric for columns in results.HEADLINES for metric in columns.values()
    }
    assert "adjusted for all 14 comparisons below, 7 metrics of 2 runs" in markdown
    assert "with other images than these 4" in markdown
    covers = "Seed 0 of both. The interval covers the choice of test images, not that of seeds: with one seed, nothing"
    assert markdown.count(covers) == 2


def test_differences_name_the_seeds(evaluate: Evaluate, tmp_path: Path) -> None:
    runs = {"student-continued": (0, 1), "student-a": (1, 0, 2), "teacher-a": (3, 4)}
    paths = [evaluate(run, seed, 50 + seed) for run, seeds in runs.items() for seed in seeds]
    tables.summarise(results.read(paths), tmp_path / "s.csv", tmp_path / "c.csv", tmp_path / "s.md")
    markdown = (tmp_path / "s.md").read_text()
    covers = "The interval covers the choice of test images and seeds.\n"
    assert f"### student-a minus student-continued\n\nSeeds 0, 1 of both. {covers}" in markdown
    assert f"### teacher-a minus student-continued\n\nSeeds 3, 4 against seeds 0, 1. {covers}" in markdown
    assert "one seed" not in markdown
    shown = ("run", "seeds", "reference_seeds", "difference")
    assert {tuple(row[name] for name in shown) for row in rows_of(tmp_path / "c.csv") if row["metric"] != "r_sum"} == {
        ("teacher-a", "3 4", "0 1", "3.000000"),
        ("student-a", "0 1", "0 1", "0.000000"),
    }
    before = (tmp_path / "c.csv").read_bytes(), markdown
    tables.summarise(results.read(paths), tmp_path / "s.csv", tmp_path / "c.csv", tmp_path / "s.md")
    assert before == ((tmp_path / "c.csv").read_bytes(), (tmp_path / "s.md").read_text())


def test_one_trained_run_has_nothing_to_differ_from(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate("initial-a"), evaluate("teacher-a")]
    tables.summarise(results.read(paths), tmp_path / "s.csv", tmp_path / "c.csv", tmp_path / "s.md")
    assert "Differences" not in (tmp_path / "s.md").read_text()
    header = "run,reference,protocol,seeds,reference_seeds,images,covers,metric,difference,low,high,p,p_holm,by_split\n"
    assert (tmp_path / "c.csv").read_text() == header


def test_one_seed_has_no_standard_deviation(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate("initial-a"), evaluate("teacher-a", provenance={"commit": None})]
    tables.summarise(results.read(paths), tmp_path / "s.csv", tmp_path / "c.csv", tmp_path / "s.md")
    markdown = (tmp_path / "s.md").read_text()
    assert "±" not in markdown
    assert "One seed: no standard deviation" in markdown
    assert "seed 0; commits `0123456789ab`, unknown" in markdown


def test_terminal_table_is_narrow_and_complete(evaluate: Evaluate) -> None:
    long = "student-" + "without-any-of-the-terms-" * 3
    paths = [
        evaluate(run, seed, 100.0 - 30 * seed) for run in ("teacher-a", f"{long}1", f"{long}2") for seed in range(3)
    ]
    lines = tables.table(results.read(paths)).splitlines()
    assert max(map(len, lines)) <= 110
    rows = [line for line in lines if line.startswith("student-") and "±" in line]
    assert len(rows) == 4
    assert len({row.split()[0] for row in rows}) == 2
    assert " ".join(lines).count("compared with teacher-a (7 numbers") == 2
    row = next(line for line in lines if line.startswith("teacher-a"))
    assert row.split() == ["teacher-a", *[f"{statistics.fmean((100, 70, 40)):.1f}±30.0"] * 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "val"}, "split is val in the one and test"),
        ({"counts": {"images": 400, "captions": 1999}}, "counts.captions is 1999 in the one and 2000"),
        ({"counts": {"images": 399, "captions": 2000}}, "counts.images is 399"),
        ({"inputs": INPUTS | {"split_checksum": "decaf"}}, "inputs.split_checksum is decaf in the one and c0ffee"),
        ({"inputs": INPUTS | {"relevance_sha256": "decaf"}}, "inputs.relevance_sha256 is decaf"),
        ({"config": {"candidates": 128}}, "config.candidates is 128 in the one and 64"),
        ({"protocols": {"paper": dict.fromkeys(METRICS, 1.0)}}, "protocols and metrics"),
    ],
)
def test_evaluations_of_different_data_are_refused(evaluate: Evaluate, fields: dict, message: str) -> None:
    one, other = evaluate("teacher-a"), evaluate("student-rvlr", **fields)
    with pytest.raises(UserError, match=message) as error:
        results.read([one, other])
    assert str(one) in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": {"images": 400}}, "counts.captions"),
        ({"inputs": {}}, "inputs.split_checksum"),
        ({"protocols": {"corrected": {"r_mean": 3.0}}}, "lacks .*i2t_r@1.*; run the evaluate stage again"),
        ({"protocols": {}}, "protocols: "),
    ],
)
def test_a_file_that_is_not_an_evaluation_is_refused(evaluate: Evaluate, fields: dict, message: str) -> None:
    path = evaluate("teacher-a", **fields)
    with pytest.raises(UserError, match=message) as error:
        results.read([path])
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match="not an evaluation: run: "):
        results.read([evaluate("baseline")])


def test_a_run_counts_once_per_seed(evaluate: Evaluate) -> None:
    with pytest.raises(UserError, match="are both run 'teacher-a', seed 1"):
        results.read([evaluate("teacher-a", 1), evaluate("teacher-a", 1)])
    with pytest.raises(UserError, match="no evaluations"):
        results.read([])


# --- figures ------------------------------------------------------------------------------------------------


def log_of(path: Path, terms: dict[str, float], scores: list[float]) -> Path:
    lines = []
    for epoch, score in enumerate(scores):
        for step in (1, 2, 3):
            values = {name: value / (1 + epoch + step / 10) for name, value in terms.items()}
            loss = sum(values.values())
            lines.append(
                {"kind": "train", "step": 30 * epoch + 10 * step, "epoch": epoch, "loss": loss, **values, "lr": 1}
            )
        lines.append({"kind": "val", "step": 30 * epoch + 30, "epoch": epoch, "r_mean": score, "i2t_r@1": score})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_bars_are_as_long_as_their_values(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate("initial-a", 0, 10.0), evaluate("teacher-a", 0, 20.0), evaluate("student-b", 0, 40.0)]
    figures.plot_three_ways(results.read(paths), tmp_path / "out" / "bars.png")
    pixels = pixels_of(tmp_path / "out" / "bars.png")
    panel = pixels[:, : pixels.shape[1] // 3]
    lengths = [coloured(panel, colour).sum(axis=1).max() for colour in (style.UNTRAINED, *style.RUN_COLOURS[:2])]
    assert lengths[0] > 50
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.03)
    assert lengths[2] / lengths[0] == pytest.approx(4, rel=0.03)


def test_bars_need_the_corrected_protocol(evaluate: Evaluate, tmp_path: Path) -> None:
    path = evaluate("teacher-a", protocols={"paper": dict.fromkeys(METRICS, 1.0)})
    with pytest.raises(UserError, match="no protocol 'corrected'"):
        figures.plot_three_ways(results.read([path]), tmp_path / "bars.png")
    assert not (tmp_path / "bars.png").exists()


def test_figures_are_reproducible(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate(run, seed, 50 + seed) for run in ("teacher-a", "student-b") for seed in (0, 1)]
    metrics = {"student-b": [log_of(tmp_path / "m.jsonl", {"itc": 3.0, "kd": 0.01}, [10, 30, 20])]}
    for number in (1, 2):
        figures.plot_three_ways(results.read(paths), tmp_path / f"bars{number}.png")
        differences.plot_differences(results.read(paths), tmp_path / f"differences{number}.png")
        figures.plot_losses(metrics, tmp_path / f"losses{number}.png")
    assert (tmp_path / "differences1.png").read_bytes() == (tmp_path / "differences2.png").read_bytes()
    assert (tmp_path / "bars1.png").read_bytes() == (tmp_path / "bars2.png").read_bytes()
    assert (tmp_path / "losses1.png").read_bytes() == (tmp_path / "losses2.png").read_bytes()


def compared(differences: dict[str, tuple[float, float]], p: float = 0.001) -> Results:
    """Results of runs whose differences from `teacher-a` are all (low, high)."""
    sources = [{run: {0: (Path(), {})} for run in ("teacher-a", *differences)}]
    found = Results("test", Counts(images=9, captions=18), [], frozenset(), sources, [], {}, {})
    found.__dict__["comparisons"] = [
        Comparison(
            run,
            "teacher-a",
            [0, 1],
            [0, 1],
            9,
            ["images", "seeds"],
            dict.fromkeys(METRICS, Difference((low + high) / 2, low, high, p, ((low + high) / 2,), p)),
        )
        for run, (low, high) in differences.items()
    ]
    return found


def test_the_terminal_says_what_was_compared_and_what_follows() -> None:
    shown = {"student-a": (-2.0, 0.0), "student-b": (1.0, 5.0)}
    found = compared(shown)
    found.comparisons[1].differences["r_mean"] = Difference(-2.0, -3.0, -1.0, 0.001, (-2.0,), 0.01)
    said = " ".join(tables.table(found).split("\n\n", 1)[1].split())
    over = "compared with teacher-a (7 numbers, 95 % intervals over test images, seeds)"
    assert f"student-a {over}: not clearly different in any of 7." in said
    assert f"student-b {over}: above in I→T R@1 (+3.0), T→I R@1 (+3.0), I→I NDCG@10 (+3.0)" in said
    assert said.endswith("T→IT NDCG@10 (+3.0); below in R-mean (-2.0).")


def test_differences_are_drawn_to_scale(tmp_path: Path) -> None:
    shown = {"student-a": (-2.0, 0.0), "student-b": (1.0, 5.0), "student-c": (-4.0, -3.0)}
    differences.plot_differences(compared(shown), tmp_path / "all.png")
    pixels = pixels_of(tmp_path / "all.png")[:-150]  # above the legend
    spans = []
    for colour in style.RUN_COLOURS[1:4]:  # the first is that of the reference
        rows, columns = coloured(pixels, colour).nonzero()
        assert len(set(rows // 8)) >= 7  # one line a metric
        spans.append((columns.min(), columns.max()))
    lengths = [last - first for first, last in spans]
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.05)
    assert lengths[2] / lengths[0] == pytest.approx(0.5, rel=0.05)
    assert spans[2][1] < spans[0][0] < spans[0][1] < spans[1][0]


def test_significant_differences_are_filled(tmp_path: Path) -> None:
    counts = []
    for p in (0.001, 0.2):
        differences.plot_differences(compared({"student-a": (1.0, 2.0)}, p), tmp_path / "one.png")
        counts.append(coloured(pixels_of(tmp_path / "one.png"), style.RUN_COLOURS[1]).sum())
    assert counts[0] > counts[1] + 7 * 40


def test_one_run_has_no_differences_to_draw(evaluate: Evaluate, tmp_path: Path) -> None:
    found = results.read([evaluate("initial-a"), evaluate("teacher-a")])
    with pytest.raises(UserError, match=r"needs two trained runs .*found initial-a, teacher-a"):
        differences.plot_differences(found, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_losses_show_the_terms_of_each_run(tmp_path: Path) -> None:
    teacher = log_of(tmp_path / "teacher.jsonl", {"itc": 3.0, "itm": 0.9}, [10, 30, 20])
    student = log_of(tmp_path / "student.jsonl", {"itc": 3.0, "itm": 0.9, "kdi": 0.01}, [10, 40])
    figures.plot_losses({"teacher-a": [teacher], "student-b": [student]}, tmp_path / "losses.png")
    pixels = pixels_of(tmp_path / "losses.png")
    panels = pixels[pixels.shape[0] // 8 :]  # below the legend
    left, right = panels[:, : pixels.shape[1] // 2], panels[:, pixels.shape[1] // 2 :]
    colours = dict(zip(figures.TERMS, style.TERM_COLOURS, strict=True))
    del colours["kdt"]  # as grey as the edges of letters
    for panel, terms in ((left, {"itc", "itm"}), (right, {"itc", "itm", "kdi"})):
        assert {term for term, colour in colours.items() if coloured(panel, colour).sum() > 40} == terms


def test_curves_show_the_score_that_selected_the_weights(tmp_path: Path) -> None:
    path = log_of(tmp_path / "m.jsonl", {"itc": 3.0}, [10, 30, 20])
    assert (figures._read_curves(path).selected_by, [*figures._read_curves(path).score]) == ("r_mean", [10, 30, 20])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    balanced = [line | ({"balanced": line["step"] / 3} if line["kind"] == "val" else {}) for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in balanced))
    assert (figures._read_curves(path).selected_by, [*figures._read_curves(path).score]) == ("balanced", [10, 20, 30])
    figures.plot_losses({"student-b": [path]}, tmp_path / "losses.png")


def test_curves_show_every_seed_and_their_mean(tmp_path: Path) -> None:
    first = log_of(tmp_path / "first.jsonl", {"itc": 1.0}, [10, 30, 20])
    second = log_of(tmp_path / "second.jsonl", {"itc": 3.0}, [30, 10])
    one, other = (figures._read_curves(path).train["itc"] for path in (first, second))
    mean = figures._mean([one, other])  # the second is three times the first, and ends earlier
    assert [*mean.index] == [*other.index] == [*one.index][: len(other)]
    assert [*mean] == pytest.approx([2 * value for value in one[: len(other)]])
    strong = {}
    for name, paths in {"one": [first], "both": [first, second]}.items():
        figures.plot_losses({"student-b": paths}, tmp_path / f"{name}.png")
        strong[name] = coloured(pixels_of(tmp_path / f"{name}.png"), style.TERM_COLOURS[figures.TERMS.index("itc")])
    assert strong["both"].sum() > 40
    assert not np.array_equal(strong["one"], strong["both"])


def test_logs_of_seeds_belong_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"seed{seed}/student-a/metrics.jsonl" for seed in (0, 3)]
    other = tmp_path / "seed0/student-b/metrics.jsonl"
    assert figures.named_by_folder([*paths, other]) == {"student-a": paths, "student-b": [other]}
    for twin in (tmp_path / "x/student-a/metrics.jsonl", tmp_path / "y/seed3/student-a/metrics.jsonl"):
        with pytest.raises(UserError, match="are both named 'student-a'; give one"):
            figures.named_by_folder([*paths, twin])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "train", "step": 1, "loss": 2}\nnonsense\n', "line 2"),
        ('{"step": 1}\n', "line 1"),
        ('{"kind": "train", "step": 1, "loss": 2}\n', "no val line with 'r_mean'"),
        ("", "no train line with 'loss'"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_not_a_training_log_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        figures.plot_losses({"teacher-a": [path]}, tmp_path / "losses.png")
    assert str(path) in str(error.value)
