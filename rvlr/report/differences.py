"""Figure of the differences between runs: every headline metric with its 95 % interval.

Input: `Results` with at least two trained runs. Output: one PNG.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from rvlr.errors import UserError
from rvlr.evaluation.headlines import HEADLINES
from rvlr.report import style
from rvlr.report.compare import Comparison, Difference
from rvlr.report.intervals import LEVEL
from rvlr.report.results import PROTOCOL, Results

METRICS = {name: metric for columns in HEADLINES for name, metric in columns.items()}
LIST_OF = {"ndcg@10": " NDCG@10"}  # what the short names of the lists leave out
MARKERS = ("o", "s", "D")  # of the runs that share a colour
WIDTH, ROW, GAP = 9.0, 0.23, 0.22  # of the figure, of a run, and between metrics, in inches


def plot_differences(results: Results, output: Path) -> None:
    """Plot the difference of each trained run from the reference, one group of runs a metric, one colour a run.

    Filled: the difference is significant after the adjustment for the number of comparisons. Raises UserError if there
    is nothing to compare, or as `Results.comparisons`.
    """
    compared = results.comparisons
    if not compared:
        raise UserError(
            f"nothing to compare: a difference needs two trained runs with protocol {PROTOCOL!r}, found "
            f"{', '.join(results.runs)}; give the evaluations of two"
        )
    group = ROW * len(compared) + GAP
    legend = 0.25 * -(-(len(compared) + 1) // 2)
    figure = Figure(
        figsize=(WIDTH, 1.3 + group * len(METRICS) + legend),
        dpi=style.DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    axes = figure.subplots()
    for index, metric in enumerate(METRICS.values()):
        if index % 2:
            axes.axhspan(index * group - group / 2, index * group + group / 2, color=style.RULE, alpha=0.3, lw=0)
        for turn, one in enumerate(compared):
            y = index * group + (turn - (len(compared) - 1) / 2) * ROW
            _draw(axes, y, one.differences[metric], *_look(one, results))
    axes.axvline(0, color=style.INK, lw=1)
    axes.set_yticks(
        [index * group for index in range(len(METRICS))],
        [name + LIST_OF.get(metric.partition("_")[2], "") for name, metric in METRICS.items()],
        fontsize=11,
    )
    axes.set_ylim((len(METRICS) - 0.5) * group, -group / 2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"percentage points, protocol {PROTOCOL}; 95 % interval over {_over(compared)}")
    style.clear_frame(axes)
    style.set_title(axes, f"Run minus {compared[0].reference}")
    handles = [_handle(*_look(one, results), label=one.run) for one in compared]
    handles.append(_handle(style.GREY, "o", label=f"filled: p (Holm) < {LEVEL:g}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=10)
    style.save(figure, output)


def _look(one: Comparison, results: Results) -> tuple[str, str]:
    """The colour of a run, as in the figure of the three ways, and its marker."""
    turn, colour = divmod(
        [run for run in results.runs if results.is_trained(run)].index(one.run), len(style.RUN_COLOURS)
    )
    return style.RUN_COLOURS[colour], MARKERS[turn % len(MARKERS)]


def _draw(axes: Axes, y: float, found: Difference, colour: str, marker: str) -> None:
    """Draw a difference with its interval, and both as text at the right edge."""
    clear = found.holm is not None and found.holm < LEVEL
    axes.plot([found.low, found.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
    face = colour if clear else "white"
    axes.plot(found.value, y, marker=marker, ms=6, markerfacecolor=face, markeredgecolor=style.INK, markeredgewidth=0.8)
    text = f"{found.value:+z.1f} ({found.low:+z.1f} to {found.high:+z.1f})"
    axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)


def _handle(colour: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, ms=6, lw=2.2, markeredgecolor=style.INK, label=label)


def _over(compared: list[Comparison]) -> str:
    """What the intervals cover, in words."""
    covers = ["images"]
    several = ["seeds" in one.covers for one in compared]
    if any(several):
        covers.append("seeds" if all(several) else "seeds (where several)")
    if "splits" in compared[0].covers:
        covers.append("splits")
    return f"{', '.join(covers[:-1])} and {covers[-1]}" if len(covers) > 1 else covers[0]
