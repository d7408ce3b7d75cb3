"""The house is in order: what texts, docstrings and comments name exists, and the rooms of `rvlr` import each other as
docs/ARCHITECTURE.md allows."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from conftest import ROOT

PLACES = ("rvlr", "workflow", "config", "docs", "tests", "benchmarks", "profiles")
TEXTS = [*(f"{place}/**/*" for place in PLACES), "*.md", "results/README.md", "Snakefile", "Makefile", "pyproject.toml"]
TEXTS += [".ci/run", ".github/**/*", ".pre-commit-config.yaml", ".snakemake-workflow-catalog.yml"]
SUFFIXES = ("", ".py", ".md", ".yaml", ".yml", ".smk", ".rst", ".toml")
PATH = re.compile(rf"(?<![\w/.{{}}~:*@-])(?:(?:{'|'.join(PLACES)})/[\w.*/-]*[\w*/]|[A-Z]+\.(?:md|cff))(?![\w*{{])")
NAME = re.compile(r"(?<![\w./-])rvlr(?:\.[A-Za-z_]\w*)+(?![\w/-])")
QUOTED = r',? (?:and )?"[^"]+"'
SECTIONS = re.compile(rf"docs/METHOD\.md((?:{QUOTED})+)")

Mentions = dict[str, list[Path]]


# --- what is named exists ----------------------------------------------------------------------------------------


@cache
def texts() -> dict[Path, str]:
    """What each file says, with single spaces: of Python, comments and docstrings; of others, everything. The changelog
    is left out, since it names what is gone."""
    found: dict[Path, str] = {}
    for path in sorted(chain.from_iterable(map(ROOT.glob, TEXTS))):
        if path.is_file() and path.suffix in SUFFIXES and path.name != "CHANGELOG.md":
            text = path.read_text(encoding="utf-8")
            text = "\n".join(comments_and_docstrings(text)) if path.suffix == ".py" else text
            found[path] = " ".join(re.sub(r"^\s*#(?!#)", "", text, flags=re.MULTILINE).split())
    return found


def comments_and_docstrings(code: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def mentions(pattern: re.Pattern[str]) -> Mentions:
    found: Mentions = defaultdict(list)
    for path, text in texts().items():
        for match in pattern.finditer(text):
            found[match[pattern.groups]].append(path)
    return found


def faults(missing: Mentions) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {name}" for name, paths in missing.items() for path in sorted(set(paths))]


def exists(name: str, folder: Path) -> bool:
    """Whether a path or pattern exists below the root, or, as links of texts do, below the text's own folder."""
    return any(any(place.glob(name.rstrip("/"))) for place in (ROOT, folder))


def test_files_that_are_named_exist() -> None:
    found = mentions(PATH)
    assert len(found) > 50
    assert not faults(
        {name: [path for path in paths if not exists(name, path.parent)] for name, paths in found.items()}
    )


def test_python_names_that_are_named_exist() -> None:
    found = mentions(NAME)
    assert len(found) > 30
    assert not faults({name: paths for name, paths in found.items() if not is_defined(name)})


