"""The workflow as people run it: from the YAML to the tables, what reruns after which change, kills."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import browser
import pytest
import yaml
from conftest import ROOT, TINY_MODEL
from storm import snapshot
from study import SETTINGS, changed, fails, module, plan, run, snakemake

from rvlr.errors import UserError
from rvlr.report import results
from rvlr.workflow import clean

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole workflow ran once."""
    folder = tmp_path_factory.mktemp("finished")
    output = run(folder, SETTINGS)
    assert "student-a" in output  # the table is printed at the end
    stages = re.findall(r"^\d\d:\d\d:\d\d \[ *(\d+)/(\d+)\] (\w+)(.*)$", output, flags=re.MULTILINE)
    assert [int(number) for number, *_ in stages] == [*range(1, int(stages[0][1]) + 1)]
    (trained,) = (rest for _, _, rule, rest in stages if rule == "train_teacher")
    assert re.fullmatch(r" t, seed 0 +\d+:\d\d  val R-mean [\d.]+ after step \d+ of \d+, the best", trained)
    assert not re.search(r"^(local)?rule |^    jobid|Select jobs|Finished jobid|Warning|WARNING", output, re.MULTILINE)
    assert len(output.splitlines()) < 2 * len(stages) + 45
    return folder


def test_everything_is_made(finished: Path) -> None:
    results = finished / "results/shapes"
    runs = ("initial-base", "teacher-t", "student-a", "student-b")
    for name in runs:
        found = json.loads((results / f"seed0/{name}/eval/test.json").read_text())
        assert found["counts"] == {"images": 12, "captions": 24}
        assert set(found["protocols"]) == {"corrected", "paper"}
        assert all(key in found["protocols"]["paper"] for key in ("r_mean", "i2i_ndcg@10", "t2it_ndcg@50"))
        assert found["provenance"]["packages"]["torch"]
        assert found["inputs"].keys() == {"split_checksum", "relevance_sha256", "model_sha256"}
        assert found["outputs"].keys() == {"rankings_sha256", "numbers_sha256"}
    for name in (
        "summary.csv",
        "summary.md",
        "figures/losses.png",
        "figures/three-ways.png",
        "figures/differences.png",
    ):
        assert (results / name).stat().st_size > 0
    assert (results / "figures/student-a-cross-modal.png").exists()
    assert list(results.glob("logs/**/*.log"))
    assert list(results.glob("benchmarks/**/*.tsv"))


def test_a_second_run_finds_nothing_to_do(finished: Path) -> None:
    assert "Nothing to be done" in run(finished, SETTINGS)


def test_to_require_a_gpu_reruns_nothing(finished: Path) -> None:
    assert not plan(finished, changed(gpu="required"))


def test_a_gpu_that_is_required_is_missed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "gpu: required, but CUDA_VISIBLE_DEVICES is ''" in fails(tmp_path, changed(gpu="required"))
    assert not (tmp_path / "results").exists()


def test_changing_a_students_weight_reruns_that_student_alone(finished: Path) -> None:
    students = {**SETTINGS["students"], "b": {"teacher": "t", "weights": {"kd": 0.5, "kdi": 0, "kdt": 0}}}
    assert plan(finished, changed(students=students)) == Counter(
        [
            "freeze_config student-b",
            "train_student b",
            "evaluate_model student-b",
            "draw_sheets student-b",
            "plot_losses",
            "plot_differences",
            "plot_three_ways",
            "summarise",
            "all",
        ]
    )


def test_changing_the_relevance_retrains_nothing(finished: Path) -> None:
    for relevance in ({"stemmer": True}, {"scorer": "coco-caption"}):
        planned = plan(finished, changed(evaluation={**SETTINGS["evaluation"], "relevance": relevance}))
        assert planned["compute_relevance"] == 1
        assert planned["evaluate_model student-a"] == 1
        assert not [job for job in planned if job.startswith(("train", "extract", "initialise", "prepare"))]


def test_changing_the_candidates_only_evaluates_again(finished: Path) -> None:
    planned = plan(finished, changed(evaluation={**SETTINGS["evaluation"], "candidates": 4}))
    kinds = {job.split()[0] for job in planned}
    assert kinds == {
        "freeze_config",
        "evaluate_model",
        "draw_sheets",
        "plot_differences",
        "plot_three_ways",
        "summarise",
        "all",
    }


