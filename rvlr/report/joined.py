"""The three tables of the paper, of several studies at once: cross-modal, single-modal and mixed retrieval.

Input: folders of results, one for each data set. Output: `Tables`, and from these Markdown, CSV and LaTeX. Runs and
seeds that a study names but that were not evaluated are named in each table. A run that lacks a seed is never the best
of a column, and no difference of it is marked: its mean is over other trainings than those of its neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from rvlr import files
from rvlr.config import runs
from rvlr.errors import UserError
from rvlr.evaluation.protocols import SCENES
from rvlr.report import compare, intervals, results, tables
from rvlr.report.compare import Comparison, Difference
from rvlr.report.pool import TEST, check_distinct, read_report
from rvlr.report.results import PROTOCOL, Results

PROTOCOLS = (PROTOCOL, "paper")
SECTIONS = {name: tables.SECTIONS[name] for name in ("Cross-modal", "Single-modal", "Mixed")}
NAMES = ("tables.md", "tables.csv", "tables.tex")
_MISSING = "missing"
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "↑": r"$^{\uparrow}$",
    "↓": r"$^{\downarrow}$",
    "–": "--",
}


@dataclass(frozen=True)
class Study:
    """A folder of results: the runs and seeds that its settings name, and the results that there are; None if nothing
    was evaluated yet. name: what tables call it."""

    name: str
    runs: list[str]
    seeds: list[int]
    results: Results | None

    @cached_property
    def missing(self) -> dict[str, list[int]]:
        """The seeds that are missing of each run that is not complete."""
        found = self.results.seeds if self.results is not None else {}
        lacking = {run: [seed for seed in self.seeds if seed not in found.get(run, ())] for run in self.runs}
        return {run: seeds for run, seeds in lacking.items() if seeds}

    @property
    def reference(self) -> str | None:
        """The run that others are compared with; None if nothing is trained but one run, or none."""
        features = self.results.features if self.results is not None else ()
        trained = [run for run in self.runs if runs.is_trained(run) and run not in features]
        return compare.reference_of(trained) if len(trained) > 1 else None

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The differences of complete runs from the reference; none if the reference is not complete itself."""
        if self.results is None or self.reference is None or self.reference in self.missing:
            return []
        return [one for one in self.results.comparisons if one.run not in self.missing]

    def protocols(self, name: str) -> list[str]:
        """A protocol and, after it, the same on subsets of the test images."""
        found = self.results.scores if self.results is not None else ()
        return [name, *(one for one in found if one.startswith(f"{name}/") and not one.startswith(SCENES))]


