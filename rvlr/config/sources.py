"""Sources: every file that `rvlr` can fetch, where it is kept and how it is checked. One table, `SOURCES`.

The section `sources` of the configuration overrides addresses and checksums, or names local files. Sizes are bytes;
checksums are `md5:`, `sha256:` or, for files kept in git, `git:` (the blob id), and None where none is published.
"""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from rvlr.config.base import NUMBER, Section, UserPath
from rvlr.faults import did_you_mean

Address = Annotated[
    str,
    Field(
        pattern=r"^https?://[^/\s]+/\S*$",
        json_schema_extra={"allowed": "an address that begins with http:// or https://"},
    ),
]
Checksum = Annotated[
    str,
    Field(
        pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|git:[0-9a-f]{40})$",
        json_schema_extra={"allowed": "md5:, sha256: or git: and the 32, 64 or 40 digits, 0-9 and a-f"},
    ),
]


class Origin(Section):
    """Where one file comes from, `addresses` or an `existing` local file or folder, and how the file is checked."""

    addresses: list[Address] = []
    """Addresses, tried in order."""
    size: Annotated[int, Field(ge=1, json_schema_extra={"unit": "bytes"}), NUMBER] | None = None
    """Size, also for other addresses and local files. `null`: not checked."""
    checksum: Checksum | None = None
    """Checksum, also for other addresses and local files. `null`: not checked."""
    images: Annotated[int, Field(ge=1), NUMBER] | None = None
    """Number of images in an archive. `null`: not checked."""
    existing: UserPath | None = None
    """A local file, archive or folder of images: linked, never copied, and nothing is fetched."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.existing is not None and self.addresses:
            raise ValueError("existing and addresses are both given; give the one that is to be used")
        return self


@dataclass(frozen=True)
class Source:
    """A file that `rvlr` can fetch.

    file: path below the folder of downloads. about: content of the file. terms: terms of use. origin: default origin.
    folder: of an archive of images, the folder of the images below the folder of downloads. request: of a file that
    has to be requested, the page for the request.
    """

    file: str
    about: str
    terms: str
    origin: Origin
    folder: str | None = None
    request: str | None = None


_AUTHORS = (
    "https://raw.githubusercontent.com/njustkmg/TIP24-Rebalanced_Vision_Language_Retrieval/"
    "b99c88b2b8bce7c4c70357f8899ba84d0da933c2/data"
)
_BERT = "https://huggingface.co/google-bert/bert-base-uncased/resolve/86b5e0934494bd15c9632b12f734a8a67f723594"
_CXC = (
    "https://raw.githubusercontent.com/google-research-datasets/Crisscrossed-Captions/"
    "7d6634be173a6f6a16ab1e61bebc217de8444513/data"
)
CXC = ("cxc-sis", "cxc-sts", "cxc-sits")
"""The ratings of Crisscrossed Captions, which lie in one folder."""
_COCO_TERMS = "captions CC BY 4.0; images under Flickr's terms of use, each under a Creative Commons licence of its own"
_FLICKR_TERMS = "for research and education only; images under Flickr's terms of use"
_VIZWIZ_TERMS = "CC BY 4.0"


def _annotation(name: str, blob: str, terms: str) -> Source:
    origin = Origin(addresses=[f"{_AUTHORS}/{name}.json"], checksum=f"git:{blob}")
    return Source(f"{name.partition('_')[0]}/{name}.json", "the paper's annotations", terms, origin)


def _coco_images(name: str, size: int, md5: str, images: int) -> Source:
    hosts = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
    addresses = [f"{host}/zips/{name}.zip" for host in hosts]
    origin = Origin(addresses=addresses, size=size, checksum=f"md5:{md5}", images=images)
    return Source(f"coco/{name}.zip", f"MS-COCO images, {name}", _COCO_TERMS, origin, f"coco/images/{name}")


def _cxc(kind: str, about: str, size: int, blob: str) -> Source:
    origin = Origin(addresses=[f"{_CXC}/{kind}_test.csv"], size=size, checksum=f"git:{blob}")
    about = f"Crisscrossed Captions, people's ratings of {about} of COCO test"
    return Source(f"cxc/{kind}_test.csv", about, "may be used for any purpose; Google LLC is the source", origin)


def _vizwiz_images(name: str, images: int) -> Source:
    address = f"https://vizwiz.cs.colorado.edu/VizWiz_final/images/{name}.zip"
    origin = Origin(addresses=[address], images=images)
    return Source(f"vizwiz/{name}.zip", f"VizWiz images, {name}", _VIZWIZ_TERMS, origin, f"vizwiz/images/{name}")


def _bert(file: str, checksum: str | None = None, size: int | None = None) -> Source:
    origin = Origin(addresses=[f"{_BERT}/{file}"], checksum=checksum, size=size)
    return Source(f"weights/bert-base-uncased/{file}", "BERT-base, uncased", "Apache-2.0", origin)


SOURCES: dict[str, Source] = {
    "coco-train2014": _coco_images("train2014", 13_510_573_713, "0da8c0bd3d6becc4dcb32757491aca88", 82_783),
    "coco-val2014": _coco_images("val2014", 6_645_013_297, "a3d79f5ed8d289b7a7554ce06a5782b3", 40_504),
    "coco-val-captions": _annotation("coco_val", "ce54a507321dd202687ddeee26012aba35758ee8", _COCO_TERMS),
    "coco-test-captions": _annotation("coco_test", "57ecfdb70b789b61227be54b57d6c525741637dd", _COCO_TERMS),
    "karpathy-captions": Source(
        "karpathy/caption_datasets.zip",
        "Karpathy's splits of MS-COCO, Flickr30K and Flickr8K with captions",
        "those of the three data sets",
        Origin(
            addresses=["https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"],
            size=36_745_453,
            checksum="sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
        ),
    ),
    "cxc-sis": _cxc("sis", "image pairs", 3_440_207, "6f34d8eb1e831334e3735c2909c498b950b4a4bd"),
    "cxc-sts": _cxc("sts", "caption pairs", 3_096_467, "ec31745aa3932ea01a580196aca9e37f009b4bfd"),
    "cxc-sits": _cxc("sits", "pairs of a caption and an image", 3_339_144, "e6c5c4582ef07e84a6c769c298dfcb4de1d4db57"),
    "flickr30k-images": Source(
        "flickr30k/flickr30k-images.zip",
        "Flickr30K images",
        _FLICKR_TERMS,
        Origin(),
        "flickr30k/images/flickr30k-images",
        request="https://shannon.cs.illinois.edu/DenotationGraph/",
    ),
    "flickr30k-train-captions": _annotation(
        "flickr30k_train", "a2b6e9c1db2a75143ad4ae647860c252c9e0ad5f", _FLICKR_TERMS
    ),
    "flickr30k-val-captions": _annotation("flickr30k_val", "6e3d32ac71e970d76cfd8ce2c8978615294265fe", _FLICKR_TERMS),
    "flickr30k-test-captions": _annotation("flickr30k_test", "92124868738912e969efb4482bf56393e4976836", _FLICKR_TERMS),
    "vizwiz-train-images": _vizwiz_images("train", 23_431),
    "vizwiz-val-images": _vizwiz_images("val", 7_750),
    "vizwiz-train-captions": _annotation("vizwiz_train", "cac112f75bbb199ecf861b36e1cf8a056935976d", _VIZWIZ_TERMS),
    "vizwiz-test-captions": _annotation("vizwiz_test", "a71244f3407c35ce8feaf8820e0d635114da7159", _VIZWIZ_TERMS),
    "vizwiz-official-captions": Source(
        "vizwiz/annotations.zip",
        "VizWiz's own caption annotations",
        _VIZWIZ_TERMS,
        Origin(addresses=["https://vizwiz.cs.colorado.edu/VizWiz_final/caption/annotations.zip"]),
    ),
    "swin-base-22k": Source(
        "weights/swin_base_patch4_window7_224_22k.pth",
        "Swin-B of Microsoft, ImageNet-22k, 224 pixels",
        "MIT",
        Origin(
            addresses=[
                "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
                "swin_base_patch4_window7_224_22k.pth"
            ]
        ),
    ),
    "bert-config": _bert("config.json"),
    "bert-tokenizer": _bert("tokenizer.json"),
    "bert-tokenizer-config": _bert("tokenizer_config.json"),
    "bert-vocabulary": _bert(
        "vocab.txt", "sha256:07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508
    ),
    "bert-weights": _bert(
        "model.safetensors", "sha256:68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3", 440_449_768
    ),
}


def resolve(name: str, given: Origin | None) -> Origin:
    """The origin of the source `name`: that of the table, with the settings of the configuration laid over it.

    Size, checksum and number of images are those of the file: they apply to other addresses and to local files too,
    unless the configuration gives others, or null.
    """
    found = SOURCES[name].origin.model_dump()
    if given is not None:
        found |= given.model_dump(exclude_unset=True)
        if given.existing is not None:
            found["addresses"] = []
    return Origin(**found)


def check_name(name: str) -> str:
    """Return the `name` of a source. Raises ValueError with all names if there is no such source."""
    if name not in SOURCES:
        raise ValueError(f"no source has this name; known: {', '.join(SOURCES)}{did_you_mean(name, SOURCES)}")
    return name


Sources = dict[Annotated[str, AfterValidator(check_name)], Origin]
"""The section `sources`: origins by the names of `SOURCES`."""
