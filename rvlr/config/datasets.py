"""The section `dataset`: every kind of data set, with all that the workflow must know of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rvlr.config.base import NUMBER, Name, Positive, Section, Seed, UserPath, pixels
from rvlr.config.sources import SOURCES


def _images(least: int, most: int = 1_000_000) -> Any:
    return Field(ge=least, le=most, json_schema_extra={"unit": "images"})


class Cache(Section):
    """Copies of the images, scaled down once, that training reads instead of the originals."""

    short_side: Annotated[int, pixels(16, 2**16), NUMBER] = 640
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
    knows_scenes: ClassVar[bool] = False
    """Whether what its images show is known, see `rvlr.relevance.write_scenes`."""

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
    knows_scenes = True
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
    image_size: Annotated[int, pixels(32, 512), NUMBER] = 64
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
    fold: Annotated[int, Field(ge=0, lt=1_000), NUMBER] = 0
    """For cross-validation: which of the disjoint test splits of this seed and this `test` is drawn; 0: the first. With
    `test: 0.25` there are the folds 0 to 3."""
    redraw: bool = False
    """`true`: splits that the captions file names are ignored, and drawn too."""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val + test is {self.val + self.test:g}, which leaves nothing to train on; keep it below 1"
            )
        folds = int(1 / self.test + 1e-9)
        if self.fold >= folds:
            raise ValueError(
                f"fold is {self.fold}, but a test share of {self.test:g} has only the folds 0 to {folds - 1}"
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
