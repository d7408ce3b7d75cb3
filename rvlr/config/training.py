"""The sections `training`, `teachers` and `students`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rvlr.config.base import (
    NUMBER,
    Above0,
    Batch,
    Beta,
    Fraction,
    Name,
    PlainText,
    Positive,
    Processes,
    Section,
    Tokens,
    UserPath,
    Weight,
    Words,
    Workers,
)
from rvlr.config.models import Vision


class RandAugment(Section):
    """RandAugment over the operations in docs/METHOD.md, "Training"."""

    operations: Annotated[int, Field(ge=1, le=100), NUMBER] = 2
    """Number of changes that an image gets."""
    magnitude: Annotated[int, Field(ge=0, le=10), NUMBER] = 7
    """Strength of the changes."""


class Augmentation(Section):
    """What is done to training images."""

    scale: tuple[Fraction, Fraction] = (0.5, 1.0)
    """Smallest and largest share of the image's area that a random crop keeps, above 0."""
    flip: bool = True
    """`true`: half of the images are mirrored."""
    randaugment: RandAugment | None = RandAugment()
    """Random changes of brightness, sharpness, contrast and geometry; `null`: none."""

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is not [smallest, largest] with 0 < smallest <= largest <= 1")
        return value


class Training(Section):
    """The training loop of both stages. An epoch shows every caption once."""

    epochs: Annotated[int, Field(ge=1, le=100_000), NUMBER] = 10
    """Number of epochs. An epoch shows every caption once; captions that do not fill a batch are left out."""
    batch_size: Annotated[int, Field(ge=2, le=2**20, json_schema_extra={"unit": "captions"}), NUMBER] = 36
    """Captions of a step over all processes together; each process must get the same number, at least 2."""
    learning_rate: Above0 = 3e-5
    """AdamW's highest learning rate, reached by a linear warm-up and followed by a linear decay to 0."""
    lr_mult: Above0 = 2.0
    """Factor of the learning rate for the heads that start from random weights: a teacher's projections and
    matching head, a student's teacher projections."""
    weight_decay: Weight = 0.01
    """AdamW's weight decay; biases, norms and learnt scalars have none."""
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    """AdamW's two betas."""
    eps: Above0 = 1e-8
    """AdamW's epsilon."""
    warmup: Fraction = 0.1
    """Share of all steps in which the learning rate rises."""
    clip_norm: Above0 | None = None
    """Largest norm of the gradient; `null`: not clipped."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass. Quote `"no"`: YAML reads it as false."""
    augmentation: Augmentation | None = Augmentation()
    """Random changes of training images; `null`: none, images are presented as in evaluation. A frozen vision encoder
    then computes its tokens of each image once, instead of once for each caption and epoch."""
    max_words: Words = 60
    """Words of a training caption; the rest is cut off."""
    processes: Processes = 1
    """Processes of one training, and of a trained teacher's features: one for each GPU, or on the CPU where there
    is no GPU."""
    itm_pool: Annotated[int, Field(ge=2, le=2**20), NUMBER] | None = None
    """How many pairs matching negatives are drawn from: the batch is split into pools of this size, in order. Must
    divide `batch_size` / `processes`. A smaller pool contains easier negatives. `null`: the whole batch, with one
    process only, so that the number of processes never changes the method."""
    workers: Workers = 4
    """Loading processes of each training process; 0: load in the training process."""
    checkpoint_steps: Positive = 500
    """A resumable state is saved after every so many steps, at the end of each epoch, and when the run is
    stopped."""
    val_candidates: Positive = 16
    """As `candidates` of `evaluation`, for the scores on val after each epoch."""
    selected_by: Literal["r_mean", "balanced"] = "r_mean"
    """The score on val whose best epoch gives the weights that are kept. `r_mean`: mean recall between images and
    texts. `balanced`: mean of the three ways: that R-mean, mean NDCG@10 of I→I and T→T, mean NDCG@10 of I→IT and
    T→IT; it needs the relevance of val, which the workflow then computes."""
    patience: Positive | None = None
    """Stop after so many epochs without a better score on val; `null`: never."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.processes or self.batch_size // self.processes < 2:
            raise ValueError(
                f"batch_size {self.batch_size} is the global batch; it must give each of the {self.processes} "
                "processes the same number of captions, at least 2"
            )
        return self

    @model_validator(mode="after")
    def _pools_fill_each_process(self) -> Self:
        """Without this, another number of processes would be another method."""
        share = self.batch_size // self.processes
        fits = ", ".join(str(size) for size in range(2, share + 1) if share % size == 0)
        if self.itm_pool is None and self.processes > 1:
            raise ValueError(
                f"itm_pool: missing; processes is {self.processes}, so say how many pairs matching negatives are drawn "
                f"from: one of {fits}, which divide the {share} captions of each process"
            )
        if self.itm_pool is not None and share % self.itm_pool:
            raise ValueError(
                f"itm_pool: {self.itm_pool} does not divide the {share} captions that each of the {self.processes} "
                f"process(es) gets of batch_size {self.batch_size}; use one of {fits}"
            )
        return self


class TeacherWeights(Section):
    """Weights of the losses of stage 1."""

    itc: Weight = 1.0
    """Weight of (a), image-text contrast."""
    itm: Weight = 2.0
    """Weight of (b), image-text matching."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0; give at least one loss a positive weight")
        return self


