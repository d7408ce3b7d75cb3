"""Tables over all runs: CSV for programs, Markdown for people, plain text for the terminal.

Enters: `Results`, with `rankings.npz` beside each evaluation. Leaves: mean and sample standard deviation over seeds of
every metric, METHOD.md "Evaluation", and the differences between trained runs.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from rvlr import files
from rvlr.config.runs import is_trained
from rvlr.evaluation.metrics import NDCG_CUTOFFS, RECALL_CUTOFFS
from rvlr.report import compare
from rvlr.report.compare import Comparison
from rvlr.report.results import PROTOCOL, RANKS, Results, Score

MEDIAN_RANKS = dict(zip(("I→T median rank", "T→I median rank"), RANKS, strict=True))  # `paper` has none
SECTIONS: dict[str, dict[str, str]] = {
    "Cross-modal": {
        **{f"I→T R@{k}": f"i2t_r@{k}" for k in RECALL_CUTOFFS},
        **{f"T→I R@{k}": f"t2i_r@{k}" for k in RECALL_CUTOFFS},
        "R-mean": "r_mean",
        "R-sum": "r_sum",
        **MEDIAN_RANKS,
    },
    "Single-modal": {
        **{f"I→I NDCG@{k}": f"i2i_ndcg@{k}" for k in NDCG_CUTOFFS},
        **{f"T→T NDCG@{k}": f"t2t_ndcg@{k}" for k in NDCG_CUTOFFS},
    },
    "Mixed": {
        **{f"I→IT NDCG@{k}": f"i2it_ndcg@{k}" for k in NDCG_CUTOFFS},
        **{f"T→IT NDCG@{k}": f"t2it_ndcg@{k}" for k in NDCG_CUTOFFS},
    },
}
TERMINAL: dict[str, dict[str, str]] = {
    "cross-modal": {"I→T R@1": "i2t_r@1", "T→I R@1": "t2i_r@1", "R-mean": "r_mean"},
    "single, NDCG@10": {"I→I": "i2i_ndcg@10", "T→T": "t2t_ndcg@10"},
    "mixed, NDCG@10": {"I→IT": "i2it_ndcg@10", "T→IT": "t2it_ndcg@10"},
}
RECALL = "R@K: hit: at least one right item among the first K."
NDCG = "NDCG@K: gain is the relevance (ROUGE-L between captions), discount is log2."
ABOUT_RANKS = "R-sum: the six recalls added up. Median rank: of the best right item, from 1; lower is better."
PROTOCOLS = (
    "Protocol `paper` repeats the published evaluation, with its accidents; `corrected` is without. `/first-N`: the "
    "first N images alone; `/folds-N`: the mean over disjoint parts of N images."
)
TERMINAL_WIDTH = 110


# --- files --------------------------------------------------------------------------------------------------


def summarise(results: Results, csv: Path, comparisons: Path, markdown: Path) -> None:
    """Write every metric of every run and protocol to `csv`, every difference between trained runs to `comparisons`,
    a CSV too, and the three-way tables with the most telling differences as Markdown.

    Raises UserError as `compare.compare_runs`, which reads the rankings if there is more than one trained run.
    """
    compared = compare.compare_runs(results.sources) if PROTOCOL in results.scores else []
    for path, frame in ((csv, _frame(results)), (comparisons, _comparison_frame(compared))):
        files.write_text(path, frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    files.write_text(markdown, "\n".join([*_markdown(results), *_differences(compared)]) + "\n")


def _frame(results: Results) -> pd.DataFrame:
    """One row per run and protocol. `seeds` is a number; a missing standard deviation is an empty field."""
    rows = []
    for protocol, runs in results.scores.items():
        for run, scores in runs.items():
            row = {"run": run, "protocol": protocol, "seeds": len(results.seeds[run]), "split": results.split}
            row.update(results.counts.model_dump())
            for metric, score in scores.items():
                row[f"{metric}_mean"], row[f"{metric}_std"] = score.mean, score.std
            rows.append(row)
    return pd.DataFrame(rows)


def _comparison_frame(compared: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison and metric. Seeds are numbers with spaces between."""
    rows = []
    for one in compared:
        seeds = [" ".join(map(str, seeds)) for seeds in (one.seeds, one.reference_seeds)]
        for metric, found in one.differences.items():
            rows.append([one.run, one.reference, PROTOCOL, *seeds, one.images, metric, *astuple(found)])
    columns = ["run", "reference", "protocol", "seeds", "reference_seeds", "images", "metric"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p"])


def _markdown(results: Results) -> Iterator[str]:
    spread = "Mean ± sample standard deviation over seeds" if len(results.all_seeds) > 1 else "One seed: no spread"
    yield f"# Three-way retrieval on the {results.split} split"
    yield ""
    yield _header(results, code="`")
    yield ""
    yield f"- {spread}; all values but ranks in percent; bold: the best trained model of a column."
    yield f"- I: image, T: text, IT: images and texts together. {RECALL}"
    yield f"- {ABOUT_RANKS}"
    yield f"- {NDCG}"
    yield f"- {PROTOCOLS}"
    yield from (f"- Data: {note}" for note in results.notes)
    for protocol, runs in results.scores.items():
        yield from ("", f"## Protocol `{protocol}`")
        present = next(iter(runs.values()))
        for section, known in SECTIONS.items():
            columns = {name: metric for name, metric in known.items() if metric in present}
            yield from ("", f"### {section}", "")
            yield f"| run | seeds | {' | '.join(columns)} |"
            yield f"|:--|--:|{'--:|' * len(columns)}"
            best = {metric: _best(runs, metric) for metric in columns.values()}
            for run, scores in runs.items():
                cells = [_cell(run, scores[metric], best[metric]) for metric in columns.values()]
                yield f"| {run} | {len(results.seeds[run])} | {' | '.join(cells)} |"


def _header(results: Results, code: str = "") -> str:
    """Counts, seeds and commits in one line; `code` is put around each commit."""
    seeds = results.all_seeds
    commits = [f"{code}{_short(commit)}{code}" if commit else "unknown" for commit in results.commits]
    return (
        f"{results.counts.images:,} images, {results.counts.captions:,} captions; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; "
        f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    )


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:12] + dash + dirty


