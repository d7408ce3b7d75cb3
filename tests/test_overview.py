"""The first page of the report, the costs on it, and the page of tables: every number is that of a file."""

import json
import re
from pathlib import Path
from typing import Any

import browser
import pytest
import yaml
from test_report import Evaluate, evaluate  # noqa: F401 - a fixture

from rvlr.errors import UserError
from rvlr.report import costs, overview, page

COLUMNS = "s\th:m:s\tmax_rss\n"
MADE = {"rvlr": "0.1.0", "commit": "abc", "python": "3.12.1", "machine": "x86_64", "processor": "Fast <CPU>"}


def made(gpu: str | None, torch: str = "2.11") -> dict[str, Any]:
    return {**MADE, "gpu": gpu, "packages": {"torch": torch, "timm": None}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of results without evaluations."""
    for name, seconds, memory in (
        ("seed0/teacher-t", 1800, "2048"),
        ("seed1/teacher-t", 5400, "1024.0"),
        ("seed0/evaluate-teacher-t", 36, "512"),
        ("prepare", 0.5, "NA"),
    ):
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{COLUMNS}{seconds}\t0:00:00\t{memory}\n")
    (tmp_path / "splits").mkdir()
    counts = {"train": {"images": 1500, "captions": 7500}, "test": {"images": 400, "captions": 2000}}
    (tmp_path / "splits/dataset.json").write_text(json.dumps({"counts": counts}))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/dataset.yaml").write_text("kind: custom\n")
    return tmp_path


def trained(evaluation: Path, provenance: dict[str, Any], processes: int) -> None:
    """Write the record of the training beside an evaluation."""
    (evaluation.parent.parent / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "seed": int(evaluation.parent.parent.parent.name.removeprefix("seed")),
                "settings": {"training": {"processes": processes}},
                "outputs": {"model_sha256": "decade", "metrics_sha256": "none"},
                "provenance": provenance,
            }
        )
    )


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html.replace("<br>", "\n"))


def test_the_table_has_the_numbers_of_the_evaluations(folder: Path, evaluate: Evaluate) -> None:  # noqa: F811
    paths = [evaluate("initial-a", 0, 99), evaluate("teacher-t", 0, 60), evaluate("student-s", 0, 61.26)]
    _, header, *rows = browser.rows_of(overview.page(folder, paths), "headline-table")
    assert header[0] == "model"
    assert rows == [["initial-a", *["99.0"] * 7], ["teacher-t", *["60.0"] * 7], ["student-s", *["61.3"] * 7]]
    found = overview.page(folder, paths)
    assert found.count("<b>61.3</b>") == 7  # of the trained models
    assert "<b>99.0</b>" not in found


def test_facts_and_costs_are_those_of_the_records(folder: Path, evaluate: Evaluate) -> None:  # noqa: F811
    paths = [evaluate("teacher-t", seed, 60 + seed, provenance=made("H100")) for seed in (0, 1)]
    for path, processes in zip(paths, (4, 2), strict=True):
        trained(path, made("H100", torch="2.12"), processes)
    whole = overview.page(folder, paths)
    found = text_of(whole)
    for fact in (
        "train: 1,500 images, 7,500 captions",
        "(kind custom)",
        "abc",
        "torch 2.11",
        "torch 2.12",
        "GPU: H100",
    ):
        assert fact in found
    assert "Versions (several" in found
    assert "Commit " in found
    # 1800 s on 4 GPUs, 5400 s on 2, an evaluation of 36 s on one
    assert browser.rows_of(whole, "costs") == [
        ["stage", "times run", "wall time", "GPU hours", "peak memory"],
        ["prepare", "1", "0.5 s", "0.00", "not measured"],
        ["teacher", "2", "2 h 0 min", "5.00", "2.00 GiB"],
        ["evaluate", "1", "36.0 s", "0.01", "0.50 GiB"],
        ["all", "4", "2 h 0 min", "5.01", "2.00 GiB"],
    ]


def test_names_from_outside_are_text(folder: Path, evaluate: Evaluate) -> None:  # noqa: F811
    path = evaluate("teacher-t", 0, 60, provenance=made(None), notes=["<script>alert(1)</script>"])
    found = overview.page(folder, [path])
    assert "<script" not in found
    assert "Fast &lt;CPU&gt;" in found
    assert "computed on the CPU" in found


def test_there_is_no_page_before_there_are_results(folder: Path) -> None:
    with pytest.raises(UserError, match=r"test.json: not there yet; run the workflow before its report"):
        overview.page(folder, [folder / "seed0/teacher-t/eval/test.json"])


@pytest.mark.parametrize("text", ["", "s\tmax_rss\nx\t1\n", "a\tb\n1\t2\n"])
def test_a_damaged_benchmark_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/prepare.tsv").write_text(text)
    with pytest.raises(UserError, match=r"prepare.tsv: not a benchmark file"):
        costs.read(tmp_path)


def test_a_page_of_tables_shows_what_markdown_has_and_runs_nothing() -> None:
    found = page.of_markdown("# Title\n\n- note: `a`\n\n| run | R@1 |\n|:--|--:|\n| <img src=x> | **1.0** |\n")
    assert "<title>Title</title>" in found
    assert "<strong>1.0</strong>" in found
    assert "<li>note: <code>a</code></li>" in found
    assert "&lt;img src=x&gt;" in found
    assert "<img" not in found
    assert not re.search(r"(src|href)=", found.replace("src=x&gt;", ""))
