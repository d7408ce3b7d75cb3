"""Sheets of retrieved examples: what a model found for a few queries, as pictures.

Input: `eval/rankings.npz` of a run, and the split that it ranks. Output: one PNG per call, the same bytes every time.
The queries are evenly spaced over the split, independent of what the model found. A block is an image with a white
background; a sheet is put together from blocks.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rvlr import files
from rvlr.data.images import load_image
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.evaluation.rankings import read_lists
from rvlr.report.style import DPI, GREEN, GREY, INK, RED, RULE

# lengths are pixels, font sizes are points
WIDTH, MARGIN, LEFT, GAP = 1800, 45, 390, 50
IMAGES, CAPTIONS = 6, 5
RIGHT = LEFT + GAP
SPACING = 22
BOX = (WIDTH - 2 * MARGIN - RIGHT - (IMAGES - 1) * SPACING) // IMAGES
FRAME, INDENT = 7, 38
PIXELATED = 2  # a picture that is enlarged so much or more is a rendered one, whose pixels stay sharp squares

Block = Image.Image


# --- what is shown ------------------------------------------------------------------------------------------


def draw_cross_modal(rankings: Path, split: Split, queries: int, output: Path, run: str) -> None:
    """Draw text to image and image to text for some queries of each.

    rankings: `eval/rankings.npz` of `run` on `split`. Raises UserError if `queries` is below 1, if the file is not
    readable, or if the file ranks another split.
    """
    ranked = read_lists(rankings, split, ("t2i", "i2t"))
    page = _head(
        f"{run}: cross-modal retrieval",
        f"{split.name} split, queries evenly spaced over it, not picked by success. "
        "✓: belongs to the query's image; ✗: does not. Best match first.",
    )
    page += _heading("Text → image")
    for query, found in _chosen(ranked["t2i"], queries):
        right = found == split.caption_image[query]
        asked = _query_text(split, query, _rank_note("right image", right))
        page += _row(asked, _pictures(split, found.tolist(), right.tolist()))
    page += _heading("Image → text")
    for query, found in _chosen(ranked["i2t"], queries):
        right = split.caption_image[found] == query
        asked = _query_picture(split, query, _rank_note("first right caption", right))
        page += _row(asked, _captions(split, found.tolist(), right.tolist()))
    _write(page, output)


def draw_single_modal(rankings: Path, split: Split, queries: int, output: Path, run: str) -> None:
    """Draw image to image and text to text for some queries of each.

    Arguments and errors are those of `draw_cross_modal`.
    """
    ranked = read_lists(rankings, split, ("i2i", "t2t"))
    page = _head(
        f"{run}: single-modal retrieval",
        f"{split.name} split, queries evenly spaced over it, not picked by success. Best match first; the query "
        "itself is left out.",
    )
    page += _heading("Image → image", "Below each image its first caption. Similarity has degrees: no image is wrong.")
    for query, found in _chosen(ranked["i2i"], queries):
        asked = _query_picture(split, query, _first_caption(split, query))
        page += _row(asked, _pictures(split, found.tolist(), [None] * len(found)))
    page += _heading("Text → text", "✓: caption of the same image. Other captions may fit as well.")
    for query, found in _chosen(ranked["t2t"], queries):
        same = split.caption_image[found] == split.caption_image[query]
        page += _row(
            _query_text(split, query), _captions(split, found.tolist(), [one or None for one in same.tolist()])
        )
    _write(page, output)


def _chosen(ranked: tuple[np.ndarray, np.ndarray], queries: int) -> Iterator[tuple[int, np.ndarray]]:
    """The queries to show, evenly spaced over all queries, each with the indices of what was found for it."""
    if queries < 1:
        raise UserError(f"{queries} queries leave nothing to draw; set evaluation.queries_shown to 1 or more")
    query, found = ranked
    shown = min(queries, len(query))
    for number in range(shown):
        row = (2 * number + 1) * len(query) // (2 * shown)
        yield int(query[row]), found[row]


def _first_caption(split: Split, image: int) -> str:
    return split.records[image].captions[0]


def _rank_note(what: str, right: np.ndarray) -> str:
    return f"{what}: rank {right.argmax() + 1}" if right.any() else f"{what}: beyond rank {len(right)}"


# --- parts of a page: blocks, each with the gap above it ----------------------------------------------------

Parts = list[tuple[int, Block]]


def _head(title: str, note: str) -> Parts:
    return [
        (MARGIN, _text(title, 16, WIDTH - 2 * MARGIN, 1, bold=True)),
        (8, _text(note, 10, WIDTH - 2 * MARGIN, 2, GREY)),
    ]


def _heading(title: str, note: str = "") -> Parts:
    heading = [(40, _text(title, 13, WIDTH - 2 * MARGIN, 1, bold=True))]
    return [*heading, (4, _text(note, 10, WIDTH - 2 * MARGIN, 1, GREY))] if note else heading


def _row(asked: Block, found: Block) -> Parts:
    """A query beside what was found, below a line."""
    height = max(asked.height, found.height)
    row = _place((0, (height - asked.height) / 2, asked), (RIGHT, (height - found.height) / 2, found))
    return [(14, Image.new("RGB", (WIDTH - 2 * MARGIN, 1), RULE)), (19, row)]


def _write(page: Parts, output: Path) -> None:
    column, margin = _stack(page), Image.new("RGB", (MARGIN, MARGIN), "white")
    sheet = _place((MARGIN, 0, column), (WIDTH - MARGIN, column.height, margin))
    with files.atomic_file(output) as temporary:
        sheet.save(temporary, format="PNG", dpi=(DPI, DPI))


# --- blocks -------------------------------------------------------------------------------------------------


def _place(*pieces: tuple[float, float, Block]) -> Block:
    """Blocks at places: pixels to the right and downwards from the top left corner."""
    placed = [(round(x), round(y), block) for x, y, block in pieces]
    size = max(x + block.width for x, _, block in placed), max(y + block.height for _, y, block in placed)
    whole = Image.new("RGB", size, "white")
    for x, y, block in placed:
        whole.paste(block, (x, y))
    return whole


def _stack(parts: Iterable[tuple[int, Block]]) -> Block:
    """Blocks one below the other, each with a gap above it."""
    pieces, bottom = [], 0
    for gap, block in parts:
        pieces.append((0, bottom + gap, block))
        bottom += gap + block.height
    return _place(*pieces)


def _query_text(split: Split, caption: int, note: str = "") -> Block:
    text = _text(f"“{split.captions[caption]}”", 11.5, LEFT, 7)
    return _stack([(0, text), (8, _text(note, 10, LEFT, 1, GREY))]) if note else text


def _query_picture(split: Split, image: int, note: str) -> Block:
    return _stack([(0, _picture(split, image, LEFT - 60, BOX + 40)), (8, _text(note, 10, LEFT, 3, GREY))])


def _pictures(split: Split, images: Sequence[int], marks: Sequence[bool | None]) -> Block:
    """Images in a row: with a mark, in a frame that shows whether it is right; without, above its first caption."""
    pieces = []
    for number, (image, mark) in enumerate(zip(images[:IMAGES], marks, strict=False)):
        x, picture = number * (BOX + SPACING), _picture(split, image, BOX, BOX, mark)
        # frames alone show nothing to colour-blind readers
        below = _text(_first_caption(split, image), 8.5, BOX, 4, GREY) if mark is None else _mark(mark)
        pieces += [(x, BOX - picture.height, picture), (x, BOX + (6 if mark is None else 2), below)]
    top = min(y for _, y, _ in pieces)
    return _place(*((x, y - top, piece) for x, y, piece in pieces))


def _captions(split: Split, captions: Sequence[int], marks: Sequence[bool | None]) -> Block:
    """Captions one below the other, each with its mark, if it has one."""
    width = WIDTH - 2 * MARGIN - RIGHT - INDENT
    rows: Parts = []
    for caption, mark in zip(captions[:CAPTIONS], marks, strict=False):
        text = _text(split.captions[caption], 11.5, width, 2, GREEN if mark else INK)
        sign = [] if mark is None else [(0, 0, _mark(mark))]
        rows.append((9 if rows else 0, _place(*sign, (INDENT, 0, text))))
    return _stack(rows)


def _mark(right: bool) -> Block:
    return _text("✓" if right else "✗", 11.5, INDENT, 1, GREEN if right else RED, bold=True)


def _picture(split: Split, image: int, width: int, height: int, mark: bool | None = None) -> Block:
    """An image that fits into width x height with its frame: green if right, red if wrong, thin if neither."""
    frame, colour = (1, RULE) if mark is None else (FRAME, GREEN if mark else RED)
    picture = _fit(load_image(split.path(image)), width - 2 * frame, height - 2 * frame)
    framed = Image.new("RGB", (picture.width + 2 * frame, picture.height + 2 * frame), colour)
    framed.paste(picture, (frame, frame))
    return framed


def _fit(image: Image.Image, width: int, height: int) -> Block:
    """An image as large as fits into width x height."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if scale >= PIXELATED:
        whole = math.ceil(scale)
        image = image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.LANCZOS)


# --- text ---------------------------------------------------------------------------------------------------


def _text(text: str, size: float, width: int, most: int, colour: str = INK, bold: bool = False) -> Block:
    """Text wrapped at `width` pixels, at most `most` lines; text that does not fit ends in an ellipsis."""
    font, em = _font(size, bold), size * DPI / 72
    lines = _wrap(text, font, width, most)
    block = Image.new("RGB", (width, math.ceil(len(lines) * 1.3 * em)), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, round(number * 1.3 * em + em)), line, fill=colour, font=font, anchor="ls")
    return block


@cache
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, of a size in points."""
    path = Path(matplotlib.get_data_path(), "fonts/ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(path, size * DPI / 72, layout_engine=ImageFont.Layout.BASIC)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    lines: list[str] = []
    for word in re.findall(r"\S+(?: [.,;:!?](?!\S))*", text):  # a lone full stop stays with its word
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]}…"]
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while font.getlength(line) > width:
        line = f"{line.removesuffix('…')[:-1].rstrip()}…"
    return line
