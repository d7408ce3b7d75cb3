"""A new kind of data set touches two places: a class in `rvlr/config/datasets.py` and a module in `rvlr/datasets`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

SECTION = '''
class Grey(Dataset):
    """Grey squares, and a text file with a caption for each."""

    title = "the grey squares' section"
    makes_images = True
    kind: Literal["grey"]
    """Grey squares."""
    name: Name = "grey"
    """Folder in `results/`."""
    captions: UserPath
    """Text file, one caption a line."""

    @property
    def own_files(self) -> dict[str, Path]:
        return {"captions": self.captions}


AnyDataset = Annotated[Grey | '''
MODULE = """
from PIL import Image
from rvlr import files, provenance
from rvlr.data.records import SPLITS, Record, write_splits

def prepare(section, folder, downloads, check=None):
    captions = files.read_text(section.captions).splitlines()
    records = [Record(str(n), f"{n}.png", (caption,)) for n, caption in enumerate(captions)]
    with files.atomic_folder(folder / "images") as images:
        for number, record in enumerate(records):
            Image.new("L", (32, 32), number).save(images / record.image)
    splits = {name: records[start::len(SPLITS)] for start, name in enumerate(SPLITS)}
    digest = provenance.sha256(section.captions)
    write_splits(folder / "splits", splits, "../images", check, name=section.name, captions_sha256=digest)
"""


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the package and the workflow with one more kind of data set, and a study of it."""
    for name in ("rvlr", "workflow", "profiles", "config"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    sections = tmp_path / "rvlr/config/datasets.py"
    text = sections.read_text()
    assert text.count("\nAnyDataset = Annotated[") == 1
    sections.write_text(text.replace("\nAnyDataset = Annotated[", SECTION))
    (tmp_path / "rvlr/datasets/grey.py").write_text(MODULE)
    (tmp_path / "captions.txt").write_text("".join(f"a grey square of shade {number}\n" for number in range(30)))
    model = {"text": {"weights": "random", "size": {"hidden_size": 24}}}
    study = {"dataset": {"kind": "grey", "captions": "captions.txt"}, "models": {"base": model}, "teachers": {"t": {}}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(study))
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True)


@pytest.mark.slow
def test_a_new_kind_of_data_set_is_a_section_and_a_module(extended: Path) -> None:
    checked = run(extended, "-m", "rvlr", "config", "check", "my.yaml")
    assert checked.stdout.startswith("my.yaml: valid"), checked.stderr
    workflow = ["-m", "snakemake", "--configfile", "my.yaml", "--cores", "1"]
    done = run(extended, *workflow, "results/grey/relevance/test.npy")
    assert done.returncode == 0, done.stderr
    assert len(list((extended / "results/grey/images").glob("*.png"))) == 30
    assert run(extended, *workflow, "--dry-run", "results/grey/relevance/test.npy").stdout.count("rule ") == 0
    (extended / "captions.txt").write_text("a grey square\n" * 30)
    planned = run(extended, *workflow, "--dry-run").stdout
    assert "rule prepare_data:" in planned
    assert "rule train_teacher:" in planned
