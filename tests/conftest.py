"""Fixtures shared by the tests: the real data outside the project, and miniature data sets and models."""

import contextlib
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as rvlr.__main__ does, and for the commands that tests start

import pytest

from rvlr import config, environment, files, log

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
if CORES and "PYTEST_XDIST_WORKER" in os.environ:
    # each of several pytest processes runs, with all that its tests start, on its own core: the sums are too small
    # for threads
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(CORES)[number % len(CORES)]})

ROOT = Path(__file__).resolve().parent.parent


def shipped(name: str) -> dict[str, Any]:
    """The settings of a file in `config/`, laid over its base."""
    path = ROOT / f"config/{name}.yaml"
    return config.lay_over_bases(files.read_yaml(path), [path])[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes run the tests: one a core; where files are named, this one alone, which starts sooner."""
    return 0 if any(".py" in argument for argument in config.args) else min(8, environment.cores())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """The package's log and Python's warnings as they were before the test: commands set them up for a whole process,
    and with streams that are closed once the test is over."""
    kept = {name: getattr(log.logger, name) for name in ("handlers", "level", "filters", "propagate")}
    show = warnings.showwarning
    yield
    for handler in log.logger.handlers:
        if handler not in kept["handlers"]:
            handler.close()
    vars(log.logger).update(kept)
    log.logger.setLevel(kept["level"])  # which forgets what is enabled
    warnings.showwarning = show


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Two threads on as many cores as there are, also where the process is bound to one core."""
    import torch

    threads, bound = torch.get_num_threads(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, bound)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that RVLR_SHARED names. It is never part of the project."""
    name = os.environ.get("RVLR_SHARED")
    if not name:
        pytest.skip("real data and weights are needed, and RVLR_SHARED names no folder of them")
    folder = Path(name)
    assert folder.is_dir(), f"RVLR_SHARED: no folder {folder}"
    return folder


TINY_MODEL = {
    "vision": {
        "name": "resnet10t",
        "options": {"channels": [4, 8, 8, 16], "stem_width": 4},
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "text": {
        "weights": "random",
        "size": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
        "text_layers": 1,
        "fusion_layers": 2,
    },
    "embed_dim": 8,
}
TINY_TRAINING = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "workers": 0,
    "checkpoint_steps": 3,
    "augmentation": {"flip": False, "randaugment": None},
}


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Trainings end in `Interrupted`, as if a SIGTERM had come in that step."""
    from rvlr.training.engine import Engine

    plain = Engine._agreed

    def agreed(engine: Engine, received: list[int]) -> int:
        return signal.SIGTERM if engine.state.step == step else plain(engine, received)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_agreed", agreed)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size such as "256k" for the test and returns its folder; skips where that is not allowed."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        allowed = os.geteuid() == 0 and shutil.which("mount") is not None
        if not allowed or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]).returncode:
            folder.rmdir()
            pytest.skip("only root can mount a small file system")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Write `filler` into a folder until its disk is full."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared miniature of `shapes`: 24 training, 8 val, 12 test images with 2 captions each."""
    from rvlr.datasets import shapes

    folder = tmp_path_factory.mktemp("tiny")
    shapes.prepare(config.Shapes(train=24, val=8, test=12, image_size=32, captions_per_image=2), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model folder for `tiny_data`."""
    from rvlr.data.records import read_split
    from rvlr.models import build

    folder = tmp_path_factory.mktemp("model") / "model"
    captions = read_split(tiny_data / "splits/train.jsonl").captions
    build.initialise(config.parse(TINY_MODEL, "test", config.Model), 0, captions, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_features(tiny_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the untrained tiny model for the training split of `tiny_data`."""
    from rvlr import extraction
    from rvlr.data.records import read_split

    folder = tmp_path_factory.mktemp("features")
    section = config.parse({"kind": "retrieval", "training": TINY_TRAINING}, "test", config.TrainedTeacher)
    extraction.extract(section, tiny_model, read_split(tiny_data / "splits/train.jsonl"), folder)
    return folder