def test_sections_of_the_method_that_are_named_are_its_headings() -> None:
    headings = set(re.findall(r"^## (.+)$", (ROOT / "docs/METHOD.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    found = mentions(SECTIONS)
    assert len(found) > 3
    wrong = {quoted: paths for quoted, paths in found.items() if set(re.findall(r'"([^"]+)"', quoted)) - headings}
    assert not faults(wrong)


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        (PATH, "see `docs/METHOD.md`, rvlr/x.py.", ["docs/METHOD.md", "rvlr/x.py"]),
        (PATH, "METHOD.md and (config/README.md)", ["METHOD.md", "config/README.md"]),
        (PATH, "results/shapes/config/a.yaml, ../config/b, python -m rvlr relevance, config/{section}.yaml", []),
        (PATH, "`workflow/rules/*.smk`; tests/golden/", ["workflow/rules/*.smk", "tests/golden/"]),
        (
            NAME,
            "`rvlr.files`, rvlr.data.text.clean_caption. envs/rvlr.yaml",
            ["rvlr.files", "rvlr.data.text.clean_caption"],
        ),
        (SECTIONS, 'docs/METHOD.md, "Losses" and "Training": "x"', [', "Losses" and "Training"']),
        (SECTIONS, 'docs/METHOD.md "Losses"', [' "Losses"']),
    ],
    ids=["paths", "capitals", "not-paths", "patterns", "names", "sections", "section"],
)
def test_what_counts_as_named(pattern: re.Pattern[str], text: str, wanted: list[str]) -> None:
    assert [match[pattern.groups] for match in pattern.finditer(text)] == wanted


# --- rooms -------------------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """The modules of the package by their names with dots."""
    files = sorted((ROOT / "rvlr").rglob("*.py"))
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What an import statement takes from `rvlr`: the name that it gives, and the module or object by its full name."""
    assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are absolute in this package"
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rvlr":
        yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, alias.name) for alias in node.names if alias.name.partition(".")[0] == "rvlr")


def module_of(name: str) -> str:
    """The module that an object is in, by its full name; or the module itself."""
    while name not in modules():
        name = name.rpartition(".")[0]
    return name


def is_defined(name: str) -> bool:
    """Whether a module, or an object in one, has this full name. Inherited attributes do not count."""
    module = module_of(name)
    body: list[ast.stmt] = tree(module).body
    for part in name.removeprefix(module).split(".")[1:]:
        given = {alias: full for node in body for alias, full in imports(node)}
        if part in given:
            return is_defined(given[part])
        found = [node for node in body if part in defines(node)]
        if not found:
            return False
        body = found[0].body + attributes(found[0]) if isinstance(found[0], ast.ClassDef) else []
    return True


def defines(node: ast.stmt) -> set[str]:
    """The names that a statement gives to something, `self.x` by its last part."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    flat = chain.from_iterable(target.elts if isinstance(target, ast.Tuple) else [target] for target in targets)
    return {target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "") for target in flat}


def attributes(node: ast.ClassDef) -> list[ast.stmt]:
    """The assignments in the methods of a class."""
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.Assign | ast.AnnAssign)]


@cache
def rows() -> list[list[str]]:
    """The rooms, row by row, as docs/ARCHITECTURE.md lists them."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")][2:]
    return [re.findall(r"`(\w+)`", cell) for cell in cells]


def room(module: str) -> str:
    """The room of a module; those of the package itself have none."""
    return module.removeprefix("rvlr").strip(".").partition(".")[0]


def links() -> Iterator[tuple[str, int, str]]:
    """Every import from one room in another: module, line, and the module that is imported. The package itself, which
    offers some objects of its rooms, is for users alone."""
    for module in modules():
        for node in ast.walk(tree(module)) if room(module) not in ("", "__main__") else ():
            for _, full in imports(node):
                target = module_of(full)
                if full != "rvlr.__version__" and room(target) != room(module):
                    yield module, node.lineno, target


def test_the_architecture_lists_the_rooms() -> None:
    assert sorted(chain.from_iterable(rows())) == sorted({room(module) for module in modules()} - {"", "__main__"})


def test_rooms_import_from_those_before_them() -> None:
    order = list(chain.from_iterable(rows()))
    stages = next(row for row in rows() if "training" in row)
    wrong = []
    for module, line, target in links():
        here, there = room(module), room(target)
        if there not in order[: order.index(here)] or {here, there} <= set(stages):
            wrong.append(f"{module}:{line} imports {target}")
    assert not wrong


def test_stages_are_run_by_the_commands_alone() -> None:
    stages = {module for module in modules() if module == "rvlr.extraction" or module.endswith(".stage")}
    assert len(stages) >= 3
    assert not [
        f"{module}:{line} imports {target}"
        for module, line, target in links()
        if target in stages and room(module) != "cli"
    ]
