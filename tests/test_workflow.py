"""The workflow as people run it: from the YAML to the tables, what reruns after which change, kills, faulty input."""

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

import pytest
import yaml
from conftest import ROOT, TINY_MODEL, TINY_TRAINING
from PIL import Image
from storm import snapshot

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "dataset": {"kind": "shapes", "train": 24, "val": 8, "test": 12, "image_size": 32, "captions_per_image": 2},
    "models": {"base": TINY_MODEL},
    "training": {**TINY_TRAINING, "checkpoint_steps": 2},
    "teachers": {"t": {}},
    "students": {"a": {"teacher": "t"}, "b": {"teacher": "t", "weights": {"kd": 0, "kdi": 0, "kdt": 0}}},
    "evaluation": {"candidates": 6, "workers": 0, "queries_shown": 2},
}


def snakemake(folder: Path, settings: dict[str, Any], *options: str) -> list[str]:
    (folder / "my.yaml").write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    profile = ["--workflow-profile", str(ROOT / "profiles/default")]
    return [*program, *profile, "--configfile", str(folder / "my.yaml"), *options]


def run(folder: Path, settings: dict[str, Any], *options: str) -> str:
    done = subprocess.run(snakemake(folder, settings, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def plan(folder: Path, settings: dict[str, Any], *options: str) -> Counter[str]:
    """The jobs that a run would do: rule names with the run they are for."""
    output = run(folder, settings, "--dry-run", *options)
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, flags=re.MULTILINE)
    planned: Counter[str] = Counter()
    for name, details in jobs:
        found = re.search(r"wildcards: .*?(?:run|student|teacher|section)=([^,\s]+)", details)
        planned[f"{name} {found[1]}" if found else name] += 1
    return planned


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole workflow ran once."""
    folder = tmp_path_factory.mktemp("finished")
    output = run(folder, SETTINGS)
    assert "student-a" in output  # the table is printed at the end
    return folder


def changed(**sections: Any) -> dict[str, Any]:
    return {**SETTINGS, **sections}


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
        assert found["outputs"].keys() == {"rankings_sha256"}
    for name in ("summary.csv", "summary.md", "figures/losses.png", "figures/three-ways.png"):
        assert (results / name).stat().st_size > 0
    assert (results / "figures/student-a-cross-modal.png").exists()
    assert list(results.glob("logs/**/*.log"))
    assert list(results.glob("benchmarks/**/*.tsv"))


def test_a_second_run_finds_nothing_to_do(finished: Path) -> None:
    assert "Nothing to be done" in run(finished, SETTINGS)


def test_changing_a_students_weight_reruns_that_student_alone(finished: Path) -> None:
    students = {**SETTINGS["students"], "b": {"teacher": "t", "weights": {"kd": 0.5, "kdi": 0, "kdt": 0}}}
    assert plan(finished, changed(students=students)) == Counter(
        [
            "freeze_config student-b",
            "train_student b",
            "evaluate_model student-b",
            "draw_sheets student-b",
            "plot_losses",
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
        "plot_three_ways",
        "summarise",
        "all",
    }


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


TABLES = ["plot_three_ways", "summarise", "all"]
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


def fails(folder: Path, settings: dict[str, Any], *options: str) -> str:
    """What a run says that ends with a message, once, and no lines of code."""
    done = subprocess.run(snakemake(folder, settings, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(re.findall(r"^error: |^\d\d:\d\d:\d\d ERROR ", done.stderr, flags=re.MULTILINE)) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr
    return done.stderr


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


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ({"images": "results/mine/cache", "captions": "captions.csv"}, "dataset.images: results/mine/cache lies in"),
        ({"images": "link", "captions": "results/mine/splits/train.jsonl"}, "dataset.images: link lies in"),
        ({"images": "."}, "dataset.images: . holds results/mine"),
        ({"name": "others"}, "dataset.name: results/others is a folder that this workflow did not make"),
    ],
)
def test_files_of_the_user_are_never_deleted(tmp_path: Path, dataset: dict[str, str], says: str) -> None:
    for name in ("mine/cache", "mine/config", "mine/splits", "others/config"):
        (tmp_path / "results" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "results/mine/cache")
    for name in ("mine/cache/a.jpg", "mine/splits/train.jsonl", "others/config/app.yaml", "others/cache"):
        (tmp_path / "results" / name).write_text("mine")
    (tmp_path / "results/mine/config/sources.yaml").write_text("{}\n")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    named = {"kind": "custom", "name": "mine", "images": "photos", "captions": "captions.csv", "cache": {}}
    before = snapshot(tmp_path)
    assert says in fails(tmp_path, changed(dataset=named | dataset))
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"my.yaml", ".snakemake"}


HOSTILE = 'it\'s "a" $HOME; `touch hacked` $(touch hacked) & ünï #'


def test_hostile_but_legal_paths_work(tmp_path: Path) -> None:
    """As the folder of images, the captions file and the downloads."""
    (tmp_path / HOSTILE).mkdir()
    captions = f"{HOSTILE}.csv"
    with (tmp_path / captions).open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "caption"])
        for number in range(24):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / HOSTILE / f"{number} {HOSTILE}.png")
            rows.writerow([f"{number} {HOSTILE}.png", f"a red square number {number}"])
    before = snapshot(tmp_path)
    dataset = {"kind": "custom", "images": HOSTILE, "captions": captions, "cache": {"short_side": 16}}
    settings = changed(dataset=dataset, downloads=f"d {captions}")
    run(tmp_path, settings, "--until", "cache_images", "compute_relevance")
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(list((tmp_path / "results/custom/cache").glob("*.png"))) == 24
    assert not list(tmp_path.rglob("hacked"))
    # another captions file takes the place of this one, an older one
    (tmp_path / captions).write_text((tmp_path / captions).read_text().replace("square", "circle"))
    os.utime(tmp_path / captions, (1_000_000_000, 1_000_000_000))
    assert plan(tmp_path, settings, "--until", "prepare_data") == Counter(["prepare_data"])


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to("/proc")
    said = fails(tmp_path, SETTINGS)
    assert "results/shapes" in said


def test_faults_in_the_configuration_are_reported_together_before_anything_runs(tmp_path: Path) -> None:
    settings = changed(evalution={}, students={"a": {"teacher": "nobody"}})
    done = subprocess.run(snakemake(tmp_path, settings), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "error: my.yaml: 2 faults" in done.stderr
    assert "evalution: unknown key" in done.stderr
    assert "students.a.teacher: no teacher 'nobody'; defined: t" in done.stderr
    assert "Traceback" not in done.stderr
    assert "common.smk" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_key_given_twice_is_found_though_snakemake_takes_the_last(tmp_path: Path) -> None:
    program = snakemake(tmp_path, SETTINGS, "--dry-run")
    file = Path(program[program.index("--configfile") + 1])
    lines = file.read_text().count("\n")
    file.write_text(f"{file.read_text()}seeds: [1]\nseeds: [2]\n")
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (
        f"error: my.yaml: line {lines + 2}: the key 'seeds' is given twice, first in line {lines + 1}"
        in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_what_is_given_twice_is_a_fault(tmp_path: Path) -> None:
    assert "--config seeds: given 2 times" in fails(tmp_path, SETTINGS, "--config", "seeds=[0,1]", "seeds=[2]")
    said = fails(tmp_path, SETTINGS, "--config", "seeds=many", "downloads=[1]")
    assert "my.yaml and --config seeds, downloads: " in said


def test_a_fault_in_own_data_stops_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "captions.csv").write_text("image,caption,split\nabsent.jpg,a dog,train\n")
    settings = changed(dataset={"kind": "custom", "images": "photos", "captions": "captions.csv"})
    said = fails(tmp_path, settings)
    assert "captions.csv" in said
    assert "line 2" in said
    assert said.count("absent.jpg") == 1
    assert (tmp_path / "results/custom/logs/prepare.log").read_text().count("absent.jpg") == 1
    assert not (tmp_path / "results/custom/seed0").exists()


def test_captions_without_words_for_the_scorer_stop_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rows = ["image,caption"]
    for number in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"photos/{number}.png")
        rows.append(f"{number}.png,кот и {number} собаки")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    settings = changed(dataset={"kind": "custom", "images": "photos", "captions": "captions.csv"})
    done = subprocess.run(snakemake(tmp_path, settings), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "2 of 2 captions have no words for the scorer rouge-score, such as 'кот и" in done.stderr
    assert not (tmp_path / "results/custom/splits/train.jsonl").exists()
    settings["evaluation"] = {**SETTINGS["evaluation"], "relevance": {"scorer": "coco-caption"}}
    run(tmp_path, settings, "--until", "compute_relevance")
    planned = plan(tmp_path, changed(dataset=settings["dataset"]), "--until", "compute_relevance")
    assert planned == Counter(["freeze_config relevance", "compute_relevance"])  # the splits stay as they are


def test_the_report_is_made_offline(finished: Path) -> None:
    run(finished, SETTINGS, "--report", str(finished / "report.html"))
    assert "Balanced vision-language retrieval" in (finished / "report.html").read_text()


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
