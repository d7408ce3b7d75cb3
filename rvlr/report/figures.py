"""Figures of all runs: learning curves, and bars of the three ways of retrieval.

Input: `metrics.jsonl` of trainings, and `Results` of evaluations. Output: one PNG per call.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from pydantic import BaseModel, ValidationError

from rvlr import config
from rvlr.errors import UserError, show
from rvlr.evaluation.headlines import HEADLINES
from rvlr.report import consistency, style
from rvlr.report.results import PROTOCOL, Results

SELECTED_BY = {"balanced": "val balanced, %", "r_mean": "val R-mean, %"}
"""The scores on val that may select weights, the first that a log has, and what the axis is called."""
BARS_WIDTH = 12.5
TERMS = tuple(config.StudentWeights.model_fields)
PANELS = dict(zip(("Cross-modal: recall", "Single-modal: NDCG@10", "Mixed: NDCG@10"), HEADLINES, strict=True))


# --- learning curves ----------------------------------------------------------------------------------------


class _Line(BaseModel, strict=True, extra="allow"):
    """A line of `metrics.jsonl`: the values of a training step or of a validation."""

    kind: Literal["train", "val"]
    step: int
    __pydantic_extra__: dict[str, float]


@dataclass(frozen=True)
class _Curves:
    """The values in the log of a training: one row per step, one column per value."""

    train: pd.DataFrame
    val: pd.DataFrame

    @property
    def selected_by(self) -> str:
        """The name of the score that selected the weights."""
        return next(name for name in SELECTED_BY if name in self.val)

    @property
    def score(self) -> "pd.Series[float]":
        """That score at each validation."""
        return self.val[self.selected_by]


def plot_losses(metrics: Mapping[str, Sequence[Path]], output: Path) -> None:
    """Plot the loss terms of every run and the score on val that selected its weights, one panel per run, with the
    trainings of all seeds. All panels have the same vertical axes.

    metrics: name of the run -> the `metrics.jsonl` of each seed. Raises UserError naming a file that is not a training
    log, or that does not belong to the training beside it.
    """
    if not metrics:
        raise UserError("no training logs given; name at least one metrics.jsonl")
    for path in (path for paths in metrics.values() for path in paths):
        consistency.check_metrics(path)
    curves = {run: [_read_curves(path) for path in paths] for run, paths in metrics.items()}
    every = [one for seeds in curves.values() for one in seeds]
    columns = 2 if len(curves) == 4 else min(len(curves), 3)
    rows = math.ceil(len(curves) / columns)
    figure = Figure(
        figsize=(max(4.3 * columns, 6.6), 3.8 * rows + 0.8),
        dpi=style.DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    grid = figure.add_gridspec(rows, columns)
    score_limit = 1.22 * max(1.0, *(one.score.max() for one in every))
    lowest, highest = _loss_range([one.train for one in every])
    for index, (run, seeds) in enumerate(curves.items()):
        cell = grid[index // columns, index % columns].subgridspec(2, 1, height_ratios=(2, 1))
        losses, score = cell.subplots(sharex=True, squeeze=False)[:, 0]
        style.set_title(losses, run if len(seeds) == 1 else f"{run}, {len(seeds)} seeds")
        _draw_losses(losses, [one.train for one in seeds], lowest, highest)
        _draw_score(score, [one.score for one in seeds], score_limit)
        if index + columns >= len(curves):
            score.set_xlabel("step")
        if index % columns == 0:
            losses.set_ylabel("train loss")
        if index % columns == 0 or seeds[0].selected_by != "r_mean":
            score.set_ylabel(SELECTED_BY[seeds[0].selected_by])
    shown = [term for term in TERMS if any(term in one.train for one in every)]
    handles = [Line2D([], [], color=_term_colour(term), lw=2.2, label=term) for term in shown]
    handles.insert(0, Line2D([], [], color="black", lw=2.2, label="loss (weighted sum)"))
    handles.append(Line2D([], [], color="black", marker="o", lw=0, label="step whose weights were kept"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=10)
    style.save(figure, output)


def named_by_folder(metrics: Sequence[Path]) -> dict[str, list[Path]]:
    """The training logs by the names of their folders, each of several seeds. Raises UserError if two of the same name
    do not lie in folders of different seeds."""
    named: dict[str, dict[str, Path]] = {}
    for path in metrics:
        folder = path.absolute().parent
        seeds = named.setdefault(folder.name, {})
        # without such a folder above it, a log is the only one of its name
        seed = folder.parent.name if consistency.SEED.fullmatch(folder.parent.name) else ""
        for known, other in seeds.items():
            if seed in ("", known) or not known:
                raise UserError(f"{other} and {path} are both named {folder.name!r}; give one")
        seeds[seed] = path
    return {name: [*seeds.values()] for name, seeds in named.items()}


def _read_curves(path: Path) -> _Curves:
    rows: dict[str, list[dict[str, float]]] = {"train": [], "val": []}
    try:
        with path.open(encoding="utf-8") as stream:
            for number, text in enumerate(stream, 1):
                try:
                    line = _Line.model_validate_json(text)
                except ValidationError:
                    raise UserError(
                        f"{path}: line {number}: not a line of a training log, which is an object with step and kind, "
                        f"train or val; found {show(text.strip())}; give the metrics.jsonl of a training"
                    ) from None
                rows[line.kind].append({"step": line.step, **line.__pydantic_extra__})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the training first") from None
    for kind, needed in (("train", "loss"), ("val", "r_mean")):
        if not rows[kind] or needed not in rows[kind][0]:
            raise UserError(f"{path}: no {kind} line with {needed!r}; run the training again")
    return _Curves(*(pd.DataFrame(rows[kind]).set_index("step") for kind in ("train", "val")))


def _loss_range(trains: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """The limits of a logarithmic axis that shows all smoothed terms and most of the raw terms."""
    values = pd.concat([train[name] for train in trains for name in ("loss", *TERMS) if name in train])
    positive = values[values > 0]
    return (0.1, 1.0) if positive.empty else (positive.quantile(0.002) / 1.3, positive.max() * 1.3)


def _term_colour(term: str) -> str:
    return style.TERM_COLOURS[TERMS.index(term)]


def _draw_losses(axes: Axes, trains: Sequence[pd.DataFrame], lowest: float, highest: float) -> None:
    """Draw each term smoothed, by the centred mean over 1/25 of the run, and in faint lines what that hides: of one
    seed the term as measured, of several the smoothed term of each, whose mean is the strong line.

    The line of the total is wider, so that it stays visible behind the line of a single term."""
    colours = {"loss": "black", **{term: _term_colour(term) for term in TERMS if term in trains[0]}}
    for term, colour in colours.items():
        smooth = [train[term].rolling(max(1, len(train) // 25), center=True, min_periods=1).mean() for train in trains]
        for faint in smooth if len(trains) > 1 else [trains[0][term]]:
            axes.plot(faint.index, faint, color=colour, lw=0.6, alpha=0.3 if len(trains) == 1 else 0.55)
        mean = _mean(smooth)
        axes.plot(mean.index, mean, color=colour, lw=2.8 if term == "loss" else 1.6)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(lowest, highest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest / lowest > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    style.clear_frame(axes)


def _mean(seeds: "Sequence[pd.Series[float]]") -> "pd.Series[float]":
    """The mean of a value over seeds, at the steps that all of them have: a training may stop early."""
    return pd.concat(seeds, axis=1, join="inner").mean(axis=1)


def _draw_score(axes: Axes, scores: "Sequence[pd.Series[float]]", limit: float) -> None:
    """Draw a score on val, a line a seed, and mark each best value, whose weights the training kept."""
    alone = len(scores) == 1
    for score in scores:
        best = int(score.argmax())
        step, highest = score.index[best], score.iloc[best]
        axes.plot(score.index, score, color="#444444", lw=1.6 if alone else 0.8, marker=".", ms=5 if alone else 3)
        axes.plot([step], [highest], color="black", marker="o", ms=6 if alone else 4.5)
        if score is max(scores, key=lambda one: one.max()):
            label, above = f"{highest:.1f}", (0, 6)
            axes.annotate(label, (step, highest), above, textcoords="offset points", ha="center", fontsize=9)
    axes.margins(x=0.04)
    axes.set_ylim(0, limit)
    axes.grid(alpha=0.25)
    style.clear_frame(axes)


# --- three-way bars -----------------------------------------------------------------------------------------


class _BarStyle(TypedDict):
    facecolor: str
    edgecolor: str
    hatch: str | None


def plot_three_ways(results: Results, output: Path) -> None:
    """Plot recall, single-modal NDCG and mixed NDCG of every run as bars, with 95 % intervals.

    Raises UserError if the results lack the protocol `corrected`, or as `Results.intervals`.
    """
    if PROTOCOL not in results.scores:
        found = ", ".join(results.scores)
        raise UserError(f"the evaluations have no protocol {PROTOCOL!r}, only {found}; run the evaluate stage again")
    unit = 0.245 * len(results.runs) + 0.42  # height of one group of bars; all lengths are inches
    left, right, top, bottom, gap = 0.95, 0.2, 0.9, 0.4, 0.8
    width = (BARS_WIDTH - left - right - 2 * gap) / len(PANELS)
    height = top + unit * max(map(len, PANELS.values())) + bottom
    figure = Figure(figsize=(BARS_WIDTH, height), dpi=style.DPI)
    for index, (title, columns) in enumerate(PANELS.items()):
        tall, x = unit * len(columns), left + index * (width + gap)
        box = (x / BARS_WIDTH, 1 - (top + tall) / height, width / BARS_WIDTH, tall / height)
        _draw_panel(figure.add_axes(box), title, columns, results)
    averaged = f"mean ± standard deviation over {results.averaged}" if results.averaged else "one seed"
    headline = (
        f"Three-way retrieval on {results.where}, protocol {PROTOCOL}: {results.counts.images:,} images, "
        f"{results.counts.captions:,} captions; {averaged}; lines: 95 % intervals"
    )
    figure.text(left / BARS_WIDTH, 1 - 0.15 / height, headline, fontsize=12, va="top")
    figure.legend(
        handles=[Patch(**_bar_style(run, results), label=_label(run, results)) for run in results.runs],
        loc="lower left",  # below the shorter panels
        bbox_to_anchor=((left + width + gap) / BARS_WIDTH, 0.1 / height),
        ncols=2 if max(len(_label(run, results)) for run in results.runs) <= 36 else 1,
        frameon=False,
        fontsize=11,
        borderaxespad=0,
    )
    style.save(figure, output)


def _label(run: str, results: Results) -> str:
    """The name of a run, and how many seeds it has if it lacks some."""
    seeds = f" ({len(results.seeds[run])} of {len(results.all_seeds)} seeds)" if run in results.missing else ""
    return f"{run}{seeds}"


def _bar_style(run: str, results: Results) -> _BarStyle:
    """Colours for trained models, grey for all others. Runs that share a colour have different hatches."""
    palette = style.RUN_COLOURS if results.is_trained(run) else (style.UNTRAINED,)
    alike = [name for name in results.runs if results.is_trained(name) == results.is_trained(run)]
    turn, colour = divmod(alike.index(run), len(palette))
    hatch = style.HATCHES[turn % len(style.HATCHES)]
    return {"facecolor": palette[colour], "edgecolor": "white", "hatch": hatch}


def _end(results: Results, run: str, metric: str) -> float:
    """Where the bar and its interval end."""
    high = results.intervals[run][metric][1] if run in results.intervals else 0.0
    return max(results.scores[PROTOCOL][run][metric].mean, min(high, 100.0))


def _draw_panel(axes: Axes, title: str, columns: Mapping[str, str], results: Results) -> None:
    runs, scores = results.runs, results.scores[PROTOCOL]
    step = 1 / (len(runs) + 1.2)
    furthest = max(_end(results, run, m) for run in runs for m in columns.values() if m in scores[run])
    limit = 1.3 * max(min(furthest, 100.0), 1.0)
    for group, metric in enumerate(columns.values()):
        for index, run in enumerate(runs):
            score = scores[run].get(metric)
            if score is None:  # of raw features
                continue
            y = group + (index - (len(runs) - 1) / 2) * step
            axes.barh(y, score.mean, height=step * 0.92, linewidth=0, **_bar_style(run, results))
            if run in results.intervals:
                low, high = results.intervals[run][metric]
                axes.errorbar(
                    score.mean,
                    y,
                    xerr=[[max(score.mean - max(low, 0), 0)], [max(min(high, 100) - score.mean, 0)]],
                    color="black",
                    elinewidth=1,
                    capsize=2,
                )
            axes.text(_end(results, run, metric) + limit * 0.015, y, str(score), va="center", fontsize=9)
    style.set_title(axes, f"{title}, %")
    axes.set_yticks(range(len(columns)), list(columns), fontsize=11)
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_xlim(0, limit)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= min(limit, 100)])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    style.clear_frame(axes)
