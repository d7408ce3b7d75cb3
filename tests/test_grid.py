"""Several studies in one run: what each of them gets, what is refused, what is planned, and whole runs of a grid."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import preloaded
import pytest
import study
import yaml
from conftest import ROOT, shipped
from test_public_workflow import plan

from rvlr import config
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.report import consistency
from rvlr.workflow import grid

GRID = ROOT / "workflow/grid.smk"


def read_grid(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    file = folder / "shared.yaml"
    file.write_text(yaml.safe_dump(settings))
    return grid.read(settings, [file], [], ROOT / "config")


def file(folder: Path, name: str, **settings: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def command(folder: Path, settings: dict[str, Any], *options: str) -> list[str]:
    return study.snakemake(folder, settings, *options, snakefile=GRID)


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_shipped_data_sets_are_the_default_and_all_get_what_is_shared(tmp_path: Path) -> None:
    shared = {"seeds": [5], "students": {"continued": {"weights": {"itm": 1}}, "new": {"teacher": "itc-itm"}}}
    found = read_grid(tmp_path, shared)
    assert [*found] == ["coco", "flickr30k", "vizwiz"]
    for name, settings in found.items():
        alone = config.merge(shipped(name), shared)
        assert config.parse(settings, name) == config.parse(alone, name)
        assert config.parse(settings, name).dataset.name == name


def test_files_of_a_study_are_laid_over_each_other_and_the_shared_settings_over_them(tmp_path: Path) -> None:
    base = {key: value for key, value in study.SETTINGS.items() if key != "dataset"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**base, "seeds": [1, 2]}))
    shapes = study.SETTINGS["dataset"]
    one = file(tmp_path, "one.yaml", base="base.yaml", dataset=shapes, evaluation={"candidates": 3})
    more = file(tmp_path, "more.yaml", dataset={"name": "more"}, evaluation={"candidates": 4})
    settings = {"grid": {"one": one, "two": [one, more]}, "evaluation": {"queries_shown": 0}}
    found = {name: config.parse(each, name) for name, each in read_grid(tmp_path, settings).items()}
    assert [(each.dataset.name, each.evaluation.candidates) for each in found.values()] == [("shapes", 3), ("more", 4)]
    assert all(each.seeds == [1, 2] and each.evaluation.queries_shown == 0 for each in found.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"grid: found .*give a mapping of names"),
        ({"a-b": "x.yaml"}, r"grid: found the name 'a-b', which begins names of rules; use letters"),
        ({"tables": "x.yaml"}, r"grid: found the name 'tables'.*neither all nor tables"),
        ({"a": []}, r"grid\.a: found .*give a mapping"),
        ({"a": 3}, r"grid\.a: found 3; give a mapping"),
        ({"a": "absent.yaml"}, r"absent\.yaml: no such file"),
        ({"a": "shapes.yaml", "b": "shapes.yaml"}, r"grid\.b and grid\.a: both write to results/shapes; give one"),
        ({"a": "tables.yaml"}, r"grid\.a: dataset\.name is 'tables', where the tables of all studies lie"),
        ({"a": "shapes.yaml", "b": "elsewhere.yaml"}, r"grid\.b: downloads differs from that of grid\.a"),
        ({"a": "shapes.yaml", "b": "sources.yaml"}, r"grid\.b: sources differs from that of grid\.a"),
        ({"a": "unknown.yaml"}, r"grid\.a \(unknown\.yaml, shared\.yaml\): 1 fault.*\n  sedes: unknown key.*seeds"),
    ],
)
def test_faults_name_the_study(value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, shapes = Path(), study.SETTINGS["dataset"]
    sources = {"coco-val2014": {"existing": "val.zip"}}
    file(here, "shapes.yaml", **study.SETTINGS)
    file(here, "tables.yaml", **study.changed(dataset={**shapes, "name": "tables"}))
    file(here, "elsewhere.yaml", **study.changed(dataset={**shapes, "name": "b"}, downloads="elsewhere"))
    file(here, "sources.yaml", **study.changed(dataset={**shapes, "name": "b"}, sources=sources))
    file(here, "unknown.yaml", **study.changed(sedes=[1]))
    with pytest.raises(UserError, match=message):
        read_grid(here, {"grid": value})


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_data_sets_are_planned_at_once_and_fetched_once(tmp_path: Path) -> None:
    """The size that docs promise: 3 data sets x 3 seeds x 2 teachers x 12 students, in processor time, since other
    tests may run beside this one."""
    students = {f"{name}-{n}": {"teacher": name, "weights": {"kd": n}} for name in ("itc-itm", "b") for n in range(12)}
    settings = {"teachers": {"b": {"weights": {"itm": 1}}}, "students": students}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command(tmp_path, settings, "--dry-run"), capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    planned = plan(done.stdout + done.stderr)
    trained = 2 + len(students) + len(shipped("coco")["students"])
    for name in ("coco", "flickr30k", "vizwiz"):
        assert planned[f"{name}_train_teacher"] == 3 * 2
        assert planned[f"{name}_train_student"] == 3 * (trained - 2)
        assert planned[f"{name}_evaluate_model"] == 3 * (trained + 1)
        assert planned[f"{name}_summarise"] == planned[f"{name}_compute_relevance"] == 1
    # 5 folders of images; captions of Karpathy, and of VizWiz 2, files of the authors; 1 file of Swin, 5 of BERT
    assert planned["coco_fetch_images"] == 5
    wanted = set(re.findall(r"output: (downloads/\S+) \(update\)", done.stdout + done.stderr))
    assert planned["coco_fetch_file"] + planned["coco_fetch_images"] == len(wanted)
    assert planned["flickr30k_fetch_file"] == planned["vizwiz_fetch_file"] == 0
    assert planned["tables"] == 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20


@pytest.mark.slow
def test_a_fault_of_the_grid_is_one_message(tmp_path: Path) -> None:
    message = study.fails(tmp_path, {"grid": {"a": "absent.yaml"}}, "--dry-run", snakefile=GRID)
    assert "error: absent.yaml: no such file" in message


def test_what_evaluations_share_is_read_once(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more when it changes."""
    read: list[Path] = []
    monkeypatch.setattr(consistency, "read_split", lambda path: read.append(path) or read_split(path))
    split = tiny_data / "splits/test.jsonl"
    assert {consistency._checksum(split) for _ in range(5)} == {read_split(split).checksum}
    assert len(read) == 1
    about = tiny_data / "splits/dataset.json"
    os.utime(about, ns=(about.stat().st_atime_ns, about.stat().st_mtime_ns + 1_000))
    consistency._checksum(split)
    assert len(read) == 2


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failed_cell_fails_alone_and_the_tables_name_it(tmp_path: Path) -> None:
    """Two studies, one of which has a student whose training fails until its settings are corrected."""
    shapes = study.SETTINGS["dataset"]
    common = {
        **study.changed(training={**study.SETTINGS["training"], "epochs": 1}, students={}),
        "evaluation": {**study.SETTINGS["evaluation"], "queries_shown": 0, "untrained": False},
    }
    students = {"a": {"teacher": "t"}, "continued": {"teacher": "t"}}
    one = file(tmp_path, "one.yaml", **common)
    two = [one, file(tmp_path, "two.yaml", dataset={**shapes, "name": "two"}, students=students)]
    bad = file(tmp_path, "bad.yaml", students={"a": {"training": {"learning_rate": 1e30}}})
    settings, broken = ({"grid": {"one": one, "two": files}} for files in (two, [*two, bad]))
    program = preloaded.stages_of(command(tmp_path, broken, "--keep-going"))
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    results = tmp_path / "results"
    assert (results / "shapes/summary.md").exists()
    assert (results / "two/seed0/student-continued/eval/test.json").exists()
    assert not (results / "two/summary.md").exists()
    assert not (results / "tables/tables.md").exists()
    advice = re.search(r"rvlr tables results/shapes results/two --output FOLDER", done.stderr)
    assert advice, done.stderr
    line = [sys.executable, "-m", "rvlr", "tables", "results/shapes", "results/two", "--output", "now"]
    subprocess.run(line, cwd=tmp_path, check=True)
    assert "Missing in two: student-a, seed 0; it has no numbers." in (tmp_path / "now/tables.md").read_text()
    output = study.run(tmp_path, settings, "--keep-going", snakefile=GRID)
    assert "Tables of all studies: results/tables/tables.md" in output
    assert "| two " in (results / "tables/tables.md").read_text()
    assert "Missing" not in (results / "tables/tables.md").read_text()
    assert study.plan(tmp_path, settings, snakefile=GRID) == {}