def _best(runs: dict[str, dict[str, Score]], metric: str) -> str | None:
    """The best mean among trained runs, as printed, so that runs which print alike are equally best."""
    means = [scores[metric].mean for run, scores in runs.items() if is_trained(run)]
    best = min if metric in MEDIAN_RANKS.values() else max
    return f"{best(means):.1f}" if means else None


def _cell(run: str, score: Score, best: str | None) -> str:
    is_best = is_trained(run) and f"{score.mean:.1f}" == best
    return f"**{score}**" if is_best else str(score)


def _differences(compared: Sequence[Comparison]) -> Iterator[str]:
    """The section on differences; nothing where nothing was compared."""
    if not compared:
        return
    times, images = f"{compare.RESAMPLES:,}", f"{compared[0].images:,}"
    one_seed = any(len(seeds) == 1 for one in compared for seeds in (one.seeds, one.reference_seeds))
    yield from ("", "## Differences", "")
    yield f"- Protocol `{PROTOCOL}`, percentage points, run minus reference; each query's values averaged over seeds."
    yield f"- 95 % interval: bootstrap, {times} resamples of the {images} images, each with all its captions."
    yield f"- p: two-sided, from {times} random exchanges of the two runs, image by image, with all its captions."
    yield "- p is unadjusted for the number of comparisons: about one in twenty is below 0.05 where models are alike."
    yield "- Interval and p tell the uncertainty of the test set, not that of training" + (
        "; one seed tells nothing of that." if one_seed else "."
    )
    telling = {metric for columns in TERMINAL.values() for metric in columns.values()}
    rows = {name: metric for columns in SECTIONS.values() for name, metric in columns.items() if metric in telling}
    for one in compared:
        yield from ("", f"### {one.run} minus {one.reference}", "", _paired_seeds(one), "")
        yield from ("| metric | difference | 95 % interval | p |", "|:--|--:|--:|--:|")
        for name, metric in rows.items():
            found = one.differences[metric]
            yield f"| {name} | {found.value:+z.2f} | {found.low:+z.2f} to {found.high:+z.2f} | {found.p:.4f} |"


def _paired_seeds(one: Comparison) -> str:
    own, other = (
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for seeds in (one.seeds, one.reference_seeds)
    )
    return f"{own.capitalize()} {'of both' if one.seeds == one.reference_seeds else f'against {other}'}."


# --- terminal -----------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """The most telling columns as plain text, at most 110 wide."""
    said = [f"{results.split}: {_header(results)}", *(f"Data: {note}" for note in results.notes)]
    lines = [line for one in said for line in textwrap.wrap(one, TERMINAL_WIDTH)] + [f"In percent. {RECALL}"]
    shown = [metric for columns in TERMINAL.values() for metric in columns.values()]
    cells = {
        (protocol, run, metric): str(scores[metric]).replace(" ", "")
        for protocol, runs in results.scores.items()
        for run, scores in runs.items()
        for metric in shown
    }
    width = max(map(len, [*cells.values(), *(name for columns in TERMINAL.values() for name in columns)]))
    heads = [" ".join(f"{name:>{width}}" for name in columns) for columns in TERMINAL.values()]
    titles = [f"{title:^{len(head)}}" for title, head in zip(TERMINAL, heads, strict=True)]
    room = TERMINAL_WIDTH - sum(len(head) + 3 for head in heads)
    names = {run: _fit(run, room) for run in results.runs}
    longest = max(map(len, names.values()))
    for protocol in results.scores:
        lines += ["", f"protocol {protocol}", _line("", titles, longest), _line("", heads, longest)]
        for run, name in names.items():
            groups = [
                " ".join(f"{cells[protocol, run, metric]:>{width}}" for metric in columns.values())
                for columns in TERMINAL.values()
            ]
            lines.append(_line(name, groups, longest))
    return "\n".join(lines)


def _fit(name: str, width: int) -> str:
    """`name`, its middle left out if it is longer than `width`: runs often differ in how they end."""
    if len(name) <= width:
        return name
    head = width // 2
    return f"{name[:head]}…{name[len(name) - (width - head - 1) :]}"


def _line(first: str, groups: Sequence[str], longest: int) -> str:
    return "   ".join([f"{first:<{longest}}", *groups]).rstrip()
