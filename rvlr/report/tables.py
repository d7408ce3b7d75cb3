"""Tables of all runs: CSV for programs, Markdown for readers, plain text for the terminal.

Input: `Results`, with `rankings.npz` beside each evaluation. Output: the mean and the sample standard deviation over
seeds of every metric (docs/METHOD.md, "Evaluation"), and the differences between trained runs.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from rvlr import files
from rvlr.evaluation.headlines import HEADLINES
from rvlr.evaluation.inputs import CROSS_MODAL
from rvlr.evaluation.metrics import NDCG_CUTOFFS, RECALL_CUTOFFS
from rvlr.evaluation.protocols import SCENES
from rvlr.report.compare import Comparison
from rvlr.report.results import HEADLINE_METRICS, LIST_HEADLINE_METRICS, PROTOCOL, Results, Score

MEDIAN_RANKS = {"I→T median rank": "i2t_median_rank", "T→I median rank": "t2i_median_rank"}  # `paper` lacks these
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
    "Mixed, by other scales": {
        f"{label} {scale} NDCG@10": f"{way}_{scale}_ndcg@10"
        for scale in ("plain", "centred")
        for label, way in (("I→IT", "i2it"), ("T→IT", "t2it"))
    },
}
DIAGNOSTICS = {
    "modality gap": "modality_gap",
    "MMD²": "mmd2",
    "alignment": "alignment",
    "uniformity I": "uniformity_image",
    "uniformity T": "uniformity_text",
}
SHOWN = {
    name: metric for columns in SECTIONS.values() for name, metric in columns.items() if metric in HEADLINE_METRICS
}
"""The metrics whose differences are shown: these, of all runs, are the comparisons that p-values are adjusted for."""
SHOWN_LISTS = {name: metric for name, metric in SHOWN.items() if metric in LIST_HEADLINE_METRICS}
"""Those of them that depend on relevance: the comparisons by scenes."""
_RECALL_WAYS = {"I→T": "i2t", "T→I": "t2i", "I→I": "i2i", "T→T": "t2t", "T→T rated": "t2t_rated"}
JUDGEMENTS: dict[str, dict[str, dict[str, str]]] = {
    "cxc": {
        **{
            f"Crisscrossed Captions, {where}": {
                f"{name} R@{k}": f"{way}_r@{k}"
                for name, way in _RECALL_WAYS.items()
                if (way in CROSS_MODAL) == (where == "across")
                for k in RECALL_CUTOFFS
            }
            for where in ("across", "within")
        },
        "Crisscrossed Captions, Spearman's correlation with ratings": {
            "images (SIS)": "sis_spearman",
            "captions (STS)": "sts_spearman",
            "caption and image (SITS)": "sits_spearman",
        },
    },
    "eccv": {
        "ECCV Caption": {
            f"{name} {metric}": f"{way}_{metric.lower()}"
            for name, way in _RECALL_WAYS.items()
            if way in CROSS_MODAL
            for metric in ("mAP@R", "R-precision", "R@1")
        },
    },
}
GROUPS = dict(zip(("cross-modal", "single, NDCG@10", "mixed, NDCG@10"), HEADLINES, strict=True))
RECALL = "R@K: hit: at least one right item among the first K."
NDCG = "NDCG@K: gain is the relevance (ROUGE-L between captions), discount is log2."
ABOUT_RANKS = "R-sum: the six recalls added up. Median rank: of the best right item, from 1; lower is better."
PROTOCOLS = (
    "Protocol `paper` repeats the published evaluation with its errors; `corrected` is without them. `/first-N`: the "
    "first N images alone; `/folds-N`: the mean over disjoint parts of N images. `/scenes`: the gain is what scenes "
    "have in common."
)
ABOUT_SCALES = (
    "Mixed lists are ranked by standardised cosines; by other scales: by plain cosines, and by cosines of embeddings "
    "without the mean of their modality in the training split (centred)."
)
STRUCTURE = {
    "I neighbours": "image_neighbours",
    "T neighbours": "text_neighbours",
    "I CKA": "image_cka",
    "T CKA": "text_cka",
}
ABOUT_STRUCTURE = (
    "What is left in a model of the structure of a teacher that is not trained here; 1: all of it. Neighbours: share "
    "of the 10 nearest that are the same. CKA: linear, debiased. Captions of one image are never compared."
)
ABOUT_DIAGNOSTICS = (
    "Of embeddings of unit length. Modality gap: distance of the means of images and texts; MMD²: squared maximum mean "
    "discrepancy of the two; both 0 without a gap. Alignment: mean squared distance of a caption and its image. "
    "Uniformity: 0 if all embeddings are the same, lower the more they spread. docs/METHOD.md has formulas and sources."
)
ABOUT_JUDGEMENTS = (
    "People judged the COCO test images. R@K: a right item among the first K of the list without the query; right are "
    "pairs rated at least 3 of 5 (two images: 2.5), an image and its captions, captions of one image (T→T rated: rated "
    "pairs alone). Spearman's correlation times 100. Of the R right items of a query: mAP@R, R-precision. Across as "
    'protocol `corrected` ranks, within by cosine. docs/METHOD.md, "People\'s judgements".'
)
ABOUT_FEATURES = (
    "A teacher with dashes is not trained here: its raw features, the same with every seed, exist within one modality."
)
TERMINAL_WIDTH = 110


# --- files --------------------------------------------------------------------------------------------------


def summarise(results: Results, csv: Path, comparisons: Path, markdown: Path) -> None:
    """Write three files: `csv`, every metric of every run and protocol; `comparisons`, a CSV of every difference
    between trained runs; `markdown`, the three-way tables with the most important differences.

    Raises UserError as `Results.comparisons`.
    """
    compared = {PROTOCOL: results.comparisons, SCENES: results.scene_comparisons}
    for path, frame in ((csv, _frame(results)), (comparisons, _comparison_frame(compared))):
        files.write_text(path, frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    by_words = _differences(results.comparisons, "Differences", PROTOCOL, SHOWN)
    by_scenes = _differences(results.scene_comparisons, "Differences by scenes", SCENES, SHOWN_LISTS)
    files.write_text(markdown, "\n".join([*_markdown(results), *by_words, *by_scenes]) + "\n")


def _frame(results: Results) -> pd.DataFrame:
    """One row per run and protocol, per run and people's judgements, and per run for the diagnostics. `seeds` is a
    number; a missing standard deviation is an empty field."""
    rows = []
    diagnosed = {"diagnostics": results.diagnostics} if any(results.diagnostics.values()) else {}
    for protocol, runs in (results.scores | dict(results.judgements) | diagnosed).items():
        for run, scores in runs.items():
            row = {"run": run, "protocol": protocol, "seeds": len(results.seeds[run]), "split": results.split}
            row |= {"splits": len(results.sources)}
            row |= results.counts.model_dump()
            for metric, score in scores.items():
                row |= {f"{metric}_mean": score.mean, f"{metric}_std": score.std}
            rows.append(row)
    columns = dict.fromkeys(name for row in sorted(rows, key=lambda row: -len(row)) for name in row)
    return pd.DataFrame(rows, columns=list(columns))


def _comparison_frame(compared: Mapping[str, Sequence[Comparison]]) -> pd.DataFrame:
    """One row per protocol, comparison and metric. Seeds, what the interval covers, and the difference on each split
    are lists, with spaces between their items. `p_holm` is empty for metrics that are not among those shown."""
    rows = []
    for protocol, one in ((protocol, one) for protocol, group in compared.items() for one in group):
        seeds = [" ".join(map(str, seeds)) for seeds in (one.seeds, one.reference_seeds)]
        for metric, found in one.differences.items():
            p = [None if value is None else f"{value:.6g}" for value in (found.p, found.holm)]
            by_split = " ".join(f"{value:.6f}" for value in found.by_split)
            about = [one.run, one.reference, protocol, *seeds, one.images, " ".join(one.covers), metric]
            rows.append([*about, found.value, found.low, found.high, *p, by_split])
    columns = ["run", "reference", "protocol", "seeds", "reference_seeds", "images", "covers", "metric"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "p_holm", "by_split"])


def _markdown(results: Results) -> Iterator[str]:
    yield f"# Three-way retrieval on {results.where}"
    yield ""
    yield header(results, code="`")
    yield ""
    about = f"{_averaged(results)}; all values but ranks and diagnostics in percent"
    yield f"- {about}; bold: the best trained model of a column."
    yield f"- I: image, T: text, IT: images and texts together. {RECALL}"
    yield f"- {ABOUT_RANKS}"
    yield f"- {NDCG}"
    yield f"- {ABOUT_SCALES}"
    yield f"- {PROTOCOLS}"
    if results.features:
        yield f"- {ABOUT_FEATURES}"
    yield from (f"- Data: {note}" for note in results.notes)
    yield from (f"- Missing: {what}" for what in _missing(results))
    for protocol, runs in results.scores.items():
        yield from ("", f"## Protocol `{protocol}`")
        for section, columns in SECTIONS.items():
            present = {
                name: metric for name, metric in columns.items() if any(metric in scores for scores in runs.values())
            }
            if not present:  # other scales, of which `paper` has none
                continue
            frame = pd.DataFrame({"run": list(runs), "seeds": [str(len(results.seeds[run])) for run in runs]})
            for name, metric in present.items():
                frame[name] = _cells(results, runs, metric)
            yield from ("", f"### {section}", "", markdown_table(frame))
    yield from _judgements(results)
    yield from _diagnostics(results)


def _averaged(results: Results) -> str:
    over = results.averaged
    return f"Mean ± sample standard deviation over {over}" if over else "One seed: no standard deviation"


def _judgements(results: Results) -> Iterator[str]:
    """The section about people's judgements; nothing if the evaluations have none."""
    if not results.judgements:
        return
    yield from ("", "## People's judgements", "", f"- {ABOUT_JUDGEMENTS}")
    for name, runs in results.judgements.items():
        for title, columns in JUDGEMENTS[name].items():
            frame = pd.DataFrame({"run": list(runs), "seeds": [str(len(results.seeds[run])) for run in runs]})
            for column, metric in columns.items():
                frame[column] = _cells(results, runs, metric)
            yield from ("", f"### {title}", "", markdown_table(frame))


