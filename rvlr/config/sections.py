"""The sections of the configuration, each the input of one stage.

Defaults are the published values of docs/METHOD.md where there is one. The docstring of a field describes its key.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from rvlr.config.base import NUMBER, Number, PlainText, Section, Seed, UserPath, plain_values
from rvlr.config.sources import SOURCES


def _check_repetition(name: str) -> str:
    """Names become wildcards of Snakemake, to which a long repetition looks like an endless recursion of its rules."""
    if re.search(r"(.+?)\1{19}$", name):
        raise ValueError(
            f"found {name!r}; Snakemake refuses names that end in the same characters 20 times; shorten it"
        )
    return name


# Upper limits are generous: above them a run would never end, or fill the memory, before it could say why.
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?$",
        max_length=100,  # with what results add to it, still the name of a file
        json_schema_extra={
            "allowed": "a name of letters, digits, '.', '_' and '-', beginning with a letter or digit, not ending in "
            "'.', of at most 100 characters"
        },
    ),
    AfterValidator(_check_repetition),
]
Fraction = Annotated[float, Field(ge=0, le=1), NUMBER]
Beta = Annotated[float, Field(ge=0, lt=1), NUMBER]
Above0 = Annotated[float, Field(gt=0), NUMBER]
Positive = Annotated[int, Field(ge=1, le=10**9), NUMBER]
Epsilon = Annotated[float, Field(gt=0, lt=1), NUMBER]
Temperature = Annotated[float, Field(ge=1e-4, le=1e4), NUMBER]  # finite, and not 0 in single precision
Layers = Annotated[int, Field(ge=1, le=100), NUMBER]
Width = Annotated[int, Field(ge=1, le=2**16), NUMBER]
Tokens = Annotated[int, Field(ge=4, le=2**16, json_schema_extra={"unit": "tokens"}), NUMBER]
Words = Annotated[int, Field(ge=1, le=2**16, json_schema_extra={"unit": "words"}), NUMBER]
Workers = Annotated[int, Field(ge=0, le=256), NUMBER]
Processes = Annotated[int, Field(ge=1, le=64), NUMBER]
Batch = Annotated[int, Field(ge=1, le=2**20), NUMBER]
Weight = Annotated[float, Field(ge=0), NUMBER]
Triple = tuple[Number, Number, Number]


def _pixels(least: int, most: int) -> Any:
    return Field(ge=least, le=most, json_schema_extra={"unit": "pixels"})


def _images(least: int, most: int = 1_000_000) -> Any:
    return Field(ge=least, le=most, json_schema_extra={"unit": "images"})


# --- dataset -----------------------------------------------------------------------------------------------------


class Cache(Section):
    """Copies of the images, scaled down once, that training reads instead of the originals."""

    short_side: Annotated[int, _pixels(16, 2**16), NUMBER] = 640
    """Shorter side of the copies. Smaller images stay as they are. Below 628 the smallest crops for `image_size:
    384` are enlarged."""
    format: Literal["jpeg", "webp"] = "jpeg"
    """File format of the copies."""
    quality: Annotated[int, Field(ge=1, le=100), NUMBER] = 95
    """Quality of the compression, 100 is best."""


class Dataset(Section):
    """A data set, with all that the workflow needs of it; `rvlr.datasets` makes its splits.

    A new kind of data set is a subclass, named in `AnyDataset`, and a module of `rvlr.datasets`; the files that it
    fetches are entries of `SOURCES`.
    """

    if TYPE_CHECKING:  # each kind declares these fields itself: frozen sections keep the order of their keys
        kind: str
        name: str
    makes_images: ClassVar[bool] = False
    """Whether the preparation makes the images, too."""

    @property
    def module(self) -> str:
        """The module of `rvlr.datasets` that prepares the data set."""
        return self.kind

    @property
    def annotation_sources(self) -> dict[str, str]:
        """For each split that is read from a fetched file: the name of that file in `SOURCES`."""
        return {}

    @property
    def image_sources(self) -> dict[str, str]:
        """For each folder of fetched images, below `downloads/KIND/images`: the name of its archive in `SOURCES`."""
        root = f"{self.kind}/images/"
        folders = {name: source.folder or "" for name, source in SOURCES.items()}
        return {folder.removeprefix(root): name for name, folder in folders.items() if folder.startswith(root)}

    @property
    def own_files(self) -> dict[str, Path]:
        """The user's files and folders that the preparation reads, by their keys."""
        return {}

    @property
    def own_captions(self) -> Path | None:
        """The user's captions file. The data set is prepared again when it is not the one whose digest the preparation
        stored as `captions_sha256` in `dataset.json`."""
        return self.own_files.get("captions")

    @property
    def copies(self) -> Cache | None:
        """The key `cache`, of those kinds that have it."""
        return getattr(self, "cache", None)

    @property
    def test_images(self) -> int | None:
        """The number of test images; None if it is not known before the preparation."""
        return None

    @property
    def train_captions(self) -> int | None:
        """The number of training captions; None if it is not known before the preparation."""
        return None


