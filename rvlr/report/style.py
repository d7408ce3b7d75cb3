"""How figures look: resolution, colours, axes. How figures are saved: as PNG, the same bytes every time."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvlr import files

DPI = 150
# Paul Tol's "bright" scheme, with an orange and his indigo, and the scheme of Okabe and Ito: colour-blind readers can
# distinguish the colours of both
TERM_COLOURS = ("#4477AA", "#EE6677", "#228833", "#BBA820", "#33A9D6", "#AA3377", "#888888", "#D95F02", "#332288")
RUN_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
UNTRAINED = "#B8B8B8"
HATCHES = (None, "////", "....")
GREEN, RED, INK, GREY, RULE = "#009E73", "#D55E00", "#1A1A1A", "#666666", "#D0D0D0"


def set_title(axes: Axes, title: str) -> None:
    """Put a title above the left end of a panel."""
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")


def clear_frame(axes: Axes) -> None:
    """Remove the lines at the top and at the right of a panel."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, output: Path) -> None:
    """Write a figure as PNG, completely or not at all. The file does not contain the version of Matplotlib."""
    with files.atomic_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=figure.dpi, metadata={"Software": None})
