"""Figures over all runs: learning curves and the three-way bars.

Enters: `metrics.jsonl` of trainings, `eval/test.json` of runs. Leaves: one PNG per call, the same bytes every
time.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from rvlr import config, files
from rvlr.config.runs import is_trained
from rvlr.errors import UserError, show
from rvlr.report import records
from rvlr.report.results import PROTOCOL, Results

DPI = 150
SELECTED_BY = "r_mean"
BARS_WIDTH = 12.5
TERMS = tuple(config.StudentWeights.model_fields)
# Paul Tol's "bright" scheme and Okabe-Ito: both keep apart for the colour-blind
TERM_COLOURS = ("#4477AA", "#EE6677", "#228833", "#BBA820", "#33A9D6", "#AA3377", "#888888")
UNTRAINED = "#B8B8B8"
RUN_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
HATCHES = (None, "////", "....")
PANELS: dict[str, dict[str, str]] = {
    "Cross-modal: recall": {"I→T R@1": "i2t_r@1", "T→I R@1": "t2i_r@1", "R-mean": "r_mean"},
    "Single-modal: NDCG@10": {"I→I": "i2i_ndcg@10", "T→T": "t2t_ndcg@10"},
    "Mixed: NDCG@10": {"I→IT": "i2it_ndcg@10", "T→IT": "t2it_ndcg@10"},
}


def save(figure: Figure, output: Path) -> None:
    """Write a figure as PNG, atomically and without naming the software version in it."""
    with files.atomic_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=figure.dpi, metadata={"Software": None})


# --- learning curves ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curves:
    """A training's log, indexed by step."""

    train: pd.DataFrame
    val: pd.DataFrame


