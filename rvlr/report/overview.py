"""The first page of the report that a person sends: the most important numbers, how they came about, what they cost.

Input: a folder of results. Output: HTML without scripts, links or anything that is loaded. It is made when the report
is, not by a stage, since the wall time of the last stage is part of it. Snakemake's own template for such facts,
`--report-metadata`, loses their names (9.27), so workflow/report/workflow.rst takes this page as it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rvlr import files
from rvlr.config import runs
from rvlr.errors import UserError
from rvlr.evaluation.headlines import HEADLINES
from rvlr.report import costs, tables
from rvlr.report import results as evaluations_of
from rvlr.report.results import PROTOCOL, Results

WAYS = ("between the modalities", "within one, NDCG@10", "mixed, NDCG@10")
INTRODUCTION = (
    "A model puts photographs and captions into one space, so that what belongs together lies close together. In that "
    "space one can search in three ways, and a model that is good at one may be bad at another: <b>between the "
    "modalities</b> (I→T: a photograph is asked, captions are searched; T→I: the other way round), <b>within one</b> "
    "(I→I: similar photographs; T→T: captions that say the same), and <b>mixed</b> (I→IT, T→IT: photographs and "
    "captions in one list). All numbers are percent; more is better."
)
READING = (
    "<b>R@1</b>: in how many of 100 searches the first answer is right. <b>R-mean</b>: the mean of R@1, R@5 and R@10 "
    "in both directions. <b>NDCG@10</b>: how close the first ten answers come to the best possible order, where an "
    "answer is the better the more its captions say the same as those of the question. Bold: the best trained model of "
    "a column. <b>initial</b>: before training; <b>teacher</b>: trained on matching pairs, or not trained here; "
    "<b>student</b>: trained further, and by default to keep the teacher's structure within each modality "
    "(distillation)."
)
COSTS = (
    "Memory is the largest that one stage was seen to use; short peaks may be missed, and what GPUs have of their own "
    "is not in it. A training that was interrupted counts with its last part. GPU hours: wall time times GPUs."
)
PIPELINE = (
    "Below, each dot is a kind of stage, from the frozen settings at the top to the tables at the bottom; an arc leads "
    "from a stage to one that reads what it wrote. A click on a dot shows its files and its command. The menu on the "
    "left has everything else: tables, figures, what the models find for some questions, and every setting."
)


@dataclass(frozen=True)
class _Record:
    """A stage that recorded what made its result: the benchmark file's name and seed, the provenance, its GPUs."""

    stage: str
    seed: int
    provenance: Mapping[str, Any]
    processes: int

    @property
    def gpus(self) -> int:
        return self.processes if self.provenance.get("gpu") else 0


