"""The shipped configurations of MS-COCO, Flickr30K and VizWiz: what they plan, and whole runs on miniatures of the data
that a server on loopback gives, with tiny models."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import miniature
import preloaded
import pytest
import study
import yaml
from conftest import ROOT, TINY_MODEL, TINY_TRAINING

from rvlr.config.sources import CXC, SOURCES
from rvlr.ownership import LEDGER

pytestmark = pytest.mark.slow

KINDS = ("coco", "flickr30k", "vizwiz")
# what the shipped files say of models is laid over, key by key; the shared training section has more keys than TINY's
MODELS = {
    "coco": {
        "vision": {
            "options": {**miniature.SWIN, "drop_path_rate": 0.0, "window_size": 4},
            "image_size": 32,
        },
        "text": {"text_layers": 1, "fusion_layers": 2, "max_tokens": 16},
        "embed_dim": 8,
    },
    "flickr30k": {
        "vision": {**TINY_MODEL["vision"], "weights": "random"},
        "text": {"text_layers": 1, "fusion_layers": 2, "max_tokens": 16},
        "embed_dim": 8,
    },
    "vizwiz": {
        "vision": {**TINY_MODEL["vision"], "weights": "random"},
        "text": {"weights": "random", **{key: TINY_MODEL["text"][key] for key in ("size", "text_layers")}},
        "embed_dim": 8,
    },
}
TRAINING = {**TINY_TRAINING, "epochs": 1, "processes": 1, "itm_pool": 4}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with all files of the miniatures, and the address where they are served."""
    folder = tmp_path_factory.mktemp("served")
    for kind in KINDS:
        getattr(miniature, f"make_{kind}")(folder)
        # the archive of Karpathy's captions is one file with all data sets; here each run gets its own
        captions = folder / SOURCES["karpathy-captions"].file
        if captions.exists():
            captions.rename(folder / f"karpathy-{kind}.zip")
    miniature.make_weights(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def sources(kind: str, place: str) -> dict[str, dict[str, Any]]:
    """Every source at another place: an address, or a local folder of files."""
    found = {}
    for name, known in SOURCES.items():
        path = f"{place}/{known.file if name != 'karpathy-captions' else f'karpathy-{kind}.zip'}"
        where = {"addresses": [path]} if place.startswith("http") else {"existing": path}
        found[name] = {**where, "size": None, "checksum": None, "images": None}
    return found


def settings(kind: str, place: str) -> dict[str, Any]:
    counts = {**miniature.COUNTS, **({"train": 20, "val": None} if kind == "vizwiz" else {})}
    return {
        "dataset": {"counts": counts, **({"val_images": 6} if kind == "vizwiz" else {})},
        "seeds": [0],
        "models": {"base": MODELS[kind]},
        "training": TRAINING,
        "evaluation": {"candidates": 4, "workers": 0, "untrained": False, "queries_shown": 0, "subsets": ["first-3"]},
        "sources": sources(kind, place),
    }


def snakemake(
    folder: Path, kind: str, overlays: list[Any], *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    program += ["--workflow-profile", str(ROOT / "profiles/default"), "--configfile", str(ROOT / f"config/{kind}.yaml")]
    for number, overlay in enumerate(overlays):
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(overlay))
        program.append(str(folder / f"{number}.yaml"))
    program = [*program, *options] if variables else preloaded.stages_of([*program, *options])
    return subprocess.run(program, capture_output=True, text=True, check=False, env={**os.environ, **variables})


def plan(output: str) -> Counter[str]:
    return Counter(re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE))


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_configuration_is_planned_without_any_data(kind: str, tmp_path: Path) -> None:
    done = snakemake(tmp_path, kind, [], "--dry-run", "--resources", "gpu=2")
    assert done.returncode == 0, done.stderr
    planned = plan(done.stdout + done.stderr)
    images = {"coco": 2, "flickr30k": 1, "vizwiz": 2}[kind]
    weights = 6  # one of Swin, five of BERT
    annotations = {"coco": 3, "flickr30k": 3, "vizwiz": 2}[kind]
    assert planned["fetch_images"] == images
    assert planned["fetch_file"] == weights + annotations
    assert planned["verify_images"] == planned["prepare_data"] == planned["compute_relevance"] == 1
    assert planned["initialise_model"] == planned["train_teacher"] == planned["extract_features"] == 3
    assert planned["train_student"] == 6
    assert planned["evaluate_model"] == 12
    assert not list(tmp_path.glob("downloads/*"))