def test_cleaned_results_stay_as_they_are_until_a_stage_needs_what_was_deleted(finished: Path, tmp_path: Path) -> None:
    """Then all that reads it runs again, as `rvlr clean` says."""
    shutil.copytree(finished, tmp_path / "copy")
    results = tmp_path / "copy/results/shapes"
    items = clean.find(results)
    assert {item.name for item in items} == {"seed0/teacher-t/features", "relevance/test.npy"}
    assert all(item.seconds is not None and item.after and not item.kept for item in items)
    clean.delete(results, items)
    assert clean.find(results) == []
    assert not plan(tmp_path / "copy", SETTINGS)
    planned = plan(tmp_path / "copy", changed(students={**SETTINGS["students"], "c": {"teacher": "t"}}))
    assert planned["extract_features t"] == planned["compute_relevance"] == 1
    assert {job for job in planned if job.startswith("train")} == {f"train_student {name}" for name in "abc"}
    assert planned["evaluate_model teacher-t"] == 1


def test_relevance_is_made_for_the_trainings_that_select_by_it_alone(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    students = {**SETTINGS["students"], "b": {**SETTINGS["students"]["b"], "training": {"selected_by": "balanced"}}}
    settings = changed(students=students)
    planned = plan(folder, settings)
    assert planned["compute_relevance"] == 1
    assert [job for job in planned if job.startswith("train")] == ["train_student b"]
    student = "results/shapes/seed0/student-b"
    run(folder, settings, "--", f"{student}/metrics.jsonl")
    assert (folder / "results/shapes/relevance/val.npy").exists()
    lines = [json.loads(line) for line in (folder / student / "metrics.jsonl").read_text().splitlines()]
    shown = [set(line) for line in lines if line["kind"] == "val"]
    assert len(shown) == 2
    assert all({"r_mean", "single_modal", "mixed", "balanced"} <= names for names in shown)
    assert "train_student b" not in plan(folder, settings)
    other = {**settings, "evaluation": {**SETTINGS["evaluation"], "relevance": {"stemmer": True}}}
    planned = plan(folder, other)
    assert planned["compute_relevance"] == 2
    assert [job for job in planned if job.startswith("train")] == ["train_student b"]


def test_adding_a_student_runs_that_student(finished: Path) -> None:
    students = {**SETTINGS["students"], "c": {"teacher": "t", "distance": "mse"}}
    planned = plan(finished, changed(students=students))
    assert [job for job in planned if job.startswith("train")] == ["train_student c"]


def test_changing_the_teacher_reruns_what_follows_from_it(finished: Path) -> None:
    planned = plan(finished, changed(teachers={"t": {"training": {"learning_rate": 5e-3}}}))
    trained = sorted(job for job in planned if job.startswith(("train", "extract")))
    assert trained == ["extract_features t", "train_student a", "train_student b", "train_teacher t"]
    assert not [job for job in planned if job.startswith(("prepare", "initialise", "compute"))]


def test_seeds_and_single_modal_teachers_are_planned(tmp_path: Path) -> None:
    pair = {"kind": "single-modal", "vision": {"name": "resnet10t"}, "text": {"weights": "somewhere"}}
    settings = changed(
        seeds=[0, 1, 2],
        teachers={"t": {}, "pair": pair},
        students={"a": {"teacher": "t"}, "p": {"teacher": "pair"}},
    )
    planned = plan(tmp_path, settings)
    assert planned["train_teacher t"] == planned["train_student p"] == planned["extract_features pair"] == 3
    assert planned["initialise_model"] == 3
    assert planned["prepare_data"] == planned["compute_relevance"] == 1


def test_own_data_is_read_with_its_paths_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "captions.csv").write_text("image,caption\n")
    options = ["dataset={images: photos, captions: captions.csv}", "models={base: {text: {weights: bert}}}"]
    program = snakemake(tmp_path, SETTINGS, "--dry-run", "--config", *options)
    program[program.index("--configfile") + 1] = str(ROOT / "config/own-photos.yaml")
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train_student" in done.stdout + done.stderr


# --- without Snakemake's records ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished folder as somebody else gets it: nothing that Snakemake remembers, all files of one time."""
    folder = tmp_path_factory.mktemp("copied") / "results copied"
    shutil.copytree(finished, folder, symlinks=True)
    forget(folder)
    return folder