def page(folder: Path, evaluations: Sequence[Path]) -> str:
    """The page about `results/{dataset}`, from the evaluations of every run and seed.

    Raises UserError if there are no results yet, and as `rvlr.report.results.read` and `Results.comparisons`.
    """
    missing = [path for path in evaluations if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: not there yet; run the workflow before its report")
    results, records = evaluations_of.read(evaluations), [*_records(folder, evaluations)]
    stages = costs.read(folder)
    gpus: costs.Gpus = {(record.stage, record.seed): record.gpus for record in records}
    everything = costs.add("all", stages, gpus)
    parts = [
        f"<h1>{escape(folder.name)}: retrieval in three ways</h1>",
        f"<p>{INTRODUCTION}</p>",
        "<h2>Results</h2>",
        _scores(results),
        f"<p>{READING}</p>",
        *(f"<p>{escape(tables.verdict(one))}</p>" for one in results.comparisons),
        "<h2>What they are results of</h2>",
        _facts(_about(folder, results, records, everything)),
        "<h2>Time and memory</h2>",
        _costs([*costs.totals(stages, gpus), everything]),
        f"<p>{COSTS}</p>",
        "<h2>Pipeline</h2>",
        f"<p>{PIPELINE}</p>",
    ]
    return "\n".join(parts)


# --- numbers ------------------------------------------------------------------------------------------------


def _scores(results: Results) -> str:
    """The most important numbers of every run, protocol `corrected`."""
    scores = results.scores.get(PROTOCOL)
    if scores is None:
        raise UserError(f"the evaluations have no protocol {PROTOCOL!r}; run the evaluate stage again")
    groups = "".join(
        f'<th colspan="{len(columns)}">{escape(way)}</th>' for way, columns in zip(WAYS, HEADLINES, strict=True)
    )
    shown = {name: metric for columns in HEADLINES for name, metric in columns.items()}
    trained = {run: found for run, found in scores.items() if results.is_trained(run)}
    best = {metric: tables.best(trained, metric) for metric in shown.values()}
    rows = [
        [escape(run), *(_cell(tables.text_of(found, metric), run in best[metric]) for metric in shown.values())]
        for run, found in scores.items()
    ]
    head = f'<tr class="groups"><th></th>{groups}</tr>{_row(["model", *map(escape, shown)], "th")}'
    averaged = f", mean ± standard deviation over {results.averaged}" if results.averaged else ", one seed"
    note = f"{results.counts.images:,} test images with {results.counts.captions:,} captions{averaged}"
    return f'<p>{escape(note)}.</p><div class="wide" id="headline-table">{_table(head, rows)}</div>'


def _cell(text: str, best: bool) -> str:
    return f"<b>{text}</b>" if best else text


# --- facts --------------------------------------------------------------------------------------------------


def _records(folder: Path, evaluations: Sequence[Path]) -> Iterator[_Record]:
    """What the stages that run models recorded."""
    for path in evaluations:
        found = files.read_json(path)
        run, seed, home = found["run"], found["seed"], path.parent.parent
        yield _Record(f"evaluate-{run}", seed, found["provenance"], 1)
        processes = 1
        training = home / "config.yaml"
        if runs.is_trained(run) and training.is_file():
            about = files.read_yaml(training)
            processes = about["settings"].get("training", {}).get("processes", 1)
            yield _Record(run, seed, about.get("provenance", {}), processes)
        for name in ("features", "features-test"):
            if (index := home / name / "index.json").is_file():
                yield _Record(f"{name}-{runs.name(run)}", seed, files.read_json(index)["provenance"], processes)


def _about(folder: Path, results: Results, records: Sequence[_Record], everything: costs.Total) -> dict[str, list[str]]:
    """What a reader must know to judge the numbers or to repeat them: name -> one or more values."""
    about = files.read_json(folder / "splits/dataset.json")
    counts = [
        f"{split}: {count['images']:,} images, {count['captions']:,} captions"
        for split, count in about["counts"].items()
    ]
    settings = files.read_yaml(folder / "config/dataset.yaml")
    made = [record.provenance for record in records]
    commits = _distinct(one.get("commit") or "unknown (not run from a git repository)" for one in made)
    versions = _distinct(
        ", ".join(f"{name} {number}" for name, number in (one.get("packages") or {}).items() if number) for one in made
    )
    pythons = _distinct(f"rvlr {one.get('rvlr')}, Python {one.get('python')}" for one in made)
    processors = _distinct(one.get("processor") or one.get("machine") or "unknown" for one in made)
    gpus = _distinct(one["gpu"] for one in made if one.get("gpu")) or ["none: computed on the CPU"]
    return {
        "Data set": [f"{folder.name} (kind {settings.get('kind', 'unknown')})", *counts, *results.notes],
        "Models": results.runs,
        "Seeds": [", ".join(map(str, results.all_seeds))],
        "Commit" if len(commits) == 1 else "Commits (several: results of different code)": commits,
        "Versions" if len(versions) == 1 else "Versions (several: results of different libraries)": [
            *pythons,
            *versions,
        ],
        "Machine": [*processors, f"GPU: {', '.join(gpus)}"],
        "Wall time": [f"{_duration(everything.seconds)}, all {everything.stages} stages added up"],
        "GPU hours": [f"{everything.gpu_hours:.2f}"],
    }


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _facts(facts: Mapping[str, Sequence[str]]) -> str:
    rows = [[escape(name), "<br>".join(map(escape, values))] for name, values in facts.items()]
    return f'<div class="facts">{_table("", rows)}</div>'


# --- costs --------------------------------------------------------------------------------------------------


def _costs(totals: Iterable[costs.Total]) -> str:
    """One row for each kind of stage, and the last for all."""
    rows = [
        [
            escape(total.kind),
            str(total.stages),
            _duration(total.seconds),
            f"{total.gpu_hours:.2f}",
            "not measured" if total.memory is None else f"{total.memory / 1024:.2f} GiB",
        ]
        for total in totals
    ]
    head = _row(["stage", "times run", "wall time", "GPU hours", "peak memory"], "th")
    return f'<div class="wide" id="costs">{_table(head, rows)}</div>'


def _duration(seconds: float) -> str:
    """Such as 2 h 5 min, 3 min 36 s, 0.6 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


# --- HTML ---------------------------------------------------------------------------------------------------


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are HTML already."""
    body = "".join(_row(row, "td") for row in rows)
    return f"<table>{f'<thead>{head}</thead>' if head else ''}<tbody>{body}</tbody></table>"


def _row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"
