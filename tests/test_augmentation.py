"""RandAugment and the training transform as docs/METHOD.md, "Training", says, on a real photograph.

Every operation is written anew here with numpy, from its definition.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rvlr import config
from rvlr.data.images import RandAugment, load_image, training_transform

NAMES = {"identity", "autocontrast", "equalize", "brightness", "sharpness"}
NAMES |= {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}
GREY = 128


@pytest.fixture(scope="module")
def photograph(shared: Path) -> Image.Image:
    """A real photograph with its range of values narrowed, so that autocontrast has something to do."""
    path = min((shared / "data/flickr8k-mini/images").glob("*.jpg"))
    return load_image(path).point(lambda value: 20 + value * 200 // 255)


def apply(name: str, image: Image.Image, magnitude: int = 7, sign: int = 1) -> np.ndarray:
    return np.asarray(RandAugment(1, magnitude)._change(name, image, sign)).astype(int)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


class Recorder(RandAugment):
    """Notes what is drawn."""

    def __init__(self, operations: int, magnitude: int) -> None:
        super().__init__(operations, magnitude)
        self.drawn: list[tuple[str, int]] = []

    def _change(self, name: str, image: Image.Image, sign: int) -> Image.Image:
        self.drawn.append((name, sign))
        return super()._change(name, image, sign)


def test_two_of_ten_operations_are_drawn_evenly() -> None:
    assert config.Augmentation().randaugment.model_dump() == {"operations": 2, "magnitude": 7}
    assert set(RandAugment.NAMES) == NAMES
    assert len(RandAugment.NAMES) == 10
    torch.manual_seed(0)
    recorder, small = Recorder(2, 7), Image.new("RGB", (4, 4))
    for calls in range(1, 1001):
        recorder(small)
        assert len(recorder.drawn) == 2 * calls
    counts, signs = Counter(name for name, _ in recorder.drawn), Counter(recorder.drawn)
    assert set(counts) == NAMES
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, standard deviation 13
    assert all(signs[name, sign] > 50 for name in NAMES for sign in (-1, 1))


def test_identity(photograph: Image.Image) -> None:
    assert np.array_equal(apply("identity", photograph), pixels(photograph))


def test_autocontrast_stretches_each_channel_to_the_full_range(photograph: Image.Image) -> None:
    given, found = pixels(photograph), apply("autocontrast", photograph)
    low, high = given.min(axis=(0, 1)), given.max(axis=(0, 1))
    assert (low > 0).all()
    assert np.abs(found - (given - low) * 255 / (high - low)).max() <= 1
    assert (found.min(axis=(0, 1)) == 0).all()
    assert (found.max(axis=(0, 1)) == 255).all()


def test_equalize_makes_the_values_equally_frequent(photograph: Image.Image) -> None:
    given, found = pixels(photograph), apply("equalize", photograph)
    for channel in range(3):
        values = np.sort(given[..., channel].ravel())
        below = np.searchsorted(values, given[..., channel], side="left") / len(values)
        assert np.abs(found[..., channel] - 255 * below).max() <= 8  # rounding in Pillow's table adds up
        share = np.searchsorted(np.sort(found[..., channel].ravel()), [64, 128, 192]) / len(values)
        np.testing.assert_allclose(share, [0.25, 0.5, 0.75], atol=0.05)


@pytest.mark.parametrize(("magnitude", "factor"), [(0, 0.1), (5, 1.0), (7, 1.36), (10, 1.9)])
def test_brightness(photograph: Image.Image, magnitude: int, factor: float) -> None:
    found = apply("brightness", photograph, magnitude)
    assert np.abs(found - np.clip(pixels(photograph) * factor, 0, 255)).max() <= 1


@pytest.mark.parametrize(("magnitude", "factor"), [(0, 0.1), (5, 1.0), (7, 1.36), (10, 1.9)])
def test_sharpness(photograph: Image.Image, magnitude: int, factor: float) -> None:
    """Away from (or towards) the image smoothed with 3 x 3 weights of 1/13, 5/13 in the middle; the edge stays."""
    given = pixels(photograph)
    height, width, _ = given.shape
    shifted = [given[y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3)]
    smooth = np.round((sum(shifted) + 4 * given[1:-1, 1:-1]) / 13)
    expected = given.astype(float)
    expected[1:-1, 1:-1] = np.clip(smooth + factor * (given[1:-1, 1:-1] - smooth), 0, 255)
    assert np.abs(apply("sharpness", photograph, magnitude) - expected).max() <= 2


def warped(image: Image.Image, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image under x -> matrix x about its centre, bilinear and grey outside, and where it is certain: the source of
    a pixel lies a pixel or more inside or outside of the image."""
    given = pixels(image).astype(float)
    height, width, _ = given.shape
    y, x = np.mgrid[:height, :width].astype(float)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    source = np.stack([x - centre[0], y - centre[1], np.ones_like(x)], axis=-1) @ inverse.T
    sx, sy = source[..., 0] + centre[0], source[..., 1] + centre[1]
    margin = np.minimum(np.minimum(sx, width - 1 - sx), np.minimum(sy, height - 1 - sy))
    left, top = np.clip(np.floor(sx), 0, width - 2).astype(int), np.clip(np.floor(sy), 0, height - 2).astype(int)
    right, down = (sx - left)[..., None], (sy - top)[..., None]
    upper = given[top, left] * (1 - right) + given[top, left + 1] * right
    lower = given[top + 1, left] * (1 - right) + given[top + 1, left + 1] * right
    value = upper * (1 - down) + lower * down
    value[margin < 0] = GREY
    return value, np.abs(margin) > 1