def forget(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


TABLES = ["plot_differences", "plot_three_ways", "summarise", "all"]
SHEETS = ["draw_sheets student-a", "draw_sheets student-b", "draw_sheets teacher-t"]
EVALUATED = [f"evaluate_model {run}" for run in ("initial-base", "student-a", "student-b", "teacher-t")]
STUDENTS = ["train_student a", "train_student b"]
FROM_THE_TEACHER = ["train_teacher t", "extract_features t", *STUDENTS, *EVALUATED[1:], *SHEETS, "plot_losses", *TABLES]
FROM_THE_DATA = [*FROM_THE_TEACHER, EVALUATED[0], "initialise_model"]


@pytest.mark.parametrize(
    ("sections", "planned"),
    [
        ({}, []),
        (
            {"students": {**SETTINGS["students"], "b": {"teacher": "t", "distance": "mse"}}},
            ["freeze_config student-b", "train_student b", EVALUATED[2], SHEETS[1], "plot_losses", *TABLES],
        ),
        ({"students": {"a": {"teacher": "t"}}}, ["freeze_config report", "plot_losses", *TABLES]),
        ({"evaluation": {**SETTINGS["evaluation"], "queries_shown": 3}}, ["freeze_config sheets", *SHEETS, "all"]),
        (
            {"evaluation": {**SETTINGS["evaluation"], "untrained": False}},
            ["freeze_config report", "plot_losses", *TABLES],
        ),
        (
            {"evaluation": {**SETTINGS["evaluation"], "candidates": 5}},
            ["freeze_config evaluation", *EVALUATED, *SHEETS, *TABLES],
        ),
        (
            {"evaluation": {**SETTINGS["evaluation"], "relevance": {"stemmer": True}}},
            ["freeze_config relevance", "compute_relevance", *EVALUATED, *SHEETS, *TABLES],
        ),
        (
            {"evaluation": {**SETTINGS["evaluation"], "scene_relevance": True}},
            ["freeze_config evaluation", "compute_scene_relevance", *EVALUATED, *SHEETS, *TABLES],
        ),
        ({"teachers": {"t": {"weights": {"itc": 3}}}}, ["freeze_config teacher-t", *FROM_THE_TEACHER]),
        (
            {"models": {"base": {**TINY_MODEL, "embed_dim": 4}}},
            ["freeze_config initial-base", *FROM_THE_DATA],
        ),
        (
            {"dataset": {**SETTINGS["dataset"], "imbalance": 0.5}},
            ["freeze_config dataset", "prepare_data", "compute_relevance", *FROM_THE_DATA],
        ),
    ],
)
def test_what_changed_is_planned_whatever_snakemake_remembers(
    copied: Path, sections: dict[str, Any], planned: list[str]
) -> None:
    before = snapshot(copied / "results")
    assert sorted(plan(copied, changed(**sections)).elements()) == sorted(planned)
    assert snapshot(copied / "results") == before


def test_another_seed_is_planned_and_shown_alone(copied: Path) -> None:
    planned = plan(copied, changed(seeds=[1]))
    assert planned["train_teacher t"] == planned["evaluate_model student-b"] == planned["summarise"] == 1
    planned = plan(copied, changed(seeds=[0, 1]))
    assert planned["freeze_config report"] == planned["plot_losses"] == 1
    assert planned["freeze_config sheets"] == planned["draw_sheets student-a"] == 0


def test_models_are_judged_by_scenes_on_demand(finished: Path, tmp_path: Path) -> None:
    """Nothing else is made again, and a matrix that was changed since is noticed."""
    folder = tmp_path / "judged"
    shutil.copytree(finished, folder, symlinks=True)
    settings = changed(evaluation={**SETTINGS["evaluation"], "scene_relevance": True})
    assert "protocol corrected/scenes" in run(folder, settings)
    assert plan(folder, settings) == Counter()
    summary = (folder / "results/shapes/summary.md").read_text()
    assert "## Protocol `corrected/scenes`" in summary
    assert (finished / "results/shapes/summary.md").read_text().split("## Protocol")[1] in summary
    section = summary.partition("\n## Differences by scenes\n")[2]
    assert "adjusted for all 8 comparisons below, 4 metrics of 2 runs" in section
    measured = {
        run: json.loads((folder / f"results/shapes/seed0/{run}/eval/test.json").read_text())["protocols"]
        for run in ("teacher-t", "student-a", "student-b")
    }
    with (folder / "results/shapes/comparisons.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"].endswith("ndcg@10")]
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        own, reference = (measured[row[name]][row["protocol"]][row["metric"]] for name in ("run", "reference"))
        assert float(row["difference"]) == pytest.approx(own - reference, abs=1e-3)
        if row["protocol"] == "corrected/scenes":
            assert f"{float(row['difference']):+z.2f}" in section
    dataset = {**SETTINGS["dataset"], "imbalance": 0.5}
    assert plan(folder, {**settings, "dataset": dataset})["compute_scene_relevance"] == 1
    assert plan(folder, SETTINGS).keys() == {"freeze_config evaluation", *EVALUATED, *SHEETS, *TABLES}
    matrix = folder / "results/shapes/relevance/scenes-test.npy"
    matrix.write_bytes(matrix.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=rf"made from another scene relevance than {matrix} "):
        results.read([folder / "results/shapes/seed0/student-a/eval/test.json"])