def test_the_ratings_of_people_are_fetched_and_given_to_the_evaluation(tmp_path: Path) -> None:
    overlay = {"evaluation": {"judgements": {"cxc": True, "eccv": True}}}
    done = snakemake(tmp_path, "coco", [overlay], "--dry-run", "--printshellcmds", "--resources", "gpu=2")
    assert done.returncode == 0, done.stderr
    assert plan(done.stdout + done.stderr)["fetch_file"] == 9 + len(CXC)
    evaluations = re.findall(r"-m rvlr evaluate .*", done.stdout + done.stderr)
    assert len(evaluations) == 12
    assert all(re.search(r"--cxc downloads/cxc +--output", one) for one in evaluations)
    for name in CXC:
        assert f"downloads/{SOURCES[name].file}" in done.stdout + done.stderr


def test_the_ablations_of_the_paper_share_one_teacher(tmp_path: Path) -> None:
    overlay = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    planned = plan(snakemake(tmp_path, "flickr30k", [overlay], "--dry-run", "--resources", "gpu=2").stdout)
    assert planned["train_teacher"] == planned["extract_features"] == 3
    assert planned["train_student"] == 3 * (2 + len(overlay["students"]))


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_workflow_runs_from_download_to_tables(kind: str, served: tuple[Path, str], tmp_path: Path) -> None:
    overlay = settings(kind, served[1])
    done = snakemake(tmp_path, kind, [overlay])
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / f"results/{kind}"
    for run in ("teacher-itc-itm", "student-rvlr", "student-continued"):
        found = json.loads((results / f"seed0/{run}/eval/test.json").read_text())
        assert found["counts"] == {"images": 6, "captions": 30}
        assert set(found["protocols"]) == {"corrected", "paper", "corrected/first-3", "paper/first-3"}
    counts = json.loads((results / "splits/dataset.json").read_text())["counts"]
    assert {name: count["images"] for name, count in counts.items()} == miniature.COUNTS
    assert (results / "verified.json").exists()
    used = {path.stem: yaml.safe_load(path.read_text()) for path in (results / "config/sources").glob("*.yaml")}
    assert len(used) >= 4
    for name, source in used.items():
        assert source[name]["addresses"] == overlay["sources"][name]["addresses"]
    assert "Terms: " in done.stderr
    if kind == "vizwiz":
        assert found["notes"][0].startswith("Val is 6 images drawn from train with seed 0, ")
        assert "- Data: Val is 6 images drawn from train" in (results / "summary.md").read_text()
    # neither another address nor a server that is gone makes anything run again
    overlay["sources"] = sources(kind, "http://127.0.0.1:9")
    again = snakemake(tmp_path, kind, [overlay], "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stdout + again.stderr
    if kind == "flickr30k":
        everything_again_fetches_nothing(tmp_path, overlay)


def everything_again_fetches_nothing(folder: Path, overlay: dict[str, Any]) -> None:
    """What was fetched stays where it is, though its server is gone, and --forceall runs every rule."""
    before = {path: path.stat().st_ino for path in (folder / "downloads").rglob("*.json")}
    done = snakemake(folder, "flickr30k", [overlay], "--forceall", "--until", "verify_images")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\] fetch_file ", done.stderr)) == 3
    assert {path: path.stat().st_ino for path in before} == before
    # nor does a second study with the same downloads
    overlay["dataset"]["name"] = "second"
    planned = plan(snakemake(folder, "flickr30k", [overlay], "--dry-run").stdout)
    assert planned["train_student"] == 2
    assert planned["fetch_file"] == planned["fetch_images"] == 0
    overlay["dataset"]["name"] = "flickr30k"
    # without the images, what needs them has them fetched first
    shutil.rmtree(folder / "downloads/flickr30k/images")
    overlay["students"] = {"new": {"teacher": "itc-itm"}}
    done = snakemake(folder, "flickr30k", [overlay], "--dry-run", "--until", "train_student")
    assert plan(done.stdout)["fetch_images"] == 1


