"""The workflow as people run it: from the YAML to the tables, what reruns after which change, kills, faulty input."""

import json
import os
import random
import re
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


def test_faults_in_the_configuration_are_reported_together_before_anything_runs(tmp_path: Path) -> None:
    settings = changed(evalution={}, students={"a": {"teacher": "nobody"}})
    done = subprocess.run(snakemake(tmp_path, settings), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "evalution: unknown key" in done.stderr
    assert "students.a.teacher: no teacher 'nobody'; defined: t" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_key_given_twice_is_found_though_snakemake_takes_the_last(tmp_path: Path) -> None:
    program = snakemake(tmp_path, SETTINGS, "--dry-run")
    file = Path(program[program.index("--configfile") + 1])
    lines = file.read_text().count("\n")
    file.write_text(f"{file.read_text()}seeds: [1]\nseeds: [2]\n")
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (
        f"{file}: line {lines + 2}: the key 'seeds' is given twice, first in line {lines + 1}"
        in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_a_fault_in_own_data_stops_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "captions.csv").write_text("image,caption,split\nabsent.jpg,a dog,train\n")
    settings = changed(dataset={"kind": "custom", "images": "photos", "captions": "captions.csv"})
    done = subprocess.run(snakemake(tmp_path, settings), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "captions.csv" in done.stderr
    assert "line 2" in done.stderr
    assert "absent.jpg" in done.stderr
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