@pytest.mark.parametrize("content", ["kd: 1\n", "", "a: [", None])
def test_a_frozen_file_that_was_changed_is_planned(copied: Path, content: str | None) -> None:
    path = copied / "results/shapes/config/student-b.yaml"
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    try:
        assert {"freeze_config student-b", "train_student b", "summarise"} <= plan(copied, SETTINGS).keys()
    finally:
        path.write_bytes(before)
        os.utime(path, (1_700_000_000, 1_700_000_000))


def test_no_report_is_made_of_results_with_other_settings(copied: Path) -> None:
    settings = changed(evaluation={**SETTINGS["evaluation"], "candidates": 5})
    said = fails(copied, settings, "--report", str(copied / "report.html"))
    assert "results/shapes/config/evaluation.yaml: of other settings" in said
    assert not (copied / "report.html").exists()


RECORDS = {
    "another run's evaluation": ("student-b/eval/test.json", "student-a/eval/test.json", "of run student-b"),
    "another run's log": ("student-b/metrics.jsonl", "student-a/metrics.jsonl", "not the log of the training"),
    "another run's training": ("student-b/config.yaml", "student-a/config.yaml", "trained with"),
    "an edited seed": ('"seed": 0', '"seed": 3', "the record is of seed 3"),
    "edited settings": ('"candidates": 6', '"candidates": 7', "evaluated with candidates 7"),
    "an edited record of the split": ('"split_checksum": "', '"split_checksum": "0', "another split than"),
    "half a record": ('"inputs"', '"', "not valid JSON"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_result_that_is_not_what_it_says_stops_the_start(copied: Path, name: str) -> None:
    old, new, says = RECORDS[name]
    run_folder = copied / "results/shapes/seed0"
    target = run_folder / (new if "/" in new else "student-a/eval/test.json")
    before = target.read_text()
    target.write_text((run_folder / old).read_text() if "/" in old else before.replace(old, new))
    try:
        for options in ([], ["--dry-run"]):
            said = fails(copied, SETTINGS, *options)
            assert re.search(rf"{target.relative_to(copied)}: .*{says}", said)
            assert "; snakemake" in said
    finally:
        target.write_text(before)
        os.utime(target, (1_700_000_000, 1_700_000_000))


def test_what_an_interrupted_run_left_behind_is_planned(copied: Path) -> None:
    """Settings were frozen, then the run was killed: no fault, but results older than what they are made from."""
    path = copied / "results/shapes/config/evaluation.yaml"
    before = path.read_text()
    path.write_text(before.replace("candidates: 6", "candidates: 5"))
    try:
        planned = plan(copied, changed(evaluation={**SETTINGS["evaluation"], "candidates": 5}))
        assert sorted(planned.elements()) == sorted([*EVALUATED, *SHEETS, *TABLES])
    finally:
        path.write_text(before)
        os.utime(path, (1_700_000_000, 1_700_000_000))


# --- from elsewhere -------------------------------------------------------------------------------------------------

ENTRIES = [ROOT / "Snakefile", ROOT / "workflow/Snakefile"]


@pytest.mark.parametrize("snakefile", ENTRIES)
def test_another_folder_without_settings_gets_the_demo(tmp_path: Path, snakefile: Path) -> None:
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--dry-run"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Using workflow specific profile {snakefile.parent / 'profiles/default'}" in done.stderr
    assert "results/shapes/seed0/student-continued" in done.stdout + done.stderr
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(changed(seeds=[7])))
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "results/shapes/seed7/student-b" in done.stdout + done.stderr
    assert "student-continued" not in done.stdout + done.stderr


@pytest.mark.parametrize("snakefile", ENTRIES)
def test_another_workflow_uses_it_as_a_module(copied: Path, snakefile: Path) -> None:
    """The same jobs under prefixed names, those included that Snakemake does not remember; its own default target."""
    file = module(copied, snakefile)
    assert plan(copied, {"study": SETTINGS}, snakefile=file) == Counter(["first"])
    students = {**SETTINGS["students"], "b": {"teacher": "t", "distance": "mse"}}
    planned = plan(copied, {"study": changed(students=students)}, "--", "rvlr_all", snakefile=file)
    expected = plan(copied, changed(students=students), snakefile=snakefile)
    assert planned == Counter({f"rvlr_{job}": count for job, count in expected.items()})
    assert planned["rvlr_train_student b"] == 1


def test_a_module_runs(tmp_path: Path) -> None:
    target = "results/shapes/relevance/test.npy"
    run(tmp_path, {"study": SETTINGS, "samples": {1: "mine"}}, "--", target, snakefile=module(tmp_path))
    assert (tmp_path / target).stat().st_size > 0
    assert plan(tmp_path, SETTINGS, "--", target) == Counter()


def test_faults_of_a_module_name_it(tmp_path: Path) -> None:
    settings = {"study": changed(seeds=["x"])}
    assert "error: config of module rvlr: 1 fault" in fails(tmp_path, settings, snakefile=module(tmp_path))
    moved = module(tmp_path, more='prefix: "below"')
    assert "error: module rvlr: prefix and replace_prefix" in fails(tmp_path, {"study": SETTINGS}, snakefile=moved)


def test_the_report_is_made_offline(finished: Path) -> None:
    run(finished, SETTINGS, "--report", str(finished / "report.html"))
    assert "retrieval in three ways" in (finished / "report.html").read_text()


@pytest.mark.browser
def test_the_report_shows_its_table_and_every_page_in_a_browser(finished: Path, tmp_path: Path) -> None:
    browser.chromium()  # before the report is made
    said = run(finished, SETTINGS, "--report", str(tmp_path / "report.html"))
    assert "WARNING" not in said
    seen = browser.visit(tmp_path / "report.html", tmp_path)
    assert seen.errors == []
    assert [name for name in seen.loaded if not name.startswith(("data:", "blob:"))] == []
    _, header, *rows = browser.rows_of(seen.first, "headline-table")
    assert header == ["model", "I→T R@1", "T→I R@1", "R-mean", "I→I", "T→T", "I→IT", "T→IT"]
    names = ["i2t_r@1", "t2i_r@1", "r_mean", "i2i_ndcg@10", "t2t_ndcg@10", "i2it_ndcg@10", "t2it_ndcg@10"]
    evaluated = ["initial-base", "teacher-t", "student-a", "student-b"]
    assert [row[0] for row in rows] == evaluated
    for name, *cells in rows:
        numbers = json.loads((finished / f"results/shapes/seed0/{name}/eval/test.json").read_text())
        assert cells == [f"{numbers['protocols']['corrected'][metric]:.1f}" for metric in names]
    first = seen.pages["first"]
    for fact in (
        "Data set",
        "Seeds",
        "Commit",
        "Versions",
        "Machine",
        "Wall time",
        "GPU hours",
        "peak memory",
        "torch ",
    ):
        assert fact in first
    assert re.search(r'id="rulegraph" [^>]*vega-embed.*<canvas ', seen.first, re.DOTALL)  # the pipeline is drawn
    categories = ["1. Tables", "2. Figures", "3. Examples", "4. Configuration"]
    assert sorted(name for name in seen.pages if name[0].isdigit()) == categories
    figures = {name: text for name, text in seen.pages.items() if name.endswith(".png")}
    assert len(figures) == 3 + 2 * 3
    for name, text in figures.items():
        assert re.search(r"image [1-9]\d\d+ x [1-9]\d\d+", text), name
    assert "frames 1" in seen.pages["results/shapes/summary.html"]
    assert "learning_rate: 0.001" in seen.pages["results/shapes/config/student-a.yaml"]
    captions = [text for name, text in seen.pages.items() if name.startswith("results/")]
    assert all(len(text.partition("DESCRIPTION")[2]) > 150 for text in captions)


def test_killed_at_random_moments_it_ends_with_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    """SIGKILL to the whole process group, Snakemake and its stages, as often as five times."""
    chance = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen(
            snakemake(tmp_path, SETTINGS), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=chance.uniform(6, 20))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.5)
        run(tmp_path, SETTINGS, "--unlock")
    run(tmp_path, SETTINGS)
    for path in sorted((finished / "results/shapes").glob("seed0/*/eval/test.json")):
        again = tmp_path / path.relative_to(finished)
        assert json.loads(again.read_text())["protocols"] == json.loads(path.read_text())["protocols"], path
