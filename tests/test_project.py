"""What no stage tests: the project's own files agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import rvlr
from rvlr import config
from rvlr.cli import app
from rvlr.report import costs

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "huggingface-hub": "huggingface_hub"}
FOLDERS = ("benchmarks", "config", "results")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RULES = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / f"{name}/README.md" for name in FOLDERS)])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def bounds(requirements: list[str]) -> dict[str, str]:
    """`name>=version` or `name>=version,<version` -> name and the rest."""
    parts = [requirement.partition(">=") for requirement in requirements]
    return {name: version for name, _, version in parts}


def commands(recipe: str) -> list[str]:
    """What a target of the Makefile runs in the virtual environment."""
    lines = re.search(rf"^{recipe}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    return [line.removeprefix("\t$(BIN)/") for line in lines.splitlines()]


# --- files that say the same twice -------------------------------------------------------------------------------


def test_conda_environment_has_the_dependencies_of_the_package() -> None:
    environment = yaml.safe_load((ROOT / "workflow/envs/rvlr.yaml").read_text())
    assert environment.keys() == {"channels", "dependencies"}
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    package = bounds(PROJECT["dependencies"])
    del package["snakemake"]
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in package.items()}
    found = bounds(environment["dependencies"])
    assert found == {"python": PROJECT["requires-python"].removeprefix(">="), "pip": "", **wanted}


def test_snakefile_and_package_want_the_same_snakemake() -> None:
    wanted = re.search(r'min_version\("(.+)"\)', (ROOT / "workflow/Snakefile").read_text())[1]
    assert bounds(PROJECT["dependencies"])["snakemake"].split(",")[0] == wanted


def test_every_dependency_has_its_last_tested_version() -> None:
    """Without addresses, and not for one kind of machine: nothing of PyTorch's builds for CUDA."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    tested = dict(line.split("==") for line in lines)
    assert not [name for name in tested if name.startswith(("nvidia-", "cuda-", "triton"))]
    wanted = map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    assert [str(one) for one in wanted if not one.specifier.contains(tested[canonicalize_name(one.name)])] == []


def test_lint_and_the_hooks_of_commits_are_the_same_checks() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == commands("lint")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


def test_the_demo_is_installed_without_what_tests_need() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo: $(VENV)/.installed " in makefile
    assert re.search(r"/\.installed: .*\n(?:\t.*\n)*\t\$\(INSTALL\) \.\n", makefile)


def test_the_catalog_of_workflows_finds_what_it_asks_for() -> None:
    """https://snakemake.github.io/snakemake-workflow-catalog: the standard layout, and a description of its use."""
    assert (ROOT / "workflow/Snakefile").is_file()
    assert (ROOT / "config/README.md").is_file()
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert (ROOT / "workflow/profiles/default/config.yaml").samefile(ROOT / "profiles/default/config.yaml")


def test_citation_has_its_required_fields_and_the_packages_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version", "message", "title", "authors"}
    assert required <= citation.keys()
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert {"type", "title", "authors"} <= citation["preferred-citation"].keys()
    assert str(citation["version"]) == PROJECT["version"] == rvlr.__version__
    assert citation["license"] == PROJECT["license"]


# --- commands that the texts name --------------------------------------------------------------------------------


def test_the_readmes_commands_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", readme, flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= TARGETS


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": "make test"}
    assert PROJECT["requires-python"].startswith(f">={job['strategy']['matrix']['python'][0]}.")


def test_continuous_integration_needs_the_real_data(tmp_path: Path) -> None:
    """Beside the project; with it, the tests are told where it is."""
    script = tmp_path / "project/.ci/run"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", script)
    (tmp_path / "project/Makefile").write_text('test:\n\t@echo "found: $$RVLR_SHARED"\n')
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"no folder {tmp_path}/shared: ")
    assert "found" not in done.stdout
    (tmp_path / "shared").mkdir()
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"found: {tmp_path}/shared\n" in done.stdout


def test_the_command_line_lists_every_stage_of_the_workflow() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    output += CliRunner().invoke(app, ["data", "--help"]).output
    listed = set(re.findall(r"^\W*([a-z-]+)  ", output, flags=re.MULTILINE))
    used = set(re.findall(r"python -m rvlr (?:data )?([a-z-]+)", RULES))
    assert len(used) > 5
    assert used <= listed


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_to_files_and_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", path.read_text())
    missing = []
    for link, anchor in links:
        target = path.parent / link if link else path
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            missing.append((link, anchor))
    assert not missing


def anchors(path: Path) -> set[str]:
    """The headings of a Markdown file, as links name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", "config/README.md"])
def test_settings_in_the_texts_are_valid(name: str) -> None:
    given = {"dataset": "shapes", "models": {"base": {}}, "teachers": {"itc-itm": {}}}
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        config.parse({**given, **yaml.safe_load(block)}, f"{name}: {block}")


def test_tracked_files_name_no_place_on_somebodys_machine() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    places = [f"/{name}/".encode() for name in ("root", "home", "Users", "work")] + [b"/" + b"tmp/w"]
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{name}: {place.decode()}" for place in places if re.search(rb"(?<![\w.~-])" + place, content)]
    assert not found


def test_every_benchmark_is_in_its_readme() -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    scripts = [path.name for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    assert len(scripts) > 3
    assert [name for name in scripts if f"| `python benchmarks/{name}" not in text] == []


# --- benchmarks/stages.py ----------------------------------------------------------------------------------------

COLUMNS = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def stages(folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "benchmarks/stages.py"), str(folder)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_stages_are_listed_in_the_order_of_the_pipeline_with_totals(tmp_path: Path) -> None:
    measured = {
        "seed1/student-rvlr": "60.5\t0:01:00\t900.0",
        "seed0/student-rvlr": "1200.25\t0:20:00\t1500.4",
        "seed0/evaluate-student-rvlr": "5.0\t0:00:05\t700.0",
        "seed0/evaluate-teacher-t": "4.0\t0:00:04\t600.0",
        "summarise": "0.05\t0:00:00\tNA",
        "prepare": "3.0\t0:00:03\t-",
        "seed0/teacher-t": "30.0\t0:00:30\t1000.0",
    }
    for name, values in measured.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{COLUMNS}{values}\t0\t0\t0\t0\t0\t0\t0\n")
    done = stages(tmp_path)
    assert not done.returncode, done.stderr
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines() if not line.startswith("-")]
    assert rows == [
        ["stage", "seed", "wall time [s]", "peak memory [MiB]"],
        ["prepare", "3.0", "not measured"],
        ["teacher-t", "0", "30.0", "1,000"],
        ["student-rvlr", "0", "1,200.2", "1,500"],
        ["student-rvlr", "1", "60.5", "900"],
        ["evaluate-teacher-t", "0", "4.0", "600"],
        ["evaluate-student-rvlr", "0", "5.0", "700"],
        ["summarise", "0.1", "not measured"],
        ["7 stages", "1,302.8", "1,500"],
    ]


def test_stages_of_a_folder_without_benchmarks(tmp_path: Path) -> None:
    done = stages(tmp_path)
    assert done.returncode == 1
    assert "run `snakemake` first" in done.stderr


def test_stages_know_every_benchmark_of_the_workflow() -> None:
    written = re.findall(r'benchmark:\s+"results/\{dataset\}/benchmarks/(?:seed\{seed\}/)?([a-z]+)', RULES)
    assert len(written) == RULES.count("benchmark:")
    assert set(written) == set(costs.ORDER)
