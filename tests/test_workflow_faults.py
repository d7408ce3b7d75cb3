"""The workflow and faulty input: one message, before anything runs, and nothing of the user's is lost."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from storm import snapshot
from study import SETTINGS, changed, fails, plan, run, snakemake

from rvlr import files

pytestmark = pytest.mark.slow


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
    (tmp_path / "results/mine/config/dataset.yaml").write_text("{}\n")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    named = {"kind": "custom", "name": "mine", "images": "photos", "captions": "captions.csv", "cache": {}}
    before = snapshot(tmp_path)
    assert says in fails(tmp_path, changed(dataset=named | dataset))
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"my.yaml", ".snakemake"}


def test_a_file_of_the_user_in_a_folder_that_is_replaced_stops_the_run(tmp_path: Path) -> None:
    root = tmp_path / "results/shapes"
    files.write_text(root / "config/dataset.yaml", "{}\n")
    with files.atomic_folder(root / "images") as made:
        (made / "ours.png").write_text("ours")
    (root / "images/own.png").write_text("mine")
    says = fails(tmp_path, SETTINGS)
    assert "results/shapes/images/own.png: rvlr did not make it" in says
    assert (root / "images/own.png").read_text() == "mine"


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
    done = subprocess.run(snakemake(tmp_path, SETTINGS), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Failed to create output directory results/shapes/config") == 1
    assert "Traceback" not in done.stderr


ABSENT = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "{name}" and not any(path in {but_in} for path in sys.path):
            raise ModuleNotFoundError(f"No module named {{name}}", name=name)


sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize("name", ["rvlr", "numpy"])
@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_without_the_package_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, snakefile: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(name=name, but_in=()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = fails(tmp_path, SETTINGS, snakefile=ROOT / snakefile)
    command = f"{sys.executable} -m pip install -e {ROOT}"
    assert f"error: {name} is not installed for {sys.executable}; run: {command}\n" in said


def test_stages_import_the_package_of_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any working folder, where no package is installed but what it needs."""
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(name="rvlr", but_in=(str(ROOT),)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run(tmp_path, SETTINGS, "--", "results/shapes/config/dataset.yaml")


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
