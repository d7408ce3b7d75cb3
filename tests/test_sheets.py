"""Sheets of retrieved examples: the right pictures and captions in the right places, the same bytes every time."""

from pathlib import Path

import numpy as np
import pytest
from pictures import coloured, pixels_of
from PIL import Image

from rvlr.data.records import Record, Split
from rvlr.errors import UserError
from rvlr.report import sheets

GREEN, RED = (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Eight images of differing shapes, one plain grey level each, with two captions each."""
    sizes = [(64, 64), (200, 150), (150, 200), (500, 100), (64, 64), (33, 200), (300, 300), (20, 20)]
    records = []
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (30 * number,) * 3).save(tmp_path / f"{number}.png")
        texts = (f"number {number} costs $5 and ${number}_x", "a long caption " * (number * 10) + "at last .")
        records.append(Record(f"id-{number}", f"{number}.png", texts))
    return Split("test", records, tmp_path)


@pytest.fixture
def rankings(split: Split, tmp_path: Path) -> Path:
    """Text to image has the right image second, image to text the right captions first, the last query excepted."""
    images, captions = np.arange(8), np.arange(16)
    t2i = np.array([[(c // 2 + 1) % 8, *np.delete(np.roll(images, -(c // 2)), 1)] for c in captions])
    i2t = np.array([np.roll(captions, -2 * i) for i in images])
    stored = {
        "image_ids": np.array([record.image_id for record in split.records]),
        "caption_ids": np.array([f"id-{c // 2}#{c % 2}" for c in captions]),
        "t2i": t2i,
        "i2t": i2t,
        "i2i": np.array([np.delete(np.roll(images, -i), 0) for i in images]),
        "t2t": np.array([np.delete(np.roll(captions, -c), 0) for c in captions]),
    }
    for direction in ("t2i", "i2t", "i2i", "t2t"):
        stored[direction] = stored[direction].astype(np.int32)
        stored[f"{direction}_query"] = np.arange(len(stored[direction]), dtype=np.int32)
    np.savez(tmp_path / "rankings.npz", **stored)
    return tmp_path / "rankings.npz"


def frames(pixels: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """The columns of `sheets` (0 is the first) in which the upper edge of a frame of this colour lies."""
    found = []
    for number in range(sheets.IMAGES):
        left = sheets.MARGIN + sheets.RIGHT + number * (sheets.BOX + sheets.SPACING)
        width = coloured(pixels[:, left : left + sheets.BOX], colour).sum(axis=1).max()
        if width > 30:
            found.append(number)
    return found


def test_frames_distinguish_right_from_wrong(rankings: Path, split: Split, tmp_path: Path) -> None:
    sheets.draw_cross_modal(rankings, split, 1, tmp_path / "out" / "sheet.png", "student-rvlr")
    pixels = pixels_of(tmp_path / "out" / "sheet.png")
    upper = pixels[: pixels.shape[0] // 2]
    assert pixels.shape[1] == sheets.WIDTH
    assert frames(upper, GREEN) == [1]
    assert frames(upper, RED) == [0, 2, 3, 4, 5]
    # the query is caption 8, of image 4: the green frame contains the grey of that image, as a square of the full box
    left = sheets.MARGIN + sheets.RIGHT + sheets.BOX + sheets.SPACING
    inner = coloured(upper[:, left : left + sheets.BOX], (120, 120, 120))
    side = sheets.BOX - 2 * sheets.FRAME
    assert (inner.sum(axis=1) == side).sum() == side
    assert np.flatnonzero(inner.sum(axis=0) >= side).tolist() == list(range(sheets.FRAME, sheets.FRAME + side))
    # image to text: two right captions, three wrong ones
    last_frame = np.flatnonzero(coloured(pixels, RED).sum(axis=1) > 100)[-1]
    marks = pixels[last_frame + 60 :, sheets.MARGIN + sheets.RIGHT :][:, : sheets.INDENT]
    assert bands(coloured(marks, GREEN)) == 2
    assert bands(coloured(marks, RED)) == 3


def bands(where: np.ndarray) -> int:
    """How many separate stretches of rows there are."""
    rows = np.flatnonzero(where.any(axis=1))
    return int((np.diff(rows) > 3).sum()) + 1 if len(rows) else 0


def test_single_modal_lists_show_no_wrong_ones(rankings: Path, split: Split, tmp_path: Path) -> None:
    sheets.draw_single_modal(rankings, split, 2, tmp_path / "sheet.png", "student-rvlr")
    pixels = pixels_of(tmp_path / "sheet.png")
    assert not coloured(pixels, RED).any()
    marks = pixels[:, sheets.MARGIN + sheets.RIGHT :][:, : sheets.INDENT]
    assert bands(coloured(marks, GREEN)) == 2


def test_same_queries_and_bytes_every_time(rankings: Path, split: Split, tmp_path: Path) -> None:
    ranked = (np.arange(100, 116), np.zeros((16, 3)))
    assert [query for query, _ in sheets._chosen(ranked, 4)] == [102, 106, 110, 114]
    assert [query for query, _ in sheets._chosen(ranked, 50)] == [*range(100, 116)]
    for draw in (sheets.draw_cross_modal, sheets.draw_single_modal):
        draw(rankings, split, 3, tmp_path / "a.png", "run")
        draw(rankings, split, 3, tmp_path / "b.png", "run")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_small_renderings_stay_sharp_and_photographs_keep_their_shape() -> None:
    checkers = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    enlarged = np.asarray(sheets._fit(Image.fromarray(checkers).convert("RGB"), 200, 300))
    assert enlarged.shape == (200, 200, 3)
    assert ((enlarged < 5) | (enlarged > 250)).mean() == 1
    assert sheets._fit(Image.new("RGB", (500, 333)), 200, 200).size == (200, 133)
    assert sheets._fit(Image.new("RGB", (1000, 2)), 200, 200).size == (200, 1)


def test_text_is_wrapped_within_its_width() -> None:
    text = "A man in a blue shirt is standing on a ladder cleaning a window . " * 3
    font = sheets._font(11.5, bold=False)
    lines = sheets._wrap(text, font, 390, 4)
    assert len(lines) == 4
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 390 for line in lines)
    assert not any(line.startswith(".") for line in lines)
    assert sheets._wrap("short .", font, 390, 4) == ["short ."]
    endless = sheets._wrap("m" * 200, font, 390, 4)
    assert len(endless) == 1
    assert endless[0].endswith("m…")


def test_rankings_of_other_data_are_refused(rankings: Path, split: Split, tmp_path: Path) -> None:
    fewer = Split("test", split.records[:-1], split.image_root)
    with pytest.raises(UserError, match="ranks other data than the split 'test'"):
        sheets.draw_cross_modal(rankings, fewer, 1, tmp_path / "sheet.png", "run")
    with pytest.raises(UserError, match="no such file"):
        sheets.draw_cross_modal(tmp_path / "none.npz", split, 1, tmp_path / "sheet.png", "run")
    with pytest.raises(UserError, match="queries_shown"):
        sheets.draw_single_modal(rankings, split, 0, tmp_path / "sheet.png", "run")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.npz: not the rankings of a run"):
        sheets.draw_single_modal(tmp_path / "broken.npz", split, 1, tmp_path / "sheet.png", "run")
    np.savez(tmp_path / "empty.npz", image_ids=np.array(["a"]))
    with pytest.raises(UserError, match="caption_ids"):
        sheets.draw_single_modal(tmp_path / "empty.npz", split, 1, tmp_path / "sheet.png", "run")
    with np.load(rankings) as stored:
        np.savez(tmp_path / "flat.npz", **{**stored, "t2t": stored["t2t"].ravel()})
    with pytest.raises(UserError, match=r"flat\.npz: t2t is int32 of shape \(240,\); run the evaluate stage again"):
        sheets.draw_single_modal(tmp_path / "flat.npz", split, 1, tmp_path / "sheet.png", "run")
    assert not (tmp_path / "sheet.png").exists()