@dataclass(frozen=True)
class Cell:
    """A number of a table, or what there is in its place. mark: an arrow up or down if the run is clearly above or
    below its reference."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Tables:
    """Studies side by side, by one protocol.

    holm: (study, run, metric) -> the p-value of its comparison, adjusted for all comparisons in here.
    """

    studies: Sequence[Study]
    protocol: str
    compared: dict[tuple[str, str], Comparison]
    holm: dict[tuple[str, str, str], float]

    def cell(self, study: Study, protocol: str, run: str, metric: str) -> Cell:
        """The cell of a run, of a protocol of the study."""
        found = study.results.scores.get(protocol, {}) if study.results is not None else {}
        if run not in found:
            return Cell(_MISSING)
        return Cell(
            tables.text_of(found[run], metric),
            run in self._best(study, protocol, metric),
            self._mark(study, protocol, run, metric),
        )

    def _best(self, study: Study, protocol: str, metric: str) -> list[str]:
        if study.results is None:
            return []
        complete = [run for run in study.results.runs if study.results.is_trained(run) and run not in study.missing]
        return tables.best({run: study.results.scores[protocol][run] for run in complete}, metric)

    def _mark(self, study: Study, protocol: str, run: str, metric: str) -> str:
        if protocol != PROTOCOL or self.holm.get((study.name, run, metric), 1.0) >= intervals.LEVEL:
            return ""
        return "↑" if self.compared[study.name, run].differences[metric].value > 0 else "↓"


def read(folders: Sequence[Path], protocol: str = PROTOCOL) -> Tables:
    """Read the results of studies.

    protocol: one of `PROTOCOLS`; differences are known of `corrected` alone. Raises UserError as `results.read`, if a
    folder is no folder of results or is given twice, or if nothing at all was evaluated.
    """
    check_distinct(folders)
    names = [folder.resolve().name for folder in folders]
    if len({*names}) < len(names):
        names = [str(folder) for folder in folders]
    studies = [_read_study(name, folder) for name, folder in zip(names, folders, strict=True)]
    if all(study.results is None for study in studies):
        raise UserError(f"{', '.join(map(str, folders))}: nothing was evaluated yet; run the workflow first")
    found = [(study.name, one) for study in studies for one in study.comparisons] if protocol == PROTOCOL else []
    family = [(name, one.run, metric) for name, one in found for metric in tables.SHOWN.values()]
    p = [one.differences[metric].p for _, one in found for metric in tables.SHOWN.values()]
    return Tables(
        studies,
        protocol,
        {(name, one.run): one for name, one in found},
        dict(zip(family, intervals.holm(p), strict=True)),
    )


def _read_study(name: str, folder: Path) -> Study:
    report = read_report(folder)
    paths = [folder / f"seed{seed}/{run}/eval/{TEST}.json" for run in report.runs for seed in report.seeds]
    there = [path for path in paths if path.exists()]
    return Study(name, report.runs, report.seeds, results.read(there) if there else None)


def write(found: Tables, folder: Path) -> None:
    """Write the tables as `NAMES` into a folder. Raises UserError if a file there is not one that `rvlr` made."""
    texts = ("\n".join(_markdown(found)), _frame(found).to_csv(index=False, float_format="%.6f"), _latex(found))
    for name, text in zip(NAMES, texts, strict=True):
        files.write_text(folder / name, text)


# --- what all forms say -------------------------------------------------------------------------------------


def _rows(found: Tables) -> Iterator[tuple[Study, str, str]]:
    """Study, protocol and run of each row."""
    for study in found.studies:
        for protocol in study.protocols(found.protocol):
            yield from ((study, protocol, run) for run in study.runs)


def _columns(found: Tables, section: str) -> dict[str, str]:
    """The columns of a table: those that a study has."""
    every = [one.results.scores[found.protocol] for one in found.studies if one.results is not None]
    present = {metric for scores in every for one in scores.values() for metric in one}
    return {name: metric for name, metric in SECTIONS[section].items() if metric in present}


def _place(study: Study, protocol: str) -> str:
    """What a row is measured on: a data set, or a subset of it."""
    subset = protocol.partition("/")[2]
    return f"{study.name}, {subset}" if subset else study.name


def _seeds(study: Study, run: str) -> str:
    there = len(study.seeds) - len(study.missing.get(run, ()))
    return f"{there}" if there == len(study.seeds) else f"{there} of {len(study.seeds)}"


def _about(found: Tables) -> Iterator[str]:
    """What a reader has to know of the numbers, the holes first."""
    for study in found.studies:
        for run, seeds in study.missing.items():
            over = [seed for seed in study.seeds if seed not in seeds]
            rest = f"its means are over {tables.name_seeds(over)} alone" if over else "it has no numbers"
            yield f"Missing in {study.name}: {run}, {tables.name_seeds(seeds)}; {rest}."
    several = any(len(study.seeds) > 1 for study in found.studies)
    averaged = "Mean ± sample standard deviation over seeds" if several else "One seed: no standard deviation"
    complete = " among those with all seeds" if any(study.missing for study in found.studies) else ""
    yield (
        f"Protocol {found.protocol}. {averaged}; all values but ranks in percent. Bold: the best trained model of a "
        f"column{complete}, on each data set."
    )
    yield from _about_marks(found)


def _about_marks(found: Tables) -> Iterator[str]:
    if found.protocol != PROTOCOL:
        yield f"No differences are marked: values of single queries are kept by protocol {PROTOCOL} alone."
        return
    if found.compared:
        pairs = f"{len(found.compared)} pair{'s' * (len(found.compared) > 1)} of runs"
        yield (
            "↑, ↓: clearly above or below the reference, p (Holm) below 0.05, adjusted for all "
            f"{len(found.holm)} comparisons in these tables: {len(tables.SHOWN)} metrics "
            f"({', '.join(tables.SHOWN)}) of {pairs}. Other columns and subsets are not compared."
        )
    for study in found.studies:
        first = next((one for (name, _), one in found.compared.items() if name == study.name), None)
        if first is not None:
            yield f"The reference in {study.name} is {first.reference}. {tables.covered(first)}"
        elif study.reference is None:
            yield f"Nothing is compared in {study.name}, which has no two trained models."
        elif study.reference in study.missing:
            yield f"Nothing is compared in {study.name}: the reference, {study.reference}, lacks seeds."
        else:
            yield f"Nothing is compared in {study.name}: no other trained model has all seeds."


# --- forms --------------------------------------------------------------------------------------------------


def _markdown(found: Tables) -> Iterator[str]:
    yield f"# Three-way retrieval: {', '.join(study.name for study in found.studies)}"
    yield ""
    yield from (f"- {line}" for line in _about(found))
    yield f"- I: image, T: text, IT: images and texts together. {tables.RECALL}"
    yield f"- {tables.ABOUT_RANKS} {tables.NDCG}"
    for study in found.studies:
        if study.results is not None:
            yield f"- {study.name}: {tables.header(study.results, code='`')}."
            yield from (f"- {study.name}: {note}" for note in study.results.notes)
    for section in SECTIONS:
        rows = []
        for study, protocol, run in _rows(found):
            row = {"data": _place(study, protocol), "run": run, "seeds": _seeds(study, run)}
            for name, metric in _columns(found, section).items():
                one = found.cell(study, protocol, run, metric)
                row[name] = (f"**{one.text}**" if one.best else one.text) + one.mark
            rows.append(row)
        yield from ("", f"## {section}", "", tables.markdown_table(pd.DataFrame(rows), left=2))
    yield ""


def _frame(found: Tables) -> pd.DataFrame:
    """One row per study, protocol, run and metric. seeds: how many there are; of: how many there should be. What does
    not exist is an empty field."""
    rows = []
    for section in SECTIONS:
        for study, protocol, run in _rows(found):
            of, there = len(study.seeds), len(study.seeds) - len(study.missing.get(run, ()))
            scores = study.results.scores.get(protocol, {}).get(run, {}) if study.results is not None else {}
            one = found.compared.get((study.name, run)) if protocol == PROTOCOL else None
            for metric in _columns(found, section).values():
                score, cell = scores.get(metric), found.cell(study, protocol, run, metric)
                values = [None, None] if score is None else [score.mean, score.std]
                reference = None if one is None else one.reference
                difference = _difference(one.differences[metric]) if one and metric in one.differences else [None] * 4
                holm = found.holm.get((study.name, run, metric)) if one is not None else None
                about = [section.lower(), study.name, protocol, run, metric, there, of]
                rows.append([*about, *values, cell.best, reference, *difference, _p(holm), cell.mark])
    names = ["table", "study", "protocol", "run", "metric", "seeds", "of", "mean", "std", "best", "reference"]
    return pd.DataFrame(rows, columns=[*names, "difference", "low", "high", "p", "p_holm", "mark"])


def _difference(one: Difference) -> list[float | str | None]:
    return [one.value, one.low, one.high, _p(one.p)]


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _latex(found: Tables) -> str:
    """Three tables for LaTeX with the package booktabs."""
    lines = ["% Three-way retrieval; needs \\usepackage{booktabs}. Written by `rvlr tables`."]
    for section in SECTIONS:
        columns = _columns(found, section)
        lines += [r"\begin{table*}", r"\centering", r"\small"]
        lines += [rf"\caption{{{_escape(f'{section} retrieval. ' + ' '.join(_about(found)))}}}"]
        lines += [
            rf"\label{{tab:{section.lower()}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(columns) + 1)}}}",
            r"\toprule",
        ]
        lines.append(_line(["data", "model", "seeds", *map(_escape, columns)]))
        place = ""
        for study, protocol, run in _rows(found):
            if place != _place(study, protocol):
                place = _place(study, protocol)
                lines.append(r"\midrule")
            cells = [found.cell(study, protocol, run, metric) for metric in columns.values()]
            texts = [
                (rf"\textbf{{{_escape(one.text)}}}" if one.best else _escape(one.text)) + _escape(one.mark)
                for one in cells
            ]
            lines.append(_line([_escape(place), _escape(run), _seeds(study, run), *texts]))
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