def plot_losses(metrics: Mapping[str, Path], output: Path) -> None:
    """Plot the loss terms and the val R-mean of every run as small multiples of equal vertical axes.

    metrics: name of the run -> its `metrics.jsonl`. Raises UserError naming a file that is none, or that is not of the
    training beside it.
    """
    if not metrics:
        raise UserError("no training logs given; name at least one metrics.jsonl")
    for path in metrics.values():
        records.check_metrics(path)
    curves = {run: _read_curves(path) for run, path in metrics.items()}
    columns = 2 if len(curves) == 4 else min(len(curves), 3)
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(max(4.3 * columns, 6.6), 3.8 * rows + 0.8), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    grid = figure.add_gridspec(rows, columns)
    score_limit = 1.22 * max(max(one.val[SELECTED_BY].max() for one in curves.values()), 1.0)
    lowest, highest = _loss_range(list(curves.values()))
    for index, (run, one) in enumerate(curves.items()):
        cell = grid[index // columns, index % columns].subgridspec(2, 1, height_ratios=(2, 1))
        losses, score = cell.subplots(sharex=True)
        losses.set_title(run, fontsize=11, fontweight="bold", loc="left")
        _draw_losses(losses, one.train, lowest, highest)
        _draw_score(score, one.val, score_limit)
        if index + columns >= len(curves):
            score.set_xlabel("step")
        if index % columns == 0:
            losses.set_ylabel("train loss")
            score.set_ylabel("val R-mean, %")
    shown = [term for term in TERMS if any(term in one.train for one in curves.values())]
    handles = [Line2D([], [], color=_term_colour(term), lw=2.2, label=term) for term in shown]
    handles.insert(0, Line2D([], [], color="black", lw=2.2, label="loss (weighted sum)"))
    handles.append(Line2D([], [], color="black", marker="o", lw=0, label="step whose weights were kept"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=10)
    save(figure, output)


def named_by_folder(metrics: Sequence[Path]) -> dict[str, Path]:
    """The training logs by the names of their folders. Raises UserError if two have the same."""
    named: dict[str, Path] = {}
    for path in metrics:
        other = named.setdefault(path.absolute().parent.name, path)
        if other is not path:
            raise UserError(f"{other} and {path} are both named {path.absolute().parent.name!r}; give one")
    return named


def _read_curves(path: Path) -> _Curves:
    rows: dict[str, list[dict[str, float]]] = {"train": [], "val": []}
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                    rows[row.pop("kind")].append({"step": row["step"], **row})
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                    raise UserError(
                        f"{path}: line {number}: no line of a training log, which is an object with step and kind, "
                        f"train or val; found {show(line.strip())}; give the metrics.jsonl of a training"
                    ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the training first") from None
    for kind, needed in (("train", "loss"), ("val", SELECTED_BY)):
        if not rows[kind] or needed not in rows[kind][0]:
            raise UserError(f"{path}: no {kind} line with {needed!r}; run the training again")
    return _Curves(*(pd.DataFrame(rows[kind]).set_index("step") for kind in ("train", "val")))


def _loss_range(curves: list[_Curves]) -> tuple[float, float]:
    """Limits of a logarithmic axis that holds all smoothed terms and most of the raw ones."""
    values = pd.concat([one.train[name] for one in curves for name in ("loss", *TERMS) if name in one.train])
    positive = values[values > 0]
    if positive.empty:
        return 0.1, 1.0
    return positive.quantile(0.002) / 1.3, positive.max() * 1.3


def _term_colour(term: str) -> str:
    return TERM_COLOURS[TERMS.index(term)]


def _smooth(values: pd.Series) -> pd.Series:
    """Centred mean over a twenty-fifth of the run, shorter at the ends."""
    return values.rolling(max(1, len(values) // 25), center=True, min_periods=1).mean()


def _draw_losses(axes: Axes, train: pd.DataFrame, lowest: float, highest: float) -> None:
    """Every term, smoothed over its faint raw line; the total is wider, to show behind an only term."""
    colours = {"loss": "black", **{term: _term_colour(term) for term in TERMS if term in train}}
    for term, colour in colours.items():
        axes.plot(train.index, train[term], color=colour, lw=0.6, alpha=0.3)
        axes.plot(train.index, _smooth(train[term]), color=colour, lw=2.8 if term == "loss" else 1.6)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(lowest, highest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest / lowest > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_score(axes: Axes, val: pd.DataFrame, limit: float) -> None:
    """R-mean on val; the best one is what the run kept."""
    score = val[SELECTED_BY]
    best = score.idxmax()
    axes.plot(score.index, score, color="#444444", lw=1.6, marker=".", ms=5)
    axes.plot([best], [score[best]], color="black", marker="o", ms=6)
    axes.annotate(
        f"{score[best]:.1f}",
        (best, score[best]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=9,
    )
    axes.margins(x=0.04)
    axes.set_ylim(0, limit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


# --- three-way bars -----------------------------------------------------------------------------------------


def plot_three_ways(results: Results, output: Path) -> None:
    """Plot recall, single-modal and mixed NDCG of every run as bars with standard deviations over seeds.

    Raises UserError if the results lack the protocol `corrected`.
    """
    if PROTOCOL not in results.scores:
        found = ", ".join(results.scores)
        raise UserError(f"the evaluations have no protocol {PROTOCOL!r}, only {found}; run the evaluate stage again")
    unit = 0.245 * len(results.runs) + 0.42  # height of one group of bars; all lengths are inches
    left, right, top, bottom, gap = 0.95, 0.2, 0.9, 0.4, 0.8
    width = (BARS_WIDTH - left - right - 2 * gap) / len(PANELS)
    height = top + unit * max(map(len, PANELS.values())) + bottom
    figure = Figure(figsize=(BARS_WIDTH, height), dpi=DPI)
    for index, (title, columns) in enumerate(PANELS.items()):
        tall, x = unit * len(columns), left + index * (width + gap)
        box = (x / BARS_WIDTH, 1 - (top + tall) / height, width / BARS_WIDTH, tall / height)
        _draw_panel(figure.add_axes(box), title, columns, results)
    spread = "mean and standard deviation over seeds" if len(results.all_seeds) > 1 else "one seed"
    headline = (
        f"Three-way retrieval, {results.split} split, protocol {PROTOCOL}: {results.counts.images:,} images, "
        f"{results.counts.captions:,} captions; {spread}"
    )
    figure.text(left / BARS_WIDTH, 1 - 0.15 / height, headline, fontsize=12, va="top")
    figure.legend(
        handles=[Patch(**_bar_style(run, results), label=run) for run in results.runs],
        loc="lower left",  # below the shorter panels
        bbox_to_anchor=((left + width + gap) / BARS_WIDTH, 0.1 / height),
        ncols=2 if max(map(len, results.runs)) <= 36 else 1,
        frameon=False,
        fontsize=11,
        borderaxespad=0,
    )
    save(figure, output)


def _bar_style(run: str, results: Results) -> dict[str, str | None]:
    """Grey for untrained models, colours for the others; where they repeat, a hatch tells them apart."""
    untrained = not is_trained(run)
    palette = (UNTRAINED,) if untrained else RUN_COLOURS
    alike = [name for name in results.runs if is_trained(name) != untrained]
    turn, colour = divmod(alike.index(run), len(palette))
    return {"facecolor": palette[colour], "edgecolor": "white", "hatch": HATCHES[turn % len(HATCHES)]}


def _draw_panel(axes: Axes, title: str, columns: dict[str, str], results: Results) -> None:
    runs, scores = results.runs, results.scores[PROTOCOL]
    step = 1 / (len(runs) + 1.2)
    furthest = max(scores[run][m].mean + (scores[run][m].std or 0) for run in runs for m in columns.values())
    limit = 1.3 * max(furthest, 1.0)
    for group, metric in enumerate(columns.values()):
        for index, run in enumerate(runs):
            score = scores[run][metric]
            y = group + (index - (len(runs) - 1) / 2) * step
            axes.barh(y, score.mean, height=step * 0.92, **_bar_style(run, results), linewidth=0)
            if score.std is not None:
                axes.errorbar(score.mean, y, xerr=score.std, color="black", elinewidth=1, capsize=2)
            axes.text(score.mean + (score.std or 0) + limit * 0.015, y, str(score), va="center", fontsize=9)
    axes.set_title(f"{title}, %", fontsize=11, fontweight="bold", loc="left")
    axes.set_yticks(range(len(columns)), list(columns), fontsize=11)
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_xlim(0, limit)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= min(limit, 100)])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