class Shapes(Dataset):
    """The embedded data set of rendered scenes, see `rvlr.datasets.shapes`."""

    title = "a data set's section"
    makes_images = True
    kind: Literal["shapes"] = "shapes"
    """Rendered scenes, made on the spot."""
    name: Name = "shapes"
    """Folder in `results/`; give each data set its own."""
    seed: Seed = 0
    """Seed of the scenes and captions; independent of `seeds`."""
    train: Annotated[int, _images(1), NUMBER] = 1500
    """Number of training images. Another number leaves the images of `val` and `test` as they are."""
    val: Annotated[int, _images(2), NUMBER] = 200
    """Number of validation images."""
    test: Annotated[int, _images(2), NUMBER] = 400
    """Number of test images."""
    image_size: Annotated[int, _pixels(32, 512), NUMBER] = 64
    """Side of the square images."""
    captions_per_image: Annotated[int, Field(ge=1, le=1_000), NUMBER] = 5
    """Number of captions of each image."""
    imbalance: Annotated[float, Field(ge=-1, le=1), NUMBER] = 0.0
    """Above 0, captions leave out more of what the images show. Below 0, images hide what the captions say. At 0,
    both say much."""

    @property
    def test_images(self) -> int:
        return self.test

    @property
    def train_captions(self) -> int:
        return self.train * self.captions_per_image


class SplitRatio(Section):
    """Shares of the images that go to val and test where the captions file names no splits."""

    val: Annotated[float, Field(gt=0, lt=1), NUMBER] = 0.1
    """Share of the images that go to val, at least 2 images. Below 1 together with `test`."""
    test: Annotated[float, Field(gt=0, lt=1), NUMBER] = 0.1
    """Share of the images that go to test, at least 2 images."""
    seed: Seed = 0
    """Seed of the draw, which depends on the ids of the images alone, not on their order."""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val + test is {self.val + self.test:g}, which leaves nothing to train on; keep it below 1"
            )
        return self


class Custom(Dataset):
    """The user's own photographs and captions, see `rvlr.datasets.custom`."""

    title = "a section of your own photographs"
    kind: Literal["custom"]
    """Your own photographs and captions."""
    name: Name = "custom"
    """Folder in `results/`; give each data set its own."""
    images: UserPath
    """Folder of the images."""
    captions: UserPath
    """Captions file, ending in `.json`, `.jsonl` or `.csv`."""
    split: SplitRatio = SplitRatio()
    """How images are divided where the captions file names no splits."""
    cache: Cache | None = None
    """Copies of the images, scaled down once, for training and evaluation to read; `null`: none. Worth it for
    VizWiz and photographs of phones and cameras, see benchmarks/README.md."""

    @property
    def own_files(self) -> dict[str, Path]:
        return {"images": self.images, "captions": self.captions}


class Counts(Section):
    """The number of images that each split must contain; None where the number is not known beforehand."""

    train: Positive | None
    """Number of images; `null`: not checked."""
    val: Positive | None
    """Number of images; `null`: not checked."""
    test: Positive | None
    """Number of images; `null`: not checked."""


class PublicSet(Dataset):
    """What the public data sets have in common, see `rvlr.datasets.public`."""

    if TYPE_CHECKING:
        annotations: str
        counts: Counts
    published: ClassVar[dict[str, dict[str, str]]]
    """For each value of `annotations`, what `annotation_sources` are."""
    captions_per_image: Positive | None = 5
    """Of val and test, for Flickr30K also of train, the first so many captions of an image are used; `null`:
    all."""
    cache: Cache | None = None
    """Copies of the images, scaled down once, for training and evaluation to read; `null`: none. Worth it for
    VizWiz and photographs of phones and cameras, see benchmarks/README.md."""

    @field_validator("counts", mode="before", check_fields=False)
    @classmethod
    def _complete_counts(cls, value: Any) -> Any:
        known = cls.model_fields["counts"].default.model_dump()
        return {**known, **value} if isinstance(value, dict) else value

    @property
    def module(self) -> str:
        return "public"

    @property
    def annotation_sources(self) -> dict[str, str]:
        return self.published[self.annotations]

    @property
    def test_images(self) -> int | None:
        return self.counts.test


