"""What is checked when the workflow starts: settings given twice, places of the user's files, frozen sections."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY_MODEL

from rvlr import config
from rvlr.config import Study
from rvlr.errors import UserError
from rvlr.workflow import frozen, given, places

MINIMAL = {"models": {"base": TINY_MODEL}, "teachers": {"t": {}}, "students": {"a": {"teacher": "t"}}}
PHOTOS = {"kind": "custom", "images": "photos", "captions": "captions.csv"}


def parse(**sections: Any) -> Study:
    return config.parse({"dataset": "shapes", **MINIMAL, **sections}, "test")


# --- given ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config seeds=[0,1] seeds=[2]", "--config seeds: given 2 times"),
        ("-n -C seeds=[0] dataset=shapes seeds=[0] --cores 1", "--config seeds: given 2 times"),
        ("--config seeds=[0] --cores 2 --config dataset=shapes", "--config: given 2 times"),
        ("--config=seeds=[0] -C dataset=shapes", "--config: given 2 times"),
        ("--config 'evaluation={candidates: 3, candidates: 4}'", "--config evaluation: line 1: .* is given twice"),
        ("--configfile a.yaml --configfile b.yaml", "--configfile: given 2 times"),
        ("--configfile a.yaml -n --configfiles b.yaml", "--configfile: given 2 times"),
    ],
)
def test_what_is_given_twice_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        given.read({"dataset": "shapes", **MINIMAL}, [], {}, ["snakemake", *shlex.split(arguments)])


def test_what_is_given_once_is_taken() -> None:
    arguments = [
        "snakemake",
        "--config",
        "seeds=[0,1]",
        "downloads=d",
        "--configfile",
        "a.yaml",
        "b.yaml",
        "--until",
        "seeds=x",
        "seeds=x",
    ]
    found = given.read({"dataset": "shapes", **MINIMAL, "seeds": ["0", "1"]}, [], {"seeds": 1}, arguments)
    assert found.seeds == [0, 1]


def test_faults_name_files_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        Path(name).write_text("seeds: [0]\n")
    files = [tmp_path / "a.yaml", Path("b.yaml")]
    with pytest.raises(UserError, match=r"^a\.yaml, b\.yaml and --config seeds: "):
        given.read({"dataset": "shapes", "seeds": "x"}, files, {"seeds": "x"}, [])
    with pytest.raises(UserError, match=r"^a\.yaml, b\.yaml: "):
        given.read({}, files, {}, [])
    (tmp_path / "b.yaml").write_text("seeds: [0\n")
    with pytest.raises(UserError, match=r"b\.yaml"):
        given.read({"dataset": "shapes", **MINIMAL}, files, {}, [])


# --- places -----------------------------------------------------------------------------------------------------


def check(settings: Study, results: str | Path) -> None:
    places.check(settings, Path(results), "my.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with results of ours, a link to them, and results linked to photographs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/custom/config").mkdir(parents=True)
    (tmp_path / "results/custom/config/dataset.yaml").write_text("{}\n")
    (tmp_path / "results/shapes/config").mkdir(parents=True)
    (tmp_path / "results/shapes/config/dataset.yaml").write_text("{}\n")
    (tmp_path / "link").symlink_to("results/custom")
    (tmp_path / "photos").mkdir()
    return tmp_path


INSIDE = ["results/custom/cache", "results/custom", "./results/../results/custom/x/y", "link", "link/cache", "/abs"]


@pytest.mark.parametrize("path", INSIDE)
@pytest.mark.parametrize(
    "key",
    [
        "dataset.images",
        "dataset.captions",
        "downloads",
        "sources.bert-weights.existing",
        "models.base.vision.weights",
        "models.base.text.weights",
    ],
)
def test_nothing_of_the_users_lies_in_the_results(folder: Path, key: str, path: str) -> None:
    path = path.replace("/abs", f"{folder}/results/custom/images")
    model = {**TINY_MODEL, "vision": dict(TINY_MODEL["vision"]), "text": dict(TINY_MODEL["text"])}
    if key.endswith("text.weights"):
        del model["text"]["size"]
    content: dict[str, Any] = {"dataset": dict(PHOTOS), "models": {"base": model}, "sources": {"bert-weights": {}}}
    *sections, last = key.split(".")
    place = content
    for section in sections:
        place = place[section]
    place[last] = path
    with pytest.raises(UserError) as error:
        check(parse(**content), "results/custom")
    assert str(error.value).startswith(f"my.yaml: 1 fault in the configuration\n  {key}: ")
    assert "results/custom, which the workflow writes and deletes from" in str(error.value)


@pytest.mark.parametrize("path", [".", "results", "..", "/", "up"])
def test_images_do_not_hold_the_results(folder: Path, path: str) -> None:
    (folder / "up").symlink_to("..")
    with pytest.raises(UserError, match=r"\n  dataset\.images: .* holds results/custom"):
        check(parse(dataset=PHOTOS | {"images": path}), "results/custom")


@pytest.mark.parametrize("downloads", ["results", "results/x/.."])
def test_downloads_do_not_reach_into_the_results(folder: Path, downloads: str) -> None:
    (folder / "results/coco/config").mkdir(parents=True)
    (folder / "results/coco/config/dataset.yaml").write_text("{}\n")
    (folder / "results/x").mkdir()
    settings = parse(dataset="coco", downloads=downloads)
    with pytest.raises(UserError, match=f"\n  downloads: {downloads} lies in results/coco"):
        check(settings, "results/coco")


@pytest.mark.parametrize(
    "path",
    ["my photos", "a;touch x", "$(touch x)", "`x`", "it's", 'a"b', "ünï", "results/customs"],
)
def test_other_paths_are_taken(folder: Path, path: str) -> None:
    check(parse(dataset=PHOTOS | {"images": path}), "results/custom")


def test_results_are_made_only_where_none_of_others_are(folder: Path) -> None:
    settings = parse()
    results = Path("results/mine")
    check(settings, results)  # absent
    results.mkdir()
    check(settings, results)  # empty
    (results / "photo.jpg").write_text("mine")
    with pytest.raises(UserError, match=r"results/mine is a folder that this workflow did not make"):
        check(settings, results)
    with pytest.raises(UserError, match=r"photo\.jpg is no folder"):
        check(settings, results / "photo.jpg/shapes")
    Path("results/file").write_text("mine")
    with pytest.raises(UserError, match=r"results/file is a file that this"):
        check(settings, "results/file")
    Path("results/gone").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"results/gone is a link to nothing"):
        check(settings, "results/gone")
    Path("results/linked").symlink_to(folder / "results/mine")
    with pytest.raises(UserError, match="results/linked is a folder"):
        check(settings, "results/linked")


# --- frozen -----------------------------------------------------------------------------------------------------


def freeze(sections: frozen.Sections, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, section in sections.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(section)))


def test_sections_hold_every_setting_once() -> None:
    """Whatever key of the configuration changes, a section does; but those of where files come from."""
    before = frozen.sections(parse())
    changed = {
        "dataset": {"kind": "shapes", "seed": 1},
        "seeds": [1],
        "models": {"base": {**TINY_MODEL, "embed_dim": 16}},
        "training": {"epochs": 3},
        "teachers": {"t": {"weights": {"itc": 2}}},
        "students": {"a": {"teacher": "t", "distance": "mse"}},
    }
    for key, value in changed.items():
        assert frozen.sections(parse(**{key: value})) != before, key
    evaluation = {"candidates": 5, "subsets": ["first-3"], "batch_size": 3, "workers": 3, "queries_shown": 3}
    for key, value in {**evaluation, "relevance": {"stemmer": True}}.items():
        assert frozen.sections(parse(evaluation={key: value})) != before, key
    # the runs say whether the untrained are shown
    assert frozen.sections(parse(evaluation={"untrained": False})) != before
    public = [frozen.sections(parse(dataset="coco", downloads=name)) for name in ("a", "b")]
    assert public[0] != public[1]


def test_defaults_that_other_sections_decide_are_frozen() -> None:
    found = frozen.sections(parse())
    assert (found["teacher-t"]["model"], found["student-a"]["start"]) == ("base", "t")
    pair = {"kind": "single-modal", "vision": {"name": "resnet10t"}, "text": {"weights": "somewhere"}}
    found = frozen.sections(parse(teachers={"t": pair}))
    assert found["student-a"]["start"] == "base"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"nonsense: [", b"\xff\xfe", b"[1, 2]", b"kd: 1\n", bytes(50), None],
)
def test_a_file_that_holds_something_else_differs(tmp_path: Path, content: bytes | None) -> None:
    sections = frozen.sections(parse())
    assert frozen.differing(sections, tmp_path / "config") == []  # nothing was made yet
    freeze(sections, tmp_path / "config")
    assert frozen.differing(sections, tmp_path / "config") == []
    path = tmp_path / "config/student-a.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    os.utime(tmp_path / "config", (0, 0))
    assert frozen.differing(sections, tmp_path / "config") == [path]


def test_format_and_comments_make_no_difference(tmp_path: Path) -> None:
    sections = frozen.sections(parse())
    freeze(sections, tmp_path / "config")
    path = tmp_path / "config/student-a.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(yaml.safe_load(path.read_text()), default_flow_style=True))
    assert frozen.differing(sections, tmp_path / "config") == []
    path.unlink()
    path.mkdir()
    assert frozen.differing(sections, tmp_path / "config") == [path]