class StudentWeights(TeacherWeights):
    """Weights of the losses of stage 2: docs/METHOD.md, "Losses", a to i in this order."""

    iic: Weight = 1.0
    """Weight of (c), representation distillation of images."""
    ttc: Weight = 2.0
    """Weight of (d), representation distillation of texts."""
    kd: Weight = 2.0
    """Weight of (e), relations of the fused student against the fused teacher relations."""
    kdi: Weight = 1.0
    """Weight of (f), the image teacher's relations against the fused relations."""
    kdt: Weight = 1.0
    """Weight of (g), the text teacher's relations against the fused relations."""
    rdi: Weight = 0.0
    """Weight of (h), the relations of the image embeddings against those of the image teacher; not published."""
    rdt: Weight = 0.0
    """Weight of (i), the relations of the text embeddings against those of the text teacher; not published."""


class Teacher(Section):
    """What single-modal features are extracted from; `batch_size`, `workers` and `processes` are the extraction's."""

    if TYPE_CHECKING:  # fields of one kind, properties of the other
        kind: str

        @property
        def batch_size(self) -> int: ...
        @property
        def workers(self) -> int: ...
        @property
        def processes(self) -> int: ...


class TrainedTeacher(Teacher):
    """A retrieval model trained with contrast and matching (stage 1)."""

    title = "a trained teacher's section"
    kind: Literal["retrieval"] = "retrieval"
    """A model trained with contrast and matching (stage 1); this kind is the default."""
    model: Name | None = None
    """Name in `models` that training starts from; the only one if not given."""
    weights: TeacherWeights = TeacherWeights()
    """Weights of the losses of stage 1, at least one above 0."""
    training: Training = Training()
    """Settings of the training loop, laid over the shared `training`."""

    @property
    def batch_size(self) -> int:
        return self.training.batch_size

    @property
    def workers(self) -> int:
        return self.training.workers

    @property
    def processes(self) -> int:
        return self.training.processes


class TextFeatures(Section):
    """A text model that gives teacher features as it is."""

    weights: PlainText
    """Any text encoder of transformers: a folder or a hub name, under the same rules as a model's."""
    pooling: Literal["cls", "mean"] = "cls"
    """`cls`: the feature is that of the first token. `mean`: the mean of all tokens."""
    max_tokens: Tokens = 40
    """Tokens of a caption; the rest is cut off. Captions go in uncleaned."""


class SingleModalTeacher(Teacher):
    """A pair of single-modal models whose features are used as they are; nothing is trained."""

    title = "a single-modal teacher's section"
    kind: Literal["single-modal"]
    """A pair of single-modal models whose features are used as they are; nothing is trained."""
    vision: Vision
    """The image model, as in `models`; `frozen` changes nothing here."""
    text: TextFeatures
    """The text model."""
    batch_size: Batch = 64
    """Images, or captions, encoded at a time."""
    workers: Workers = 4
    """Loading processes of each process."""
    processes: Processes = 1
    """Processes that share the work: one for each GPU, or on the CPU where there is no GPU."""


class StoredFeatures(Section):
    """Folders of features from elsewhere, see `rvlr.data.stored`."""

    train: UserPath
    """Folder with `image.npy`, `text.npy` and `index.json` of the training images and captions, and of others if
    need be."""
    test: UserPath | None = None
    """Such a folder of the test split, which may be the same one; `null`: the features have no row in the tables."""


class StoredTeacher(Section):
    """Features that were made elsewhere; nothing is trained or extracted here, so no stage reads this section."""

    kind: Literal["stored"]
    """Features that were made elsewhere, by any encoders."""
    features: StoredFeatures
    """Where they lie."""

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each split whose features are given."""
        given = {"train": self.features.train, "test": self.features.test}
        return {split: folder for split, folder in given.items() if folder is not None}


ExtractedTeacher = Annotated[TrainedTeacher | SingleModalTeacher, Field(discriminator="kind")]
AnyTeacher = Annotated[TrainedTeacher | SingleModalTeacher | StoredTeacher, Field(discriminator="kind")]


class FusionWeight(Section):
    """The weight lambda of the text teacher in the fused relation E = lambda T_txt + (1 - lambda) T_img."""

    value: Fraction = 0.5
    """Initial value of lambda."""
    learnt: bool = True
    """`false`: lambda stays at its initial value."""


DISTANCE_NAMES = {"kl": "cumulative", "wd": "wasserstein"}
"""The published code's names of distances: its `kl` is no Kullback-Leibler divergence."""


class Student(Section):
    """A model trained with all terms against a teacher's features (stage 2)."""

    title = "a student's section"
    teacher: Name
    """Name in `teachers` of the teacher whose features are distilled."""
    start: Name | None = None
    """What training starts from: the name of a trained teacher or of a model. Default: the teacher; for a teacher
    that is not trained the only model."""
    weights: StudentWeights = StudentWeights()
    """Weights of the losses of stage 2, at least one above 0; a loss with weight 0 is not computed."""
    distance: Literal["mae", "mse", "cumulative", "wasserstein"] = "mae"
    """Distance between relations. `mae`: mean absolute difference. `mse`: mean squared difference. `cumulative`:
    mean absolute difference of cumulative sums (also `kl`, the published code's name). `wasserstein` (also `wd`):
    row-wise 1-D Wasserstein distance of learnt projections; `kdi` and `kdt` are then 0."""
    fusion_weight: FusionWeight = FusionWeight()
    """Lambda, the weight of the text teacher in the fused relations."""
    training: Training = Training()
    """Settings of the training loop, laid over the shared `training`."""

    @property
    def batch_size(self) -> int:
        return self.training.batch_size

    @property
    def processes(self) -> int:
        return self.training.processes

    @field_validator("distance", mode="before")
    @classmethod
    def _published_names(cls, value: Any) -> Any:
        return DISTANCE_NAMES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _wasserstein_needs_kd(self) -> Self:
        if self.distance == "wasserstein" and not self.weights.kd:
            raise ValueError("distance is wasserstein, which has no kdi and kdt, and kd has weight 0; give kd a weight")
        return self
