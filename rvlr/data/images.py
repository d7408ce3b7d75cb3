"""Images: decoding, the fixed transform of evaluation and the random one of training.

METHOD.md, "Training": RandomResizedCrop, horizontal flip, RandAugment; evaluation resizes to a square, bicubic.
"""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from rvlr import config
from rvlr.data.records import IMAGE_FORMATS
from rvlr.errors import UserError

_GREY = [128, 128, 128]


def load_image(path: Path) -> Image.Image:
    """Decode one image as RGB, turned upright. Raises UserError naming the file."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; run the prepare stage again, or put the file back") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: unreadable image: {error}") from error


class RandAugment(torch.nn.Module):
    """`operations` random changes of strength `magnitude` (of 10): METHOD.md, "Training". Expects a PIL image.

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
            image = self._apply(self.NAMES[choice], image, sign)
        return image

    def _apply(self, name: str, image: Image.Image, sign: int) -> Image.Image:
        factor = 0.1 + 1.8 * self.strength
        if name == "identity":
            return image
        if name in ("autocontrast", "equalize"):
            return getattr(F, name)(image)
        if name == "brightness":
            return F.adjust_brightness(image, factor)
        if name == "sharpness":
            return F.adjust_sharpness(image, factor)
        angle, translate, shear = 0.0, [0.0, 0.0], [0.0, 0.0]
        axis = 0 if name.endswith("x") else 1
        if name == "rotate":
            angle = sign * 30 * self.strength
        elif name.startswith("translate"):
            translate[axis] = sign * 10 * self.strength
        else:
            shear[axis] = sign * float(torch.rad2deg(torch.atan(torch.tensor(0.3 * self.strength))))
        return F.affine(image, angle, translate, 1.0, shear, interpolation=InterpolationMode.BILINEAR, fill=_GREY)


def evaluation_transform(image_size: int, mean: config.Triple, std: config.Triple) -> v2.Transform:
    """PIL image -> (3, image_size, image_size) float32, normalised."""
    return v2.Compose([v2.Resize((image_size, image_size), InterpolationMode.BICUBIC), *_to_tensor(mean, std)])


def training_transform(
    image_size: int, mean: config.Triple, std: config.Triple, augmentation: config.Augmentation
) -> v2.Transform:
    """PIL image -> (3, image_size, image_size) float32, randomly changed (torch's global generator), normalised."""
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop((image_size, image_size), augmentation.scale, interpolation=InterpolationMode.BICUBIC)
    ]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.randaugment is not None:
        steps.append(RandAugment(augmentation.randaugment.operations, augmentation.randaugment.magnitude))
    return v2.Compose([*steps, *_to_tensor(mean, std)])


def _to_tensor(mean: config.Triple, std: config.Triple) -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