def _diagnostics(results: Results) -> Iterator[str]:
    """The section about embeddings; nothing if the evaluations have no diagnostics."""
    found = results.diagnostics
    if not any(found.values()):
        return
    frame = pd.DataFrame({"run": list(found), "seeds": [str(len(results.seeds[run])) for run in found]})
    for name, metric in DIAGNOSTICS.items():
        frame[name] = [scores[metric].digits(3) for scores in found.values()]
    yield from ("", "## Diagnostics", "", f"- {ABOUT_DIAGNOSTICS}", "", "### Embeddings", "", markdown_table(frame))
    teachers = dict.fromkeys(name.partition("/")[2] for scores in found.values() for name in scores if "/" in name)
    rows = [(run, teacher) for run in found for teacher in teachers]
    if rows:
        frame = pd.DataFrame(rows, columns=["run", "teacher"])
        for name, metric in STRUCTURE.items():
            frame[name] = [found[run][f"{metric}/{teacher}"].digits(3) for run, teacher in rows]
        yield from ("", "### Structure of teachers", "", f"- {ABOUT_STRUCTURE}", "", markdown_table(frame))


def markdown_table(frame: pd.DataFrame, left: int = 1) -> str:
    """A table of text, the first columns, `left` of them, flush left, the others flush right."""
    align = [*["left"] * left, *["right"] * (frame.shape[1] - left)]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)