TURN = math.radians(0.7 * 30)
GEOMETRY = {  # at magnitude 7, to one side
    "shear_x": [[1, 0.7 * 0.3, 0], [0, 1, 0]],
    "shear_y": [[1, 0, 0], [0.7 * 0.3, 1, 0]],
    "translate_x": [[1, 0, 0.7 * 10], [0, 1, 0]],
    "translate_y": [[1, 0, 0], [0, 1, 0.7 * 10]],
    "rotate": [[math.cos(TURN), -math.sin(TURN), 0], [math.sin(TURN), math.cos(TURN), 0]],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry(photograph: Image.Image, name: str) -> None:
    """Both signs give the change and its opposite, in either order; what is uncovered is grey."""
    matrix = np.array(GEOMETRY[name])
    opposite = matrix * np.array([[1, -1, -1], [-1, 1, -1]])
    found = {sign: apply(name, photograph, sign=sign) for sign in (1, -1)}
    distances = []
    for ways in ((matrix, opposite), (opposite, matrix)):
        total = 0.0
        for sign, way in zip((1, -1), ways, strict=True):
            expected, certain = warped(photograph, way)
            total = max(total, np.abs(found[sign] - expected)[certain].mean())
        distances.append(total)
    assert min(distances) < 0.6  # rounding, and bilinear weights of limited precision
    assert max(distances) > 5
    for image in found.values():
        assert (image == GREY).all(axis=-1).sum() > 0.02 * image.shape[0] * image.shape[1]


@pytest.mark.parametrize("name", sorted(NAMES - {"autocontrast", "equalize", "identity"}))
def test_strength_grows_with_the_magnitude(photograph: Image.Image, name: str) -> None:
    none = 5 if name in ("brightness", "sharpness") else 0
    assert np.abs(apply(name, photograph, none) - pixels(photograph)).max() <= 1
    change = [np.abs(apply(name, photograph, level) - pixels(photograph)).mean() for level in (none + 2, none + 5)]
    assert 0 < change[0] < change[1]


# --- the training transform ---------------------------------------------------------------------------------------


def transform(size: int, **changes: object) -> object:
    return training_transform(size, (0, 0, 0), (1, 1, 1), config.Augmentation(**changes))


@pytest.fixture(scope="module")
def ramp() -> Image.Image:
    """Red tells the column, green the row."""
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1))


def test_crops_keep_to_their_bounds(ramp: Image.Image) -> None:
    assert config.Augmentation().scale == (0.5, 1.0)
    crop, areas = transform(64, flip=False, randaugment=None), []
    for seed in range(300):
        torch.manual_seed(seed)
        found = crop(ramp) * 255
        assert found.shape == (3, 64, 64)
        # the slope over the middle of the crop, where bicubic resampling sees no border
        width = 64 * float(found[0, 32, 48] - found[0, 32, 16]) / 32
        height = 64 * float(found[1, 48, 32] - found[1, 16, 32]) / 32
        areas.append(width * height / 256**2)
        assert 0.75 * 0.95 < width / height < 4 / 3 * 1.05
    assert 0.5 * 0.95 < min(areas) < 0.56
    assert 0.9 < max(areas) < 1.05


def test_half_of_the_images_are_flipped(ramp: Image.Image) -> None:
    flipped = []
    for seed in range(400):
        torch.manual_seed(seed)
        found = transform(32, scale=(1, 1), randaugment=None)(ramp)
        flipped.append(bool(found[0, 16, 4] > found[0, 16, 28]))
        assert found[1, 28, 16] > found[1, 4, 16]  # never upside down
    assert 160 < sum(flipped) < 240
    assert not any(transform(32, flip=False, randaugment=None)(ramp)[0, 16, 4] > 0.5 for _ in range(20))


def test_the_same_seed_gives_the_same_pixels(photograph: Image.Image) -> None:
    whole, seen = transform(48), set()
    for seed in range(12):
        torch.manual_seed(seed)
        first = whole(photograph)
        torch.manual_seed(seed)
        assert torch.equal(whole(photograph), first)
        seen.add(first.numpy().tobytes())
    assert len(seen) == 12


def test_values_are_normalised(photograph: Image.Image) -> None:
    mean, std = config.Vision().mean, config.Vision().std
    plain = config.Augmentation(scale=(1, 1), flip=False, randaugment=None)
    torch.manual_seed(0)
    found = training_transform(40, mean, std, plain)(photograph)
    torch.manual_seed(0)
    given = transform(40, scale=(1, 1), flip=False, randaugment=None)(photograph)
    assert (found.dtype, float(given.min()) >= 0, float(given.max()) <= 1) == (torch.float32, True, True)
    for channel in range(3):
        torch.testing.assert_close(found[channel], (given[channel] - mean[channel]) / std[channel])
