"""Sheets of retrieved examples: what a model found for a few queries, as pictures.

Enters: `eval/rankings.npz` of a run and the split it ranks. Leaves: one PNG per call, the same bytes every time. The
queries are evenly spaced over the split, whatever the model made of them; nothing is picked by success.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Affine2D
from PIL import Image

from rvlr.data.images import load_image
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.evaluation.rankings import read_lists
from rvlr.report.style import DPI, GREEN, GREY, INK, RED, RULE, save

# lengths are pixels, font sizes are points
WIDTH, MARGIN, LEFT, GAP = 1800, 45, 390, 50
IMAGES, CAPTIONS = 6, 5
RIGHT = LEFT + GAP
SPACING = 22
BOX = (WIDTH - 2 * MARGIN - RIGHT - (IMAGES - 1) * SPACING) // IMAGES
FRAME, INDENT = 7, 38
PIXELATED = 2  # from this enlargement on, a picture is a rendered one, whose pixels stay sharp squares

Marks = Sequence[bool | None]


# --- what is shown ------------------------------------------------------------------------------------------


def draw_cross_modal(rankings: Path, split: Split, queries: int, output: Path, title: str) -> None:
    """Draw text to image and image to text for some queries of each.

    rankings: `eval/rankings.npz` of a run on `split`; title: names the run. Raises UserError if `queries` is below
    1, if the file is not readable, or if it ranks another split.
    """
    ranked = read_lists(rankings, split, ("t2i", "i2t"))
    page = _begin(
        f"{title}: cross-modal retrieval",
        f"{split.name} split, queries evenly spaced over it, not picked by success. "
        "✓: belongs to the query's image; ✗: does not. Best match first.",
    )
    _heading(page, "Text → image")
    for query, found in _chosen(ranked["t2i"], queries):
        own = split.caption_image[query]
        note = _rank_note("right image", np.flatnonzero(found == own), len(found))
        marks = [index == own for index in found[:IMAGES]]
        _row(page, _query_text(split, query, note), _pictures(split, found[:IMAGES], marks))
    _heading(page, "Image → text")
    for query, found in _chosen(ranked["i2t"], queries):
        right = split.caption_image[found] == query
        note = _rank_note("first right caption", np.flatnonzero(right), len(found))
        _row(page, _query_picture(split, query, note), _listed(split, found[:CAPTIONS], list(right[:CAPTIONS])))
    _write(page, output)


def draw_single_modal(rankings: Path, split: Split, queries: int, output: Path, title: str) -> None:
    """Draw image to image and text to text for some queries of each.

    Arguments and errors are those of `draw_cross_modal`.
    """
    ranked = read_lists(rankings, split, ("i2i", "t2t"))
    page = _begin(
        f"{title}: single-modal retrieval",
        f"{split.name} split, queries evenly spaced over it, not picked by success. Best match first; the query "
        "itself is left out.",
    )
    _heading(
        page, "Image → image", "Below each image its first caption. Likeness has degrees: nothing is right or wrong."
    )
    for query, found in _chosen(ranked["i2i"], queries):
        _row(page, _query_picture(split, query, _first_caption(split, query)), _pictures(split, found[:IMAGES]))
    _heading(page, "Text → text", "✓: caption of the same image. Others may fit as well.")
    for query, found in _chosen(ranked["t2t"], queries):
        same = split.caption_image[found[:CAPTIONS]] == split.caption_image[query]
        _row(page, _query_text(split, query), _listed(split, found[:CAPTIONS], [True if one else None for one in same]))
    _write(page, output)


def _chosen(ranked: tuple[np.ndarray, np.ndarray], queries: int) -> Iterator[tuple[int, np.ndarray]]:
    """The queries to show, evenly spaced over all, each with what was found for it."""
    if queries < 1:
        raise UserError(f"{queries} queries leave nothing to draw; set evaluation.queries_shown to 1 or more")
    query, found = ranked
    shown = min(queries, len(query))
    for number in range(shown):
        row = (2 * number + 1) * len(query) // (2 * shown)
        yield int(query[row]), found[row]


def _first_caption(split: Split, image: int) -> str:
    return split.records[image].captions[0]


def _rank_note(what: str, hits: np.ndarray, depth: int) -> str:
    return f"{what}: rank {hits[0] + 1}" if len(hits) else f"{what}: beyond rank {depth}"


# --- blocks of a page ---------------------------------------------------------------------------------------


class _Block:
    """Pieces with their places, as pixels rightwards and downwards from the top left corner."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, float, np.ndarray | Text | Rectangle]] = []
        self.height = 0.0

    def add(self, x: float, y: float, block: "_Block") -> None:
        """Place another block in this one."""
        self.pieces += [(x + dx, y + dy, piece) for dx, dy, piece in block.pieces]
        self.height = max(self.height, y + block.height)


def _begin(title: str, note: str) -> _Block:
    page = _Block()
    page.add(MARGIN, MARGIN, _text(title, 16, WIDTH - 2 * MARGIN, 1, weight="bold"))
    page.add(MARGIN, page.height + 8, _text(note, 10, WIDTH - 2 * MARGIN, 2, GREY))
    return page


def _heading(page: _Block, title: str, note: str = "") -> None:
    page.add(MARGIN, page.height + 40, _text(title, 13, WIDTH - 2 * MARGIN, 1, weight="bold"))
    if note:
        page.add(MARGIN, page.height + 4, _text(note, 10, WIDTH - 2 * MARGIN, 1, GREY))


