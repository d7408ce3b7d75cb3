"""The section `evaluation`: how models are measured."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rvlr.config.base import NUMBER, Batch, Positive, Section, Workers


class Relevance(Section):
    """How relevant an image is to a caption: ROUGE-L, the best of the image's captions, see `rvlr.relevance`."""

    title = "the relevance section"
    scorer: Literal["rouge-score", "coco-caption"] = "rouge-score"
    """`rouge-score`: the F-measure of that package, the best over the image's captions; it compares only a-z and
    0-9. `coco-caption`: as pycocoevalcap, whose best precision and best recall may be of two captions; it compares
    what stands between spaces. Captions in which the scorer finds no words (more than 1 % of them) are refused."""
    stemmer: bool = False
    """`true`: compare word stems; only with `rouge-score`."""

    @model_validator(mode="after")
    def _stemmer_belongs_to_rouge_score(self) -> Self:
        if self.stemmer and self.scorer != "rouge-score":
            raise ValueError(f"stemmer is true, but scorer {self.scorer!r} has no stemmer; set stemmer to false")
        return self


Subset = Annotated[
    str,
    Field(
        pattern=r"^(first|folds)-([2-9]|[1-9][0-9]{1,8})$",
        json_schema_extra={"allowed": "first-N or folds-N, N a number of images of at least 2, such as first-1000"},
    ),
]


class Judgements(Section):
    """People's judgements that models of COCO are measured by, besides the protocols; docs/METHOD.md, "People's
    judgements"."""

    cxc: bool = False
    """`true`: Crisscrossed Captions: R@K of image and text within and across kinds, and correlation of similarities
    with people's ratings. The rating files are fetched into `downloads`."""
    eccv: bool = False
    """`true`: ECCV Caption: mAP@R, R-precision and R@1 across kinds. Needs the package `eccv_caption`:
    `pip install -e '.[eccv]'`."""


class Scoring(Section):
    """How a model is scored; changing it evaluates again and trains nothing."""

    title = "the evaluation's section"
    candidates: Positive = 128
    """Number of items of each query, the most similar by cosine, that the fusion encoder re-ranks; all, where there
    are fewer."""
    subsets: list[Subset] = []
    """Smaller galleries that are measured as well. `first-1000`: the first 1,000 images and their captions, the
    paper's COCO 1K. `folds-1000`: the mean over as many disjoint thousands as there are, the COCO 1K of other
    papers."""
    scene_relevance: bool = False
    """`true`: the lists are also judged by what the scenes have in common, as protocol `corrected/scenes`, beside the
    relevance by words; only for the data set `shapes`, whose scenes are known."""
    judgements: Judgements = Judgements()
    """People's judgements of the COCO test images, measured as well."""
    batch_size: Batch = 64
    """Images encoded at a time; four times as many captions."""
    workers: Workers = 4
    """Loading processes; 0: load in the evaluating process."""

    @field_validator("subsets")
    @classmethod
    def _subsets_differ(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names a subset twice")
        return value


class Evaluation(Scoring):
    """The three-way evaluation."""

    untrained: bool = True
    """`true`: models are evaluated before training, too."""
    relevance: Relevance = Relevance()
    """The gain behind NDCG: ROUGE-L between a caption and the captions of an image."""
    queries_shown: Annotated[int, Field(ge=0, le=50), NUMBER] = 4
    """Number of queries of each direction on the sheets of retrieved examples; 0: no sheets."""
