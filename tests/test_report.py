"""Tables, figures and sheets: right numbers in the right places, nothing averaged that does not belong together."""

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvlr.data.records import Record, Split
from rvlr.errors import UserError
from rvlr.report import figures, sheets, summary

CROSS = [f"{direction}_{what}" for direction in ("i2t", "t2i") for what in ("r@1", "r@5", "r@10", "mean")]
LISTS = [f"{direction}_ndcg@{k}" for direction in ("i2i", "t2t", "i2it", "t2it") for k in (10, 20, 50)]
METRICS = [*CROSS, "r_mean", "r_sum", *LISTS]
INPUTS = {"split_checksum": "c0ffee", "relevance_sha256": "facade"}
GREEN, RED = (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)

Evaluate = Callable[..., Path]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Writes an evaluation whose metrics are all `value`, but for those given by name."""

    def write(run: str, seed: int = 0, value: float = 50.0, metrics: dict | None = None, **fields: object) -> Path:
        corrected = dict.fromkeys(METRICS, value) | {"i2t_median_rank": 2.0} | (metrics or {})
        content = {
            "run": run,
            "seed": seed,
            "split": "test",
            "counts": {"images": 400, "captions": 2000},
            "config": {"candidates": 64},
            "inputs": INPUTS,
            "protocols": {"corrected": corrected, "paper": dict.fromkeys(METRICS, value / 2)},
            "provenance": {"commit": "0123456789abcdef"},
        }
        path = tmp_path / f"seed{seed}" / run / "eval" / f"{len(list(tmp_path.rglob('*.json')))}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | fields))
        return path

    return write


def parse_tables(markdown: str) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """(protocol, section) -> run -> column -> cell."""
    tables: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    protocol = section = ""
    header: list[str] = []
    for line in markdown.splitlines():
        if line.startswith("## "):
            protocol = line.removeprefix("## Protocol ").strip("`")
        elif line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] == "run":
                header = cells
            elif not cells[0].startswith(":-"):
                row = dict(zip(header, cells, strict=True))
                tables.setdefault((protocol, section), {})[row.pop("run")] = row
    return tables


# --- tables -------------------------------------------------------------------------------------------------


@pytest.fixture
def written(evaluate: Evaluate, tmp_path: Path) -> tuple[list[dict[str, str]], str, list[Path]]:
    """The CSV, the Markdown and their sources: an untrained model, a teacher, a student of three seeds."""
    paths = [
        evaluate("student-rvlr", 0, 60),
        evaluate("student-rvlr", 2, 63),
        evaluate("student-rvlr", 1, 66, {"i2t_r@1": 61}),
        evaluate("initial-small", 0, 99),
        evaluate("teacher-a", 0, 40, {"t2i_r@5": 80.0}),
        evaluate("student-plain", 0, 62.96),
    ]
    summary.summarise(paths, tmp_path / "out" / "s.csv", tmp_path / "out" / "s.md")
    with (tmp_path / "out" / "s.csv").open(newline="") as stream:
        return list(csv.DictReader(stream)), (tmp_path / "out" / "s.md").read_text(), paths


def test_csv_holds_mean_and_sample_deviation_of_everything(written) -> None:
    rows, _, _ = written
    order = ["initial-small", "teacher-a", "student-rvlr", "student-plain"]
    assert [(row["protocol"], row["run"]) for row in rows] == [(p, r) for p in ("corrected", "paper") for r in order]
    student = rows[2]
    assert student["seeds"] == "3"
    # 60, 63, 66: deviations -3, 0, 3; (9 + 0 + 9) / 2 = 9
    assert float(student["t2i_r@1_mean"]) == 63
    assert float(student["t2i_r@1_std"]) == 3
    # 60, 63, 61: mean 184/3; squared deviations 16/9 + 25/9 + 1/9 = 14/3; / 2 = 7/3
    assert float(student["i2t_r@1_mean"]) == pytest.approx(184 / 3, abs=1e-6)
    assert float(student["i2t_r@1_std"]) == pytest.approx((7 / 3) ** 0.5, abs=1e-6)
    assert float(rows[6]["r_sum_std"]) == 1.5
    assert all(student[f"{metric}_{part}"] for metric in METRICS for part in ("mean", "std"))
    assert rows[1]["t2i_r@5_mean"] == "80.000000"
    assert rows[1]["t2i_r@5_std"] == ""
    assert (student["i2t_median_rank_mean"], rows[6]["i2t_median_rank_mean"]) == ("2.000000", "")
    assert (student["split"], student["images"], student["captions"]) == ("test", "400", "2000")


def test_markdown_orders_runs_and_marks_the_best_trained(written) -> None:
    _, markdown, _ = written
    tables = parse_tables(markdown)
    assert [*tables] == [(p, s) for p in ("corrected", "paper") for s in ("Cross-modal", "Single-modal", "Mixed")]
    for table in tables.values():
        assert [*table] == ["initial-small", "teacher-a", "student-rvlr", "student-plain"]
        assert [row["seeds"] for row in table.values()] == ["1", "1", "3", "1"]
        assert not any("**" in cell for cell in table["initial-small"].values())
    cross = tables["corrected", "Cross-modal"]
    assert [*cross["teacher-a"]] == ["seeds", *(f"{d} R@{k}" for d in ("I→T", "T→I") for k in (1, 5, 10)), "R-mean"]
    assert {run: row["T→I R@5"] for run, row in cross.items()} == {
        "initial-small": "99.0",
        "teacher-a": "**80.0**",
        "student-rvlr": "63.0 ± 3.0",
        "student-plain": "63.0",
    }
    # 63 and 62.96 print alike, so neither is better
    assert (cross["student-rvlr"]["R-mean"], cross["student-plain"]["R-mean"]) == ("**63.0 ± 3.0**", "**63.0**")
    assert (cross["student-rvlr"]["I→T R@1"], cross["student-plain"]["I→T R@1"]) == ("61.3 ± 1.5", "**63.0**")
    assert [*tables["paper", "Mixed"]["teacher-a"]][1:] == [
        f"{d} NDCG@{k}" for d in ("I→IT", "T→IT") for k in (10, 20, 50)
    ]
    assert "400 images, 2,000 captions; seeds 0, 1, 2; commit `0123456789ab`" in markdown
    assert "R@K: hit: at least one right item among the first K" in markdown


def test_one_seed_has_no_spread(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate("initial-a"), evaluate("teacher-a", provenance={"commit": None})]
    summary.summarise(paths, tmp_path / "s.csv", tmp_path / "s.md")
    markdown = (tmp_path / "s.md").read_text()
    assert "±" not in markdown
    assert "One seed: no spread" in markdown
    assert "seed 0; commits `0123456789ab`, unknown" in markdown


def test_terminal_table_is_narrow_and_complete(evaluate: Evaluate) -> None:
    long = "student-" + "without-any-of-the-terms-" * 3
    paths = [
        evaluate(run, seed, 100.0 - 30 * seed) for run in ("teacher-a", f"{long}1", f"{long}2") for seed in range(3)
    ]
    lines = summary.table(paths).splitlines()
    assert max(map(len, lines)) <= 110
    assert sum(line.startswith("student-") for line in lines) == 4
    assert len({line.split()[0] for line in lines if line.startswith("student-")}) == 2
    row = next(line for line in lines if line.startswith("teacher-a"))
    assert row.split() == ["teacher-a", *[f"{statistics.fmean((100, 70, 40)):.1f}±30.0"] * 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "val"}, "split is val in the one and test"),
        ({"counts": {"images": 400, "captions": 1999}}, "counts.captions is 1999 in the one and 2000"),
        ({"counts": {"images": 399, "captions": 2000}}, "counts.images is 399"),
        ({"inputs": INPUTS | {"split_checksum": "decaf"}}, "inputs.split_checksum is decaf in the one and c0ffee"),
        ({"inputs": INPUTS | {"relevance_sha256": "decaf"}}, "inputs.relevance_sha256 is decaf"),
        ({"config": {"candidates": 128}}, "config.candidates is 128 in the one and 64"),
        ({"protocols": {"paper": dict.fromkeys(METRICS, 1.0)}}, "protocols and metrics"),
    ],
)
def test_evaluations_of_different_data_are_refused(evaluate: Evaluate, fields: dict, message: str) -> None:
    one, other = evaluate("teacher-a"), evaluate("student-rvlr", **fields)
    with pytest.raises(UserError, match=message) as error:
        summary.table([one, other])
    assert str(one) in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": {"images": 400}}, "counts.captions"),
        ({"inputs": {}}, "inputs.split_checksum"),
        ({"protocols": {"corrected": {"r_mean": 3.0}}}, "lacks .*i2t_r@1.*; run the evaluate stage again"),
        ({"protocols": {}}, "protocols: "),
    ],
)
def test_what_is_no_evaluation_is_refused(evaluate: Evaluate, fields: dict, message: str) -> None:
    path = evaluate("teacher-a", **fields)
    with pytest.raises(UserError, match=message) as error:
        summary.read_results([path])
    assert str(path) in str(error.value)
    with pytest.raises(UserError, match="not an evaluation: run: "):
        summary.read_results([evaluate("baseline")])


def test_a_run_counts_once_per_seed(evaluate: Evaluate) -> None:
    with pytest.raises(UserError, match="are both run 'teacher-a', seed 1"):
        summary.read_results([evaluate("teacher-a", 1), evaluate("teacher-a", 1)])
    with pytest.raises(UserError, match="no evaluations"):
        summary.read_results([])


# --- figures ------------------------------------------------------------------------------------------------


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert not image.text  # neither time nor version, so that the same figure has the same bytes
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels: np.ndarray, colour: str | tuple[int, int, int]) -> np.ndarray:
    """Where (rows, columns) a colour is."""
    if isinstance(colour, str):
        colour = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return (np.abs(pixels - np.array(colour)) <= 2).all(axis=2)


def log_of(path: Path, terms: dict[str, float], scores: list[float]) -> Path:
    lines = []
    for epoch, score in enumerate(scores):
        for step in (1, 2, 3):
            values = {name: value / (1 + epoch + step / 10) for name, value in terms.items()}
            loss = sum(values.values())
            lines.append(
                {"kind": "train", "step": 30 * epoch + 10 * step, "epoch": epoch, "loss": loss, **values, "lr": 1}
            )
        lines.append({"kind": "val", "step": 30 * epoch + 30, "epoch": epoch, "r_mean": score, "i2t_r@1": score})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_bars_are_as_long_as_their_values(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate("initial-a", 0, 10.0), evaluate("teacher-a", 0, 20.0), evaluate("student-b", 0, 40.0)]
    figures.plot_three_ways(paths, tmp_path / "out" / "bars.png")
    pixels = pixels_of(tmp_path / "out" / "bars.png")
    panel = pixels[:, : pixels.shape[1] // 3]
    lengths = [coloured(panel, colour).sum(axis=1).max() for colour in (figures.UNTRAINED, *figures.RUN_COLOURS[:2])]
    assert lengths[0] > 50
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.03)
    assert lengths[2] / lengths[0] == pytest.approx(4, rel=0.03)


def test_bars_need_the_corrected_protocol(evaluate: Evaluate, tmp_path: Path) -> None:
    path = evaluate("teacher-a", protocols={"paper": dict.fromkeys(METRICS, 1.0)})
    with pytest.raises(UserError, match="no protocol 'corrected'"):
        figures.plot_three_ways([path], tmp_path / "bars.png")
    assert not (tmp_path / "bars.png").exists()


def test_figures_are_reproducible(evaluate: Evaluate, tmp_path: Path) -> None:
    paths = [evaluate(run, seed, 50 + seed) for run in ("teacher-a", "student-b") for seed in (0, 1)]
    metrics = {"student-b": log_of(tmp_path / "m.jsonl", {"itc": 3.0, "kd": 0.01}, [10, 30, 20])}
    for number in (1, 2):
        figures.plot_three_ways(paths, tmp_path / f"bars{number}.png")
        figures.plot_losses(metrics, tmp_path / f"losses{number}.png")
    assert (tmp_path / "bars1.png").read_bytes() == (tmp_path / "bars2.png").read_bytes()
    assert (tmp_path / "losses1.png").read_bytes() == (tmp_path / "losses2.png").read_bytes()


def test_losses_show_the_terms_of_each_run(tmp_path: Path) -> None:
    teacher = log_of(tmp_path / "teacher.jsonl", {"itc": 3.0, "itm": 0.9}, [10, 30, 20])
    student = log_of(tmp_path / "student.jsonl", {"itc": 3.0, "itm": 0.9, "kdi": 0.01}, [10, 40])
    figures.plot_losses({"teacher-a": teacher, "student-b": student}, tmp_path / "losses.png")
    pixels = pixels_of(tmp_path / "losses.png")
    panels = pixels[pixels.shape[0] // 8 :]  # below the legend
    left, right = panels[:, : pixels.shape[1] // 2], panels[:, pixels.shape[1] // 2 :]
    colours = dict(zip(figures.TERMS, figures.TERM_COLOURS, strict=True))
    del colours["kdt"]  # as grey as the edges of letters
    for panel, terms in ((left, {"itc", "itm"}), (right, {"itc", "itm", "kdi"})):
        assert {term for term, colour in colours.items() if coloured(panel, colour).sum() > 40} == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "train", "step": 1, "loss": 2}\nnonsense\n', "line 2"),
        ('{"step": 1}\n', "line 1"),
        ('{"kind": "train", "step": 1, "loss": 2}\n', "no val line with 'r_mean'"),
        ("", "no train line with 'loss'"),
        (None, "no such file"),
    ],
)
def test_what_is_no_training_log_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        figures.plot_losses({"teacher-a": path}, tmp_path / "losses.png")
    assert str(path) in str(error.value)


# --- sheets -------------------------------------------------------------------------------------------------


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


def test_frames_tell_right_from_wrong(rankings: Path, split: Split, tmp_path: Path) -> None:
    sheets.draw_cross_modal(rankings, split, 1, tmp_path / "out" / "sheet.png", "student-rvlr")
    pixels = pixels_of(tmp_path / "out" / "sheet.png")
    upper = pixels[: pixels.shape[0] // 2]
    assert pixels.shape[1] == sheets.WIDTH
    assert frames(upper, GREEN) == [1]
    assert frames(upper, RED) == [0, 2, 3, 4, 5]
    # the query is caption 8, of image 4: the green frame holds that image's grey, as a square of the full box
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
    enlarged = sheets._fit(Image.fromarray(checkers).convert("RGB"), 200, 300)
    assert enlarged.shape == (200, 200, 3)
    assert ((enlarged < 5) | (enlarged > 250)).mean() == 1
    assert sheets._fit(Image.new("RGB", (500, 333)), 200, 200).shape == (133, 200, 3)
    assert sheets._fit(Image.new("RGB", (1000, 2)), 200, 200).shape == (1, 200, 3)


def test_text_is_wrapped_within_its_width() -> None:
    text = "A man in a blue shirt is standing on a ladder cleaning a window . " * 3
    lines = sheets._wrap(text, 11.5, 390, 4, "normal")
    assert len(lines) == 4
    assert lines[-1].endswith("…")
    assert all(sheets._width(line, 11.5, "normal") <= 390 for line in lines)
    assert not any(line.startswith(".") for line in lines)
    assert sheets._wrap("short .", 11.5, 390, 4, "normal") == ["short ."]
    endless = sheets._wrap("m" * 200, 11.5, 390, 4, "normal")
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
    assert not (tmp_path / "sheet.png").exists()