class Coco(PublicSet):
    """MS-COCO 2014 in Karpathy's splits."""

    title = "COCO's section"
    published = {
        "authors": {"train": "karpathy-captions", "val": "coco-val-captions", "test": "coco-test-captions"},
        "karpathy": dict.fromkeys(("train", "val", "test"), "karpathy-captions"),
    }
    kind: Literal["coco"]
    """MS-COCO 2014 in Karpathy's splits."""
    name: Name = "coco"
    """Folder in `results/`; give each data set its own."""
    annotations: Literal["authors", "karpathy"] = "authors"
    """`authors`: the paper's files; train is Karpathy's train and restval. `karpathy`: Karpathy's file for all
    splits."""
    counts: Counts = Counts(train=113_287, val=5_000, test=5_000)
    """Number of images that each split must contain."""


class Flickr30K(PublicSet):
    """Flickr30K in Karpathy's splits."""

    title = "Flickr30K's section"
    published = {
        "authors": {name: f"flickr30k-{name}-captions" for name in ("train", "val", "test")},
        "karpathy": dict.fromkeys(("train", "val", "test"), "karpathy-captions"),
    }
    kind: Literal["flickr30k"]
    """Flickr30K in Karpathy's splits."""
    name: Name = "flickr30k"
    """Folder in `results/`; give each data set its own."""
    annotations: Literal["authors", "karpathy"] = "authors"
    """`authors`: the paper's files. `karpathy`: Karpathy's file for all splits."""
    train_on_val: bool = False
    """`true` adds val to train, as published; the epoch is then chosen on images that were trained on."""
    counts: Counts = Counts(train=29_000, val=1_014, test=1_000)
    """Number of images that each split must contain."""


class VizWiz(PublicSet):
    """VizWiz-Captions. Of its own val the paper uses 1,000 images, as test."""

    title = "VizWiz's section"
    published = {
        "authors": {"train": "vizwiz-train-captions", "test": "vizwiz-test-captions"},
        "official": dict.fromkeys(("train", "test"), "vizwiz-official-captions"),
    }
    kind: Literal["vizwiz"]
    """VizWiz-Captions."""
    name: Name = "vizwiz"
    """Folder in `results/`; give each data set its own."""
    annotations: Literal["authors", "official"] = "authors"
    """`authors`: the paper's files. `official`: VizWiz's own train and val, without rejected and precanned
    captions; test is all of its val, of which the paper drew 1,000, and a `counts.test` of 1,000 is not checked."""
    val: Literal["held-out", "published"] = "held-out"
    """`held-out`: val is drawn from train. `published`: val is the test images, as published."""
    val_images: Annotated[int, _images(2), NUMBER] = 1_000
    """Number of images held out of train for val."""
    val_seed: Seed = 0
    """Seed of that draw, which depends on the ids of the images alone."""
    counts: Counts = Counts(train=None, val=None, test=1_000)
    """Number of images that each split must contain."""


AnyDataset = Annotated[Shapes | Custom | Coco | Flickr30K | VizWiz, Field(discriminator="kind")]
"""Every kind of data set."""


# --- models ------------------------------------------------------------------------------------------------------


_NO_OPTIONS = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_model_args"),
    *("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "device", "dtype", "num_classes"),
    "model_name",
)
"""Arguments of `timm.create_model` that load something, or that are set by us."""


