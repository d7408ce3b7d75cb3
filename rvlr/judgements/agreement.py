"""How well ROUGE-L, the relevance behind NDCG, agrees with people: Spearman's correlation with the ratings of CxC.

Enters: captions of COCO test or val, and the ratings. Leaves: one `Row` for each kind of relevance and sampling. Pairs
whose relevance is 1 because of where their texts come from, whatever people say, are left out: an image and its own
caption, and for the relevance of images two captions of one image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rvlr import config, relevance
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.judgements import correlation, cxc

ALL = "all"
FEWEST = 2
"""Pairs that a correlation needs."""


@dataclass(frozen=True)
class Row:
    """Spearman's correlation of a relevance with people's ratings, from -1 to 1.

    spearman: over all pairs. sampled, deviation: mean and standard deviation over the samples of the CxC paper, see
    `rvlr.judgements.correlation.sampled_spearman`.
    """

    what: str
    sampling: str
    pairs: int
    spearman: float
    sampled: float
    deviation: float


def measure(split: Split, ratings: cxc.Judgements, section: config.Relevance) -> list[Row]:
    """Every row. Raises UserError as `rvlr.relevance.check_words`, or where a correlation is not defined."""
    relevance.check_words(split, section)
    rows = []
    for what, values, pairs, queries in _compared(split, ratings, section):
        methods = sorted(set(pairs.sampling.tolist()))
        for method in [ALL, *(methods if len(methods) > 1 else [])]:
            kept = np.flatnonzero((pairs.sampling == method) | (method == ALL))
            if len(kept) < FEWEST:
                raise UserError(f"{what}: {len(kept)} pairs of {method}; a correlation needs more")
            found, rated = values[kept], pairs.ratings[kept]
            mean, deviation = correlation.sampled_spearman([side[kept] for side in queries], rated, found)
            label = methods[0] if len(methods) == 1 else method
            rows.append(Row(what, label, len(kept), correlation.spearman(rated, found), mean, deviation))
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown; correlations times 100."""
    lines = ["| ROUGE-L against people | pairs sampled by | pairs | Spearman, all pairs | sampled as in CxC |"]
    lines.append("|---|---|--:|--:|--:|")
    lines += [
        f"| {row.what} | {row.sampling} | {row.pairs:,} | {100 * row.spearman:.1f} | "
        f"{100 * row.sampled:.1f} ± {100 * row.deviation:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _compared(
    split: Split, ratings: cxc.Judgements, section: config.Relevance
) -> Iterator[tuple[str, np.ndarray, cxc.Pairs, list[np.ndarray]]]:
    """The name of each relevance, its values (P,), the pairs, and their items that are queries."""
    owner, first = split.caption_image, split.offsets[:-1]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "relevance.npy"
        relevance.compute(split.captions, split.offsets, file, section.scorer, section.stemmer)
        matrix = np.load(file, mmap_mode="r")  # (captions, images)
        sis, both = ratings.sis, [ratings.sis.first, ratings.sis.second]
        yield "two images: first caption of the query, `paper`", matrix[first[sis.first], sis.second], sis, both
        counts = np.diff(split.offsets)
        sums = np.add.reduceat(matrix, first, axis=0)[sis.first, sis.second]
        yield "two images: mean over the query's captions, `corrected`", sums / counts[sis.first], sis, both
        sits = _chosen(ratings.sits, owner[ratings.sits.first] != ratings.sits.second)
        yield "caption and image", np.array(matrix[sits.first, sits.second]), sits, [sits.second]
        apart = _chosen(ratings.sts, owner[ratings.sts.first] != owner[ratings.sts.second])
        values = np.array(matrix[apart.second, owner[apart.first]])
        yield "two captions: of the second to the first one's image", values, apart, [apart.first, apart.second]
    sts = ratings.sts
    values = np.array(
        [
            relevance.compute_pair(split.captions[one], [split.captions[other]], section.scorer, section.stemmer)
            for one, other in zip(sts.first.tolist(), sts.second.tolist(), strict=True)
        ]
    )
    yield "two captions: of one to the other", values, sts, [sts.first, sts.second]


def _chosen(pairs: cxc.Pairs, kept: np.ndarray) -> cxc.Pairs:
    return cxc.Pairs(pairs.first[kept], pairs.second[kept], pairs.ratings[kept], pairs.sampling[kept])