def test_two_studies_at_once_share_their_downloads(served: tuple[Path, str], tmp_path: Path) -> None:
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        overlay = {**settings("coco", served[1]), "downloads": str(tmp_path / "shared")}
        overlay["models"] = {"base": MODELS["vizwiz"]}  # whose weights are not fetched
        runs.append(threading.Thread(target=verify_images, args=(tmp_path / name, overlay)))
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    counts = [json.loads((tmp_path / name / "results/coco/verified.json").read_text()) for name in ("first", "second")]
    assert [count["images"] for count in counts] == [32, 32]
    left = [path for path in (tmp_path / "shared").rglob(".*") if path.name != LEDGER]
    assert not [path for path in left if not path.name.endswith(".lock")]


def verify_images(folder: Path, overlay: dict[str, Any]) -> None:
    done = snakemake(folder, "coco", [overlay], "--until", "verify_images")
    (folder / "said.txt").write_text(done.stdout + done.stderr)


REFUSE = """
import socket

def refused(*arguments):
    raise OSError("this test refuses the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused
"""


@pytest.fixture
def no_network(tmp_path: Path) -> dict[str, str]:
    """Environment variables under which no Python process can open a connection."""
    folder = tmp_path / "refuse"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(REFUSE)
    variables = {"PYTHONPATH": str(folder)}
    program = [sys.executable, "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9')"]
    done = subprocess.run(program, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert "this test refuses the network" in done.stderr
    return variables


def test_with_local_files_nothing_touches_the_network(
    served: tuple[Path, str], tmp_path: Path, no_network: dict[str, str]
) -> None:
    """Folders and archives of images, annotations and weights, all named by `existing`."""
    overlay = settings("coco", str(served[0]))
    folder = tmp_path / "photos/train2014"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(served[0] / SOURCES["coco-train2014"].file) as archive:
        archive.extractall(folder.parent)
    overlay["sources"]["coco-train2014"]["existing"] = str(folder)
    done = snakemake(tmp_path, "coco", [overlay], "--until", "train_teacher", **no_network)
    assert done.returncode == 0, done.stdout + done.stderr
    downloads = tmp_path / "downloads"
    assert (downloads / "coco/images/train2014").readlink() == folder
    assert (downloads / "coco/val2014.zip").is_symlink()
    assert (downloads / "weights/bert-base-uncased/model.safetensors").is_symlink()
    assert len(list((downloads / "coco/images/val2014").glob("*.jpg"))) == 18


def test_as_a_module_it_fetches_from_the_sources_of_its_part_of_the_configuration(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    """Handlers such as onstart do not run in a module."""
    part = yaml.safe_load((ROOT / "config/published.yaml").read_text())
    part |= yaml.safe_load((ROOT / "config/vizwiz.yaml").read_text()) | {"sources": sources("vizwiz", served[1])}
    del part["base"]
    target = f"downloads/{SOURCES['vizwiz-test-captions'].file}"
    study.run(tmp_path, {"study": part}, "--", target, snakefile=study.module(tmp_path))
    assert (tmp_path / target).read_bytes() == (served[0] / SOURCES["vizwiz-test-captions"].file).read_bytes()


def test_a_missing_piece_is_named_with_where_to_get_it(
    served: tuple[Path, str], tmp_path: Path, no_network: dict[str, str]
) -> None:
    overlay = settings("flickr30k", str(served[0]))
    del overlay["sources"]["flickr30k-images"]
    done = snakemake(tmp_path, "flickr30k", [overlay], "--until", "fetch_images", **no_network)
    assert done.returncode != 0
    assert "sources.flickr30k-images" in done.stderr
    assert "https://shannon.cs.illinois.edu/DenotationGraph/" in done.stderr
    overlay["sources"]["flickr30k-images"] = {"addresses": ["http://127.0.0.1:9/images.zip"]}
    done = snakemake(tmp_path, "flickr30k", [overlay], "--until", "fetch_images", **no_network)
    assert done.returncode != 0
    assert "http://127.0.0.1:9/images.zip" in done.stderr