def _row(page: _Block, left: _Block, right: _Block) -> None:
    """A query and what was found, side by side below a rule."""
    rule = _Block()
    line = Rectangle((0, 0), WIDTH - 2 * MARGIN, 1, facecolor=RULE, edgecolor="none")
    rule.pieces.append((MARGIN, page.height + 14, line))
    page.add(0, 0, rule)
    top = page.height + 34
    height = max(left.height, right.height)
    page.add(MARGIN, top + (height - left.height) / 2, left)
    page.add(MARGIN + RIGHT, top + (height - right.height) / 2, right)


def _query_text(split: Split, caption: int, note: str = "") -> _Block:
    block = _text(f"“{split.captions[caption]}”", 11.5, LEFT, 7)
    if note:
        block.add(0, block.height + 8, _text(note, 10, LEFT, 1, GREY))
    return block


def _query_picture(split: Split, image: int, note: str) -> _Block:
    block = _picture(split, image, LEFT - 60, BOX + 40, None)
    block.add(0, block.height + 8, _text(note, 10, LEFT, 3, GREY))
    return block


def _pictures(split: Split, images: Sequence[int], marks: Marks | None = None) -> _Block:
    """Images in a row; with marks in frames that say which are right, without in plain ones over their captions."""
    row = _Block()
    pictures = [
        _picture(split, image, BOX, BOX, mark)
        for image, mark in zip(images, marks or [None] * len(images), strict=True)
    ]
    bottom = max(picture.height for picture in pictures)
    for number, (image, picture) in enumerate(zip(images, pictures, strict=True)):
        x = number * (BOX + SPACING)
        row.add(x, bottom - picture.height, picture)
        if marks is None:
            row.add(x, bottom + 6, _text(_first_caption(split, image), 8.5, BOX, 4, GREY))
        else:  # frames alone do not tell the colour-blind
            row.add(x, bottom + 2, _mark(marks[number]))
    return row


def _mark(right: bool) -> _Block:
    return _text("✓" if right else "✗", 11.5, BOX, 1, GREEN if right else RED, weight="bold")


def _listed(split: Split, captions: Sequence[int], marks: Marks) -> _Block:
    """Captions one below the other, each with its mark, if it has one."""
    rows = _Block()
    for caption, mark in zip(captions, marks, strict=True):
        top = rows.height + (9 if rows.pieces else 0)
        if mark is not None:
            rows.add(0, top, _mark(mark))
        width = WIDTH - 2 * MARGIN - RIGHT - INDENT
        rows.add(INDENT, top, _text(split.captions[caption], 11.5, width, 2, GREEN if mark else INK))
    return rows


def _picture(split: Split, image: int, width: int, height: int, mark: bool | None) -> _Block:
    """An image within width x height, its frame included: green if right, red if wrong, thin if neither."""
    frame = 1 if mark is None else FRAME
    pixels = _fit(load_image(split.path(image)), width - 2 * frame, height - 2 * frame)
    colour = RULE if mark is None else GREEN if mark else RED
    block = _Block()
    block.height = pixels.shape[0] + 2 * frame
    outline = Rectangle((0, 0), pixels.shape[1] + 2 * frame, block.height, facecolor=colour, edgecolor="none")
    block.pieces += [(0, 0, outline), (frame, frame, pixels)]
    return block


def _fit(image: Image.Image, width: int, height: int) -> np.ndarray:
    """An image as uint8 (rows, columns, 3), as large as fits into width x height."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if scale >= PIXELATED:
        whole = math.ceil(scale)
        image = image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


# --- text ---------------------------------------------------------------------------------------------------


def _text(text: str, size: float, width: float, most: int, colour: str = INK, weight: str = "normal") -> _Block:
    """Text wrapped at `width` pixels, at most so many lines; what does not fit ends in an ellipsis."""
    block = _Block()
    em = size * DPI / 72
    for number, line in enumerate(_wrap(text, size, width, most, weight)):
        piece = Text(text=line, fontsize=size, color=colour, fontweight=weight, parse_math=False)
        block.pieces.append((0, number * 1.3 * em + em, piece))
        block.height = (number + 1) * 1.3 * em
    return block


def _wrap(text: str, size: float, width: float, most: int, weight: str) -> list[str]:
    lines: list[str] = []
    for word in re.findall(r"\S+(?: [.,;:!?](?!\S))*", text):  # a lone full stop stays with its word
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]}…"]
    return [_cut(line, size, width, weight) for line in lines]


def _cut(line: str, size: float, width: float, weight: str) -> str:
    while _width(line, size, weight) > width:
        line = f"{line.removesuffix('…')[:-1].rstrip()}…"
    return line


@cache
def _width(text: str, size: float, weight: str) -> float:
    """Pixels; 2 % more than the outlines need, because hinting may widen them."""
    font = FontProperties(size=size, weight=weight)
    return 1.02 * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * DPI / 72


def _write(page: _Block, output: Path) -> None:
    height = 75 * math.ceil((page.height + MARGIN) / 75)  # half inches are exact, so that no pixel is rounded off
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
    downwards = Affine2D().scale(1, -1).translate(0, height)
    for order, (x, y, piece) in enumerate(page.pieces):
        x, y = round(x), round(y)
        if isinstance(piece, np.ndarray):
            figure.figimage(piece, xo=x, yo=height - y - len(piece), origin="upper", zorder=order)
            continue
        if isinstance(piece, Text):
            piece.set_position((x, y))
        else:
            piece.set_xy((x, y))
            piece.set_antialiased(False)
        piece.set_zorder(order)
        piece.set_transform(downwards)
        figure.add_artist(piece)
    save(figure, output)
