"""The most important numbers of each of the three ways of retrieval, which tables, figures and messages show first."""

from collections.abc import Mapping

HEADLINES = (
    {"I→T R@1": "i2t_r@1", "T→I R@1": "t2i_r@1", "R-mean": "r_mean"},
    {"I→I": "i2i_ndcg@10", "T→T": "t2t_ndcg@10"},
    {"I→IT": "i2it_ndcg@10", "T→IT": "t2it_ndcg@10"},
)
"""Cross-modal, single-modal and mixed: the short name of a metric -> the metric."""
LISTS = " NDCG@10"
"""What the short names of single-modal and mixed metrics leave out."""


def line(numbers: Mapping[str, float]) -> str:
    """Those of `numbers` (metric -> percent) that are among the most important ones, in words."""
    cross, *lists = (
        ", ".join(f"{name} {numbers[metric]:.1f}" for name, metric in columns.items() if metric in numbers)
        for columns in HEADLINES
    )
    graded = ", ".join(filter(None, lists))
    return "; ".join(filter(None, [cross, graded and f"NDCG@10 {graded}"]))
