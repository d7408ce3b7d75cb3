"""Images: decoding, the fixed transform of evaluation and the random one of training.

Every stage decodes an image the same way, with `decode`: upright by EXIF and RGB. Transparent images lie on white,
16-bit grey is scaled to 8 bits, colour profiles are ignored. docs/METHOD.md, "Training": RandomResizedCrop, horizontal
flip, RandAugment; evaluation resizes to a square, bicubic.
"""

import errno
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from rvlr import config
from rvlr.data.missing import explain_missing
from rvlr.data.records import IMAGE_FORMATS
from rvlr.errors import UserError

_GREY = [128, 128, 128]
_FLATTEST = 4 / 3  # of the crops that RandomResizedCrop draws; the others are 3/4 to 4/3 as wide as high
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# --- decoding -----------------------------------------------------------------------------------------------------


class ImageError(Exception):
    """What is wrong with an image file, in words that follow its name, and how to fix it."""


class Stored(NamedTuple):
    """How a file stores its image: Pillow's names of format and mode, whether EXIF turns it, and the file's bytes."""

    format: str
    mode: str
    turned: bool
    size: int


def load_image(path: Path, at_least: int | None = None) -> Image.Image:
    """Decode one image as RGB, turned upright; `at_least` as in `decode`. Raises UserError naming the file."""
    try:
        return decode(path, at_least)[0]
    except ImageError as fault:
        raise UserError(f"image {path} {fault}") from fault


def decode(path: Path, at_least: int | None = None) -> tuple[Image.Image, Stored]:
    """One image as RGB, turned upright, and how the file stored it. Raises ImageError.

    at_least: a JPEG may come at half, a quarter or an eighth of its size, which is faster, as long as no side falls
    below so many pixels. Only sizes that the factor divides are reduced: else the decoder pads the image, and all of it
    would be shifted. None: in full.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is not a file; give the path of an image file")
        if status.st_size == 0:
            raise ImageError("is an empty file (0 bytes); replace it")
        with path.open("rb") as stream, Image.open(stream, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow itself refuses twice as many
                raise Image.DecompressionBombError
            stored = Stored(image.format or "", image.mode, _orientation(image) in _TURNS, status.st_size)
            if at_least is not None:
                _reduce(image, at_least)
            return upright(image), stored
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(explain_missing(path)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        known = ", ".join(IMAGE_FORMATS)
        raise ImageError(f"is not an image in a known format ({known}); convert or replace it") from None
    except Exception as error:  # on damaged files the decoders raise almost anything
        if isinstance(error, OSError) and error.filename is not None:  # the system refuses to open it
            advice = "shorten its name" if error.errno == errno.ENAMETOOLONG else "check the file and its permissions"
            raise ImageError(f"cannot be read: {error.strerror}; {advice}") from error
        raise ImageError(f"cannot be read: {str(error) or type(error).__name__}; replace it") from error


def upright(image: Image.Image) -> Image.Image:
    """An image of Pillow in any mode as RGB, turned upright by its EXIF. Raises ImageError, or what Pillow raises."""
    picture = _to_rgb(image)
    turn = _TURNS.get(_orientation(image))  # gone by now if the decoder has turned the image itself
    return picture if turn is None else picture.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation. `ImageOps.exif_transpose` would also write the EXIF again, which fails on odd ones."""
    orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation


def _reduce(image: Image.Image, at_least: int) -> None:
    for factor in (8, 4, 2):
        width, height = image.width // factor, image.height // factor
        if image.size == (width * factor, height * factor) and min(width, height) >= at_least:
            image.draft(None, (width, height))
            return


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)  # 0 to 65535, which Pillow would cut off at 255
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("has 32 bits a pixel, and nothing says which value is white; save it with 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# --- transforms ---------------------------------------------------------------------------------------------------


class ImageTransform:
    """Steps from a PIL image to a tensor (3, H, W), and how many pixels an image of reduced size (`load_image`) must
    keep on each side for them."""

    def __init__(self, steps: Sequence[torch.nn.Module], at_least: int | None) -> None:
        self.transforms, self.at_least = v2.Compose(steps), at_least

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = self.transforms(image)
        return pixels


class RandAugment(torch.nn.Module):
    """`operations` random changes of strength `magnitude` (of 10): docs/METHOD.md, "Training". Expects a PIL image.

    Brightness and sharpness are scaled by 0.1 + 1.8 m/10; shear is 0.3 m/10, translation 10 pixels m/10 and rotation
    30 degrees m/10, each to a random side, the uncovered area filled with grey.
    """

    NAMES = (
        "identity",
        "autocontrast",
        "equalize",
        "brightness",
        "sharpness",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "rotate",
    )

    def __init__(self, operations: int, magnitude: int) -> None:
        super().__init__()
        self.operations, self.strength = operations, magnitude / 10

    def forward(self, image: Image.Image) -> Image.Image:
        for choice in torch.randint(len(self.NAMES), (self.operations,)).tolist():
            sign = 1 if torch.rand(()) < 0.5 else -1
            image = self._change(self.NAMES[choice], image, sign)
        return image

    def _change(self, name: str, image: Image.Image, sign: int) -> Any:  # an image; torchvision has no types
        factor = 0.1 + 1.8 * self.strength
        if name == "identity":
            return image
        if name in ("autocontrast", "equalize"):
            return getattr(F, name)(image)
        if name in ("brightness", "sharpness"):
            return getattr(F, f"adjust_{name}")(image, factor)
        angle, translate, shear = 0.0, [0.0, 0.0], [0.0, 0.0]
        axis = 0 if name.endswith("x") else 1
        if name == "rotate":
            angle = sign * 30 * self.strength
        elif name.startswith("translate"):
            translate[axis] = sign * 10 * self.strength
        else:
            shear[axis] = sign * float(torch.rad2deg(torch.atan(torch.tensor(0.3 * self.strength))))
        return F.affine(image, angle, translate, 1.0, shear, interpolation=InterpolationMode.BILINEAR, fill=_GREY)


def evaluation_transform(image_size: int, mean: config.Triple, std: config.Triple) -> ImageTransform:
    """PIL image -> (3, image_size, image_size) float32, normalised.

    Reduced images keep twice the pixels that are needed on each side. The tensors of photographs then differed from
    those of full images by 0.3 to 0.5 of 255 levels on average; with no more pixels than needed, by 0.9 to 1.9.
    """
    resize = v2.Resize((image_size, image_size), InterpolationMode.BICUBIC)
    return ImageTransform([resize, *_to_tensor(mean, std)], at_least=2 * image_size)


def training_transform(
    image_size: int, mean: config.Triple, std: config.Triple, augmentation: config.Augmentation | None
) -> ImageTransform:
    """PIL image -> (3, image_size, image_size) float32, randomly changed (torch's global generator), normalised.
    Without augmentation it is the transform of evaluation.

    The short side of a crop is at least sqrt(smallest share of the area * 3/4) of the image's short side, and the image
    keeps so many pixels that this is `image_size`: no crop is enlarged because the image was reduced.
    """
    if augmentation is None:
        return evaluation_transform(image_size, mean, std)
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop((image_size, image_size), augmentation.scale, interpolation=InterpolationMode.BICUBIC)
    ]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.randaugment is not None:
        steps.append(RandAugment(augmentation.randaugment.operations, augmentation.randaugment.magnitude))
    at_least = math.ceil(image_size * math.sqrt(_FLATTEST / augmentation.scale[0]))
    return ImageTransform([*steps, *_to_tensor(mean, std)], at_least)


def _to_tensor(mean: config.Triple, std: config.Triple) -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std), inplace=True)]