class VisionSettings(Section):
    """A timm backbone and how images are presented to it: what travels with a model."""

    name: PlainText = "swin_base_patch4_window12_384"
    """Any timm backbone that gives features."""
    options: Annotated[dict[PlainText, Any], AfterValidator(plain_values)] = {}
    """Further arguments of `timm.create_model`, such as `{drop_path_rate: 0.2}`."""
    image_size: Annotated[int, _pixels(16, 2048), NUMBER] = 384
    """Side of the square that images are resized to."""
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Mean of the red, green and blue channel that images are normalised with, in units of 0 to 1 (divide values of
    0 to 255 by 255); give the values that the weights were trained with."""
    std: Triple = (0.26862954, 0.26130258, 0.27577711)
    """Standard deviation of the three channels, in the same units, each at least 0.001."""
    frozen: bool = False
    """`true`: the encoder keeps its weights and learns nothing."""

    @field_validator("options")
    @classmethod
    def _options_of_the_architecture(cls, value: dict[str, Any]) -> dict[str, Any]:
        refused = [name for name in value if name in _NO_OPTIONS]
        if refused:
            raise ValueError(
                f"{', '.join(refused)}: no option of an architecture; remove it. The key weights names "
                "weights, and the rest is set by rvlr"
            )
        return value

    @field_validator("mean", "std")
    @classmethod
    def _of_values_from_0_to_1(cls, value: Triple, info: ValidationInfo) -> Triple:
        least = 0.001 if info.field_name == "std" else 0  # pixels are divided by std
        if not all(least <= each <= 1 for each in value):
            raise ValueError(
                f"{list(value)}: each must be from {least} to 1; they are in units of 0 to 1, so divide those of "
                "pixels from 0 to 255 by 255"
            )
        return value


class Vision(VisionSettings):
    """A vision encoder and the weights that it starts from."""

    weights: Literal["random", "pretrained"] | UserPath = "random"
    """`random`; `pretrained`: timm's own weights, from its cache or fetched; or a local `.safetensors` or `.pth`
    file in timm's key layout or, for Swin, Microsoft's of 2021, interpolated to `image_size` where timm can do
    so."""


class BertSize(Section):
    """Sizes of a text encoder that starts from random weights; the names are those of transformers' BertConfig."""

    hidden_size: Width = 768
    """Width, a multiple of `num_attention_heads`."""
    num_attention_heads: Width = 12
    """Number of attention heads."""
    intermediate_size: Width = 3072
    """Width of the feed-forward part."""
    hidden_dropout_prob: Fraction = 0.1
    """Dropout probability of the layers."""
    attention_probs_dropout_prob: Fraction = 0.1
    """Dropout probability of the attention."""
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**16, json_schema_extra={"unit": "tokens"}), NUMBER] = 512
    """Longest input; at least `max_tokens`."""
    initializer_range: Annotated[float, Field(gt=0, le=1), NUMBER] = 0.02
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class TextSettings(Section):
    """A BERT, cut in two, and how captions are presented to it: what travels with a model."""

    text_layers: Layers = 6
    """Number of layers of the text encoder: the first layers of the BERT."""
    fusion_layers: Layers = 6
    """Number of layers of the fusion encoder: the layers of the BERT after those. Where the BERT has too few, the
    rest starts from random weights; cross-attention always does."""
    max_tokens: Tokens = 40
    """Tokens of a caption, [CLS] and [SEP] included; the rest is cut off."""
    max_words: Words = 30
    """Words of a caption in evaluation and features; for training see `training`."""
    frozen: bool = False
    """`true`: the text encoder learns nothing; the fusion encoder still does."""


class Text(TextSettings):
    """A text encoder and the weights, or the size, that it starts from."""

    weights: Literal["random"] | PlainText = "bert-base-uncased"
    """`random`, or a BERT: a folder with `config.json`, weights and tokenizer, or a name on the Hugging Face hub,
    `NAME` or `OWNER/NAME`; what looks like a path is never looked up there. All weights must load, at most half of
    the captions' words may be unknown to the tokenizer, and no code from the folder runs (`auto_map` is
    refused)."""
    size: BertSize | None = None
    """Widths of an encoder with random weights; required with `weights: random`, refused otherwise."""

    @model_validator(mode="after")
    def _size_belongs_to_random(self) -> Self:
        if (self.weights == "random") != (self.size is not None):
            raise ValueError(
                f"weights is {self.weights!r} and size is {'given' if self.size else 'missing'}; give a size if, and "
                "only if, weights is 'random' (pretrained weights bring their own)"
            )
        if self.size and self.max_tokens > self.size.max_position_embeddings:
            raise ValueError(
                f"max_tokens {self.max_tokens} exceeds size.max_position_embeddings {self.size.max_position_embeddings}"
            )
        return self


class Model(Section):
    """The retrieval model: docs/METHOD.md, "Model"."""

    title = "a model"
    vision: Vision = Vision()
    """The image encoder."""
    text: Text = Text()
    """The text and fusion encoders."""
    embed_dim: Width = 256
    """Width of the shared embedding space."""
    temperature: Temperature = 0.07
    """Temperature tau of the contrasts: the initial value, it is learnt."""
    relation_temperature: Temperature = 0.07
    """Temperature tau2 of the relations: the initial value, it is learnt."""


# --- training ----------------------------------------------------------------------------------------------------


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
    augmentation: Augmentation = Augmentation()
    """Random changes of training images."""
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
    """As `candidates` of `evaluation`, for the scores on val after each epoch; the weights with the best R-mean on
    val are kept."""
    patience: Positive | None = None
    """Stop after so many epochs without a better R-mean on val; `null`: never."""

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
    """Weights of the seven losses of stage 2: docs/METHOD.md, "Losses", a to g in this order."""

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


AnyTeacher = Annotated[TrainedTeacher | SingleModalTeacher, Field(discriminator="kind")]


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
    """What training starts from: the name of a trained teacher or of a model. Default: the teacher; for a
    `single-modal` teacher the only model."""
    weights: StudentWeights = StudentWeights()
    """Weights of the seven losses of stage 2, at least one above 0; a loss with weight 0 is not computed."""
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


# --- evaluation --------------------------------------------------------------------------------------------------


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