def header(results: Results, code: str = "") -> str:
    """Counts, seeds and commits in one line; `code` is put around each commit."""
    commits = [f"{code}{_short(commit)}{code}" if commit else "unknown" for commit in results.commits]
    names = [folder.resolve().name for folder in results.folders]
    if len({*names}) < len(names):
        names = [str(folder) for folder in results.folders]
    pooled = f"{len(names)} splits, pooled: {', '.join(names)}; " if names else ""
    return (
        f"{results.counts.images:,} images, {results.counts.captions:,} captions; {pooled}"
        f"{name_seeds(results.all_seeds)}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    )


def _missing(results: Results) -> list[str]:
    """The runs that were not evaluated with every seed, whose means are therefore over fewer seeds than others."""
    return [
        f"{run} has no {name_seeds(seeds)}; its means are over {name_seeds(results.seeds[run])} alone"
        for run, seeds in results.missing.items()
    ]


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:12] + dash + dirty


def name_seeds(seeds: Sequence[int]) -> str:
    """`seed 0` or `seeds 0, 1`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _cells(results: Results, runs: Mapping[str, Mapping[str, Score]], metric: str) -> list[str]:
    """A column: the best trained models are bold."""
    bold = best({run: scores for run, scores in runs.items() if results.is_trained(run)}, metric)
    return [f"**{scores[metric]}**" if run in bold else text_of(scores, metric) for run, scores in runs.items()]


def best(runs: Mapping[str, Mapping[str, Score]], metric: str) -> list[str]:
    """The best of some runs. Means are compared as printed: equal text is equally good."""
    means = {run: scores[metric].mean for run, scores in runs.items() if metric in scores}
    highest = (min if metric in MEDIAN_RANKS.values() else max)(means.values(), default=0.0)
    return [run for run, mean in means.items() if f"{mean:.1f}" == f"{highest:.1f}"]


def text_of(scores: Mapping[str, Score], metric: str) -> str:
    """A score, or a dash where it does not exist, as most do not of raw features."""
    return str(scores[metric]) if metric in scores else "–"


def _differences(compared: Sequence[Comparison], title: str, protocol: str, shown: Mapping[str, str]) -> Iterator[str]:
    """A section about the differences in the metrics `shown`; nothing if nothing was compared."""
    if not compared:
        return
    several = f"{len(shown)} metrics of {len(compared)} run{'s' * (len(compared) > 1)}"
    yield from ("", f"## {title}", "")
    over = "splits and seeds" if "splits" in compared[0].covers else "seeds"
    yield f"- Protocol `{protocol}`, percentage points, run minus reference, averaged over {over}."
    yield (
        f"- 95 % interval: where the difference would be with other images than these {compared[0].images:,}, each "
        f"with all its captions, and with other {over}; the line above a table says what is covered."
    )
    yield "- p: two-sided, from the same variances as the interval; below 0.05 where the interval is clear of 0."
    yield (
        f"- p (Holm): adjusted for all {len(shown) * len(compared)} comparisons below, {several}. Among those below "
        "0.05, the chance of even one false finding is at most 5 %."
    )
    for one in compared:
        found = [one.differences[metric] for metric in shown.values()]
        frame = pd.DataFrame(
            {
                "metric": list(shown),
                "difference": [f"{each.value:+z.2f}" for each in found],
                **({"each split": [_each(each.by_split) for each in found]} if len(found[0].by_split) > 1 else {}),
                "95 % interval": [f"{each.low:+z.2f} to {each.high:+z.2f}" for each in found],
                "p": [_p(each.p) for each in found],
                "p (Holm)": [_p(each.holm) for each in found if each.holm is not None],
            }
        )
        others = "of both" if one.seeds == one.reference_seeds else f"against {name_seeds(one.reference_seeds)}"
        paired = f"{name_seeds(one.seeds).capitalize()} {others}."
        yield from ("", f"### {one.run} minus {one.reference}", "", f"{paired} {covered(one)}", "")
        yield markdown_table(frame)


def covered(one: Comparison) -> str:
    """What the interval covers, in words."""
    words = {"images": "test images", "seeds": "seeds", "splits": "splits of the data"}
    covers = [words[source] for source in one.covers]
    text = f"The interval covers the choice of {', '.join(covers[:-1])}{' and ' * (len(covers) > 1)}{covers[-1]}"
    if "seeds" in one.covers:
        return f"{text}."
    return f"{text}, not that of seeds: with one seed, nothing is known of what another training would give."


def _each(by_split: Sequence[float]) -> str:
    return ", ".join(f"{value:+z.2f}" for value in by_split)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


# --- terminal -----------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """The most important columns as plain text, at most 110 characters wide, and what follows from them.

    Laid out here, because neither pandas nor tabulate centres a header over a group of columns. Raises UserError as
    `Results.comparisons`.
    """
    notes = [f"{results.split}: {header(results)}", *(f"Data: {note}" for note in results.notes)]
    notes += [f"Missing: {what}" for what in _missing(results)]
    lines = [line for note in notes for line in textwrap.wrap(note, TERMINAL_WIDTH, break_on_hyphens=False)] + [
        f"In percent. {RECALL}"
    ]
    cells = {
        (protocol, run): [[text_of(scores, m).replace(" ", "") for m in columns.values()] for columns in HEADLINES]
        for protocol, runs in results.scores.items()
        for run, scores in runs.items()
    }
    names = [list(columns) for columns in HEADLINES]
    width = max(len(cell) for row in (names, *cells.values()) for group in row for cell in group)
    spaces = [len(group) * (width + 1) + 2 for group in names]  # between the groups lie three spaces
    shown = {run: _fit(run, TERMINAL_WIDTH - sum(spaces)) for run in results.runs}
    longest = max(map(len, shown.values()))
    titles = " " * longest + "".join(f"   {title:^{size - 3}}" for title, size in zip(GROUPS, spaces, strict=True))
    for protocol in results.scores:
        lines += ["", f"protocol {protocol}", titles.rstrip()]
        for name, row in (("", names), *((name, cells[protocol, run]) for run, name in shown.items())):
            groups = [" ".join(f"{cell:>{width}}" for cell in group) for group in row]
            lines.append("   ".join([f"{name:<{longest}}", *groups]).rstrip())
    for one in results.comparisons:
        lines += ["", *textwrap.wrap(verdict(one), TERMINAL_WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def verdict(one: Comparison) -> str:
    """In which of the most important metrics a run is above or below its reference, in a sentence or two."""
    words = {"images": "test images", "seeds": "seeds", "splits": "splits"}
    covered = f"95 % intervals over {', '.join(words[source] for source in one.covers)}"
    clear: dict[str, list[str]] = {"above": [], "below": []}
    for name, metric in SHOWN.items():
        found = one.differences[metric]
        if found.low > 0 or found.high < 0:
            clear["above" if found.low > 0 else "below"].append(f"{name} ({found.value:+.1f})")
    said = [f"{where} in {', '.join(names)}" for where, names in clear.items() if names]
    rest = len(SHOWN) - sum(map(len, clear.values()))
    said += [f"not clearly different in {'the other ' if said else 'any of '}{rest}"] if rest else []
    return f"{one.run} compared with {one.reference} ({len(SHOWN)} numbers, {covered}): {'; '.join(said)}."


def _fit(name: str, width: int) -> str:
    """`name`, without its middle if it is too long: names of runs often differ at the end."""
    if len(name) <= width:
        return name
    head = width // 2
    return f"{name[:head]}…{name[len(name) - (width - head - 1) :]}"
