"""The tables of several studies: right numbers in the right rows, differences as the studies have them, and holes named
wherever there are any."""

import csv
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from test_pool import GAIN, RUNS, SEEDS, Study, evaluate, numbers, study  # noqa: F401 - a fixture
from typer.testing import CliRunner

from rvlr.cli import app
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.report import figures, joined, results, tables

Rows = list[dict[str, str]]


def join(folders: list[Path], output: Path, *options: str) -> tuple[str, Rows, str]:
    """Markdown, rows of the CSV, LaTeX."""
    arguments = ["tables", *map(str, folders), "--output", str(output), *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    with (output / "tables.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return (output / "tables.md").read_text(), rows, (output / "tables.tex").read_text()


def cells(markdown: str) -> dict[str, dict[tuple[str, str], dict[str, str]]]:
    """Section -> (data, run) -> column -> cell."""
    found: dict[str, dict[tuple[str, str], dict[str, str]]] = defaultdict(dict)
    section, header = "", []
    for line in markdown.splitlines():
        if line.startswith("## "):
            section, header = line[3:], []
        elif line.startswith("|") and not line.startswith("|:-"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if header:
                named = dict(zip(header, row, strict=True))
                found[section][named.pop("data"), named.pop("run")] = named
            header = header or row
    return found


def plain(cell: str) -> str:
    return re.sub(r"[*↑↓]", "", cell)


@pytest.fixture
def two(study: Study) -> list[Path]:  # noqa: F811
    """Two studies of 30 images, in which `student-a` is clearly above its reference."""
    GAIN["student-a"] = 4.0
    try:
        return [study(0, 30), study(50, 30)]
    finally:
        GAIN["student-a"] = 1.5


def test_numbers_are_those_of_each_study(two: list[Path], tmp_path: Path) -> None:
    markdown, rows, _ = join(two, tmp_path / "out")
    found = cells(markdown)
    assert [*found] == ["Cross-modal", "Single-modal", "Mixed"]
    for section in found.values():
        assert [*section] == [(folder.name, run) for folder in two for run in RUNS]
    by_key = {(row["study"], row["run"], row["metric"]): row for row in rows}
    assert len(by_key) == len(rows)
    for folder in two:
        for run in RUNS:
            for name, metric in [*joined.SECTIONS["Cross-modal"].items(), ("I→I NDCG@10", "i2i_ndcg@10")]:
                values = [numbers(folder, run, seed)[metric] for seed in SEEDS]
                row = by_key[folder.name, run, metric]
                assert (row["seeds"], row["of"]) == ("2", "2")
                assert [float(row["mean"]), float(row["std"])] == pytest.approx(
                    [np.mean(values), np.std(values, ddof=1)], abs=1e-6
                )
                section = "Cross-modal" if metric in joined.SECTIONS["Cross-modal"].values() else "Single-modal"
                shown = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
                assert plain(found[section][folder.name, run][name]) == shown


def test_the_best_trained_of_each_study_is_bold(two: list[Path], tmp_path: Path) -> None:
    markdown, rows, latex = join(two, tmp_path / "out")
    for section in cells(markdown).values():
        for (data, run), row in section.items():
            for name, cell in row.items():
                if name == "seeds":
                    continue
                means = {
                    other: float(plain(section[data, other][name]).split(" ")[0]) for other in RUNS if other != RUNS[0]
                }
                best = (min if "rank" in name else max)(means.values())
                assert cell.startswith("**") == (run != RUNS[0] and means[run] == best), (data, run, name)
    assert latex.count(r"\textbf") == markdown.count("**") / 2 == sum(row["best"] == "True" for row in rows)


def test_marks_are_the_comparisons_of_the_studies_adjusted_together(two: list[Path], tmp_path: Path) -> None:
    markdown, rows, latex = join(two, tmp_path / "out")
    family = []
    for folder in two:
        (one,) = results.read(sorted(folder.glob("seed*/*/eval/test.json"))).comparisons
        tables.summarise(
            results.read(sorted(folder.glob("seed*/*/eval/test.json"))),
            *(tmp_path / f"{n}{folder.name}" for n in "abc"),
        )
        with (tmp_path / f"b{folder.name}").open(newline="") as stream:
            written = {row["metric"]: row for row in csv.DictReader(stream)}
        for row in rows:
            if row["study"] == folder.name and row["run"] == one.run and row["metric"] in one.differences:
                same = ("difference", "low", "high", "p", "reference")
                assert {key: row[key] for key in same} == {key: written[row["metric"]][key] for key in same}
        family += [(folder.name, metric, one.differences[metric]) for metric in tables.SHOWN.values()]
    # Holm's procedure, step by step: the smallest p times the number of all, and so on until one is too large
    clear, left = {}, len(family)
    for data, metric, found in sorted(family, key=lambda item: item[2].p):
        if found.p * left >= 0.05:
            break
        clear[data, metric] = "↑" if found.value > 0 else "↓"
        left -= 1
    assert len(clear) > 0
    marked = {(row["study"], row["metric"]): row["mark"] for row in rows if row["mark"]}
    assert marked == clear
    assert {row["run"] for row in rows if row["mark"]} == {"student-a"}
    shown = "".join(cell for section in cells(markdown).values() for row in section.values() for cell in row.values())
    assert shown.count("↑") + shown.count("↓") == len(clear)
    assert f"all {len(family)} comparisons in these tables: 7 metrics" in markdown
    assert (
        "The reference in photos-0 is student-continued. The interval covers the choice of test images and" in markdown
    )
    assert latex.split(r"\begin{tabular}", 1)[1].split(r"\end{tabular}")[0].count("arrow") > 0


def test_of_one_study_p_values_are_those_of_its_summary(two: list[Path], tmp_path: Path) -> None:
    _, rows, _ = join(two[:1], tmp_path / "out")
    (one,) = results.read(sorted(two[0].glob("seed*/*/eval/test.json"))).comparisons
    found = {row["metric"]: row["p_holm"] for row in rows if row["run"] == one.run and row["p_holm"]}
    assert found == {metric: f"{one.differences[metric].holm:.6g}" for metric in tables.SHOWN.values()}


def test_a_missing_seed_is_named_and_neither_best_nor_compared(two: list[Path], tmp_path: Path) -> None:
    before = cells(join(two, tmp_path / "before")[0])
    shutil.rmtree(two[0] / "seed1/student-a/eval")
    markdown, rows, latex = join(two, tmp_path / "out")
    line = "Missing in photos-0: student-a, seed 1; its means are over seed 0 alone."
    assert line in markdown
    assert latex.count(line) == 3  # in the caption of each table
    assert "Nothing is compared in photos-0: no other trained model has all seeds." in markdown
    for section, table in cells(markdown).items():
        row = table["photos-0", "student-a"]
        assert row["seeds"] == "1 of 2"
        assert not re.search(r"\*|↑|↓|±", "".join(row.values()))
        assert table["photos-0", "student-continued"]["seeds"] == "2"
        # the other study stays as it was but for marks, which are adjusted for fewer comparisons
        for run in RUNS:
            other, old = table["photos-50", run], before[section]["photos-50", run]
            assert {key: cell.strip("↑↓") for key, cell in other.items()} == {k: c.strip("↑↓") for k, c in old.items()}
    own = [row for row in rows if (row["study"], row["run"]) == ("photos-0", "student-a")]
    assert {(row["seeds"], row["of"], row["best"], row["p"], row["mark"]) for row in own} == {
        ("1", "2", "False", "", "")
    }
    assert float(own[0]["mean"]) == pytest.approx(numbers(two[0], "student-a", 0)[own[0]["metric"]], abs=1e-6)


def test_a_run_without_numbers_and_a_reference_with_a_hole_are_named(two: list[Path], tmp_path: Path) -> None:
    shutil.rmtree(two[0] / "seed0/student-continued/eval")
    for seed in SEEDS:
        shutil.rmtree(two[1] / f"seed{seed}/student-continued/eval")
    markdown, rows, _ = join(two, tmp_path / "out")
    assert "Missing in photos-50: student-continued, seeds 0, 1; it has no numbers." in markdown
    for data in ("photos-0", "photos-50"):
        assert f"Nothing is compared in {data}: the reference, student-continued, lacks seeds." in markdown
    row = cells(markdown)["Mixed"]["photos-50", "student-continued"]
    assert row.pop("seeds") == "0 of 2"
    assert {*row.values()} == {"missing"}
    assert not any(row["mark"] or row["p"] for row in rows)


def test_a_study_that_only_began_has_rows_without_numbers(two: list[Path], tmp_path: Path) -> None:
    for folder in two[1].glob("seed*"):
        shutil.rmtree(folder)
    found = cells(join(two, tmp_path / "out")[0])["Cross-modal"]
    assert {cell for run in RUNS for cell in found["photos-50", run].values()} == {"0 of 2", "missing"}
    assert all("missing" not in found["photos-0", run].values() for run in RUNS)
    with pytest.raises(UserError, match="nothing was evaluated yet"):
        joined.read(two[1:])


def test_what_does_not_belong_is_refused(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are the same folder"):
        joined.read([two[0], two[0] / "../photos-0"])
    with pytest.raises(UserError, match="no folder of results"):
        joined.read([two[0], tmp_path])
    path = two[0] / "seed0/student-a/eval/test.json"
    path.write_text(path.read_text().replace('"i2t_r@1": ', '"i2t_r@1": 1'))
    with pytest.raises(UserError, match=r"student-a/eval/test.json: .* not as they were measured"):
        joined.read(two)
    done = CliRunner().invoke(app, ["tables", str(two[1]), "--output", str(tmp_path / "out"), "--protocol", "other"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "--protocol: found 'other'; give corrected or paper"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tables.csv").write_text("mine")
    done = CliRunner().invoke(app, ["tables", str(two[1]), "--output", str(tmp_path / "out")])
    assert "rvlr did not make it" in str(done.exception)
    assert (tmp_path / "out/tables.csv").read_text() == "mine"


def test_names_are_safe_in_latex(study: Study, tmp_path: Path) -> None:  # noqa: F811
    latex = join([study(0, 8, "my_photos")], tmp_path / "out")[2]
    assert r"my\_photos & student-a" in latex
    assert latex.isascii()
    for table in latex.split(r"\end{table*}")[:-1]:
        rows = re.search(r"\\begin\{tabular\}\{(\w+)\}(.*)\\end\{tabular\}", table, flags=re.DOTALL)
        lines = [line for line in rows[2].splitlines() if line.endswith(r"\\")]
        assert len(lines) == 1 + len(RUNS)
        assert {line.replace(r"\&", "").count("&") + 1 for line in lines} == {len(rows[1])}
    if shutil.which("pdflatex"):
        (tmp_path / "t.tex").write_text(
            r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{out/tables.tex}\end{document}"
        )
        subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)


def test_the_summary_names_seeds_that_other_runs_have(two: list[Path], tmp_path: Path) -> None:
    """The terminal's table, too, which shows no number of seeds."""
    shutil.rmtree(two[0] / "seed1/student-a/eval")
    found = results.read(sorted(two[0].glob("seed*/*/eval/test.json")))
    assert found.missing == {"student-a": [1]}
    line = "Missing: student-a has no seed 1; its means are over seed 0 alone"
    tables.summarise(found, *(tmp_path / name for name in ("s.csv", "c.csv", "s.md")))
    assert f"\n- {line}\n" in (tmp_path / "s.md").read_text()
    assert f"\n{line}\n" in tables.table(found)
    labels = [figures._label(run, found) for run in RUNS]
    assert labels == ["initial-base", "student-a (1 of 2 seeds)", "student-continued"]
    assert "Missing" not in tables.table(results.read(sorted(two[1].glob("seed*/*/eval/test.json"))))


def test_subsets_have_rows_of_their_own_and_no_marks(study: Study, tmp_path: Path) -> None:  # noqa: F811
    folder = study(0, 8)
    for run in RUNS:
        for seed in SEEDS:
            path = folder / f"seed{seed}/{run}/eval"
            evaluate(path, read_split(folder / "splits/test.jsonl"), run, seed, 0, subsets=("corrected/first-4",))
    markdown, rows, _ = join([folder], tmp_path / "out")
    assert [*cells(markdown)["Mixed"]] == [(data, run) for data in ("photos-0", "photos-0, first-4") for run in RUNS]
    subset = [row for row in rows if row["protocol"] == "corrected/first-4"]
    assert subset
    assert not any(row["mark"] or row["p"] for row in subset)
