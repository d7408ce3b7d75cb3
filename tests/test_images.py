"""Decoding: odd files come out as people see them, and reduced decoding changes nothing that counts."""

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from rvlr import config
from rvlr.data.images import ImageTransform, decode, evaluation_transform, load_image, training_transform
from rvlr.data.loading import Images, TrainingPairs
from rvlr.data.records import Record, Split
from rvlr.errors import UserError

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)
MEAN, STD = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # tensors hold levels from 0 to 255


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The pixels a little inside of the four corners: top left, top right, bottom left, bottom right."""
    width, height = image.size
    return [image.getpixel((x, y)) for y in (2, height - 3) for x in (2, width - 3)]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """An image that no codec can make small."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode)


# --- odd files ---------------------------------------------------------------------------------------------------


def save_palette(path: Path, **options: object) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (8, 0, 16, 16))
    image.save(path, "PNG", **options)


def save_alpha(path: Path, mode: str) -> None:
    """Opaque black on the left; on the right transparent, with black underneath."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((*BLACK, 255), (0, 0, 8, 16))
    image.convert(mode).save(path, "PNG")


def save_cmyk(path: Path, adobe: bool) -> None:
    """White on the left, red on the right. Such JPEGs hold the inverse of the ink, with or without Adobe's marker."""
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    image.paste((0, 255, 255, 0), (8, 0, 16, 16))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=100)
    content = stream.getvalue()
    marker = content.index(b"\xff\xee")
    assert content[marker + 4 : marker + 9] == b"Adobe"
    after = marker + 2 + struct.unpack(">H", content[marker + 2 : marker + 4])[0]
    path.write_bytes(content if adobe else content[:marker] + content[after:])


def save_two(path: Path, mode: str, left: object, right: object, format_name: str, **options: object) -> None:
    image = Image.new(mode, (16, 16), left)
    image.paste(right, (8, 0, 16, 16))
    image.save(path, format_name, **options)


def save_16_bits(path: Path, format_name: str) -> None:
    values = np.zeros((16, 16), dtype=np.uint16)
    values[:, 8:] = 128 * 257
    if format_name == "PGM":
        path.write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path, format_name)


def save_animation(path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE, WHITE)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


# how the file is made, Pillow's mode of it, the colours left and right
ODD: dict[str, tuple[Callable[[Path], None], str, tuple[int, ...], tuple[int, ...]]] = {
    "palette": (save_palette, "P", RED, BLUE),
    "palette, one colour transparent": (lambda path: save_palette(path, transparency=1), "P", RED, WHITE),
    "alpha": (lambda path: save_alpha(path, "RGBA"), "RGBA", BLACK, WHITE),
    "grey with alpha": (lambda path: save_alpha(path, "LA"), "LA", BLACK, WHITE),
    "grey, one level transparent": (
        lambda path: save_two(path, "L", 9, 7, "PNG", transparency=7),
        "L",
        (9, 9, 9),
        WHITE,
    ),
    "1 bit": (lambda path: save_two(path, "1", 0, 1, "PNG"), "1", BLACK, WHITE),
    "16 bits, PNG": (lambda path: save_16_bits(path, "PNG"), "I;16", BLACK, (128, 128, 128)),
    "16 bits, TIFF": (lambda path: save_16_bits(path, "TIFF"), "I;16", BLACK, (128, 128, 128)),
    "16 bits, PGM": (lambda path: save_16_bits(path, "PGM"), "I", BLACK, (128, 128, 128)),
    "CMYK, JPEG of Adobe": (lambda path: save_cmyk(path, adobe=True), "CMYK", WHITE, RED),
    "CMYK, JPEG of others": (lambda path: save_cmyk(path, adobe=False), "CMYK", WHITE, RED),
    "CMYK, TIFF": (
        lambda path: save_two(path, "CMYK", (0, 0, 0, 0), (0, 255, 255, 0), "TIFF"),
        "CMYK",
        WHITE,
        RED,
    ),
    "animation": (save_animation, "P", RED, RED),
    "PNG called .jpg": (lambda path: save_two(path, "RGB", RED, BLUE, "PNG"), "RGB", RED, BLUE),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_look_as_people_see_them(tmp_path: Path, case: str) -> None:
    save, mode, left, right = ODD[case]
    path = tmp_path / "a.jpg"
    save(path)
    image, stored = decode(path)
    assert (image.mode, image.size, stored.mode) == ("RGB", (16, 16), mode)
    assert corners(image) == [left, right] * 2


def test_all_levels_of_16_bits_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.stack([expected] * 3, axis=-1))


# --- turned by EXIF ----------------------------------------------------------------------------------------------

# how the upright pixels are stored, by EXIF 2.32, "Orientation": where row 0 and column 0 of the file belong
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def orientation_exif(orientation: int, more: bytes = b"") -> bytes:
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + more
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries) // 12) + entries + bytes(4)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("format_name", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_images_are_turned_upright(
    tmp_path: Path, orientation: int, format_name: str, options: dict[str, object]
) -> None:
    upright = np.zeros((64, 128, 3), dtype=np.uint8)
    upright[:32, :64], upright[:32, 64:], upright[32:, :64] = WHITE, RED, BLUE
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a", format_name, exif=orientation_exif(orientation), **options)
    image, found = decode(tmp_path / "a", at_least=16)
    assert found.turned == (orientation != 1)
    if format_name == "JPEG":
        assert image.size == (32, 16)
        assert np.abs(np.array(corners(image)) - [WHITE, RED, BLUE, BLACK]).max() < 9
    else:
        assert np.array_equal(np.asarray(image), upright)


@pytest.mark.parametrize(
    ("more", "turned"),
    [
        (struct.pack("<HHII", 0x010F, 5, 1, 0), True),
        (struct.pack("<HHII", 0x9286, 12, 1, 2**31), True),
        (struct.pack("<HHII", 0x8769, 2, 2**31, 2**32 - 1), True),
        (b"\0" * 7, False),
    ],
)
def test_odd_exif_hides_no_image(tmp_path: Path, more: bytes, turned: bool) -> None:
    exif = orientation_exif(6, more) if turned else b"Exif\0\0" + more
    noise(16, 8).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == ((8, 16) if turned else (16, 8))


# --- files that cannot be used -----------------------------------------------------------------------------------


def save_huge(path: Path) -> None:
    Image.new("1", (9500, 9500)).save(path, "PNG")


def save_float(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(path, "TIFF")


def save_32_bits(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.int32)).save(path, "TIFF")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is not in "),
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is an empty file (0 bytes); replace it"),
    "text": (lambda path: path.write_text("<html>404 Not Found</html>"), "is not an image in a known format (JPEG, "),
    "refused format": (lambda path: noise(8, 8).save(path, "EPS"), "is not an image in a known format"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "huge": (save_huge, "has more than 89,478,485 pixels; scale it down"),
    "float": (save_float, "has 32 bits a pixel, and nothing says which value is white; save it with 8 or 16"),
    "32 bits": (save_32_bits, "has 32 bits a pixel, and nothing says which value is white; save it with 8 or 16"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    save, message = BROKEN[case]
    path = tmp_path / "a.jpg"
    save(path)
    with pytest.raises(UserError) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"image {path} {message}")


@pytest.mark.parametrize("at_least", [None, 1])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(
    ("format_name", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("GIF", {}), ("BMP", {})],
)
def test_truncated_files(
    tmp_path: Path, format_name: str, options: dict[str, object], share: float, at_least: int | None
) -> None:
    stream = BytesIO()
    noise(64, 64, "L" if format_name == "GIF" else "RGB").save(stream, format_name, **options)
    content = stream.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    load_image(path, at_least)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"(cannot be read: .*|known format .*); (convert or )?replace it$"):
        load_image(path, at_least)


# --- reduced decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "at_least", "found"),
    [
        ((1600, 1200), None, (1600, 1200)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 600, (800, 600)),
        ((1600, 1200), 301, (800, 600)),
        ((1600, 1200), 300, (400, 300)),
        ((1600, 1200), 1, (200, 150)),
        ((1604, 1200), 1, (401, 300)),  # 8 does not divide 1604
        ((1601, 1200), 1, (1601, 1200)),
    ],
)
def test_jpegs_are_reduced_by_what_divides_them(
    tmp_path: Path, size: tuple[int, int], at_least: int | None, found: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, RED)
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.jpg", at_least).size == found
    assert load_image(tmp_path / "a.png", at_least).size == size


@pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
@pytest.mark.parametrize("stretch", [1, 4 / 3, 3])
def test_no_crop_is_enlarged_because_its_image_was_reduced(smallest: float, stretch: float) -> None:
    augmentation = config.Augmentation(scale=(smallest, 1.0), randaugment=None)
    transform = training_transform(384, MEAN, STD, augmentation)
    crop = transform.transforms.transforms[0]
    assert isinstance(crop, v2.RandomResizedCrop)
    reduced = Image.new("L", (round(transform.at_least * stretch), transform.at_least))
    torch.manual_seed(0)
    drawn = [crop.make_params([reduced]) for _ in range(500)]
    assert min(min(box["height"], box["width"]) for box in drawn) >= 384


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Real photographs, cut to sizes that 8 divides, at least 112."""
    folder = tmp_path_factory.mktemp("photographs")
    names = []
    for path in sorted((shared / "data/flickr8k-mini/images").glob("*.jpg"))[:30]:
        with Image.open(path) as image:
            if min(image.size) >= 112:
                image.crop((0, 0, image.width // 8 * 8, image.height // 8 * 8)).save(folder / path.name, quality=95)
                names.append(path.name)
    return Split("test", [Record(name, name, ("a dog",)) for name in names], folder)


def differences(split: Split, transform: ImageTransform, at_least: int) -> torch.Tensor:
    """Mean absolute difference, in levels, of each image's tensor from that of the full image."""
    full = torch.stack([transform(load_image(split.path(index))) for index in range(len(split.records))])
    transform.at_least = at_least
    reduced = torch.stack(list(Images(split, transform, 0, len(split.records))))
    assert (full != reduced).flatten(1).any(dim=1).all()  # all were reduced
    return (full - reduced).abs().mean(dim=(1, 2, 3))


def test_evaluation_tensors_of_reduced_photographs(photographs: Split) -> None:
    transform = evaluation_transform(28, MEAN, STD)
    assert transform.at_least == 56
    with_margin, without = differences(photographs, transform, 56), differences(photographs, transform, 28)
    assert with_margin.mean() < 0.6
    assert with_margin.max() < 2.0
    assert with_margin.mean() < 0.6 * without.mean()


def test_training_reads_reduced_photographs(photographs: Split) -> None:
    augmentation = config.Augmentation(scale=(1.0, 1.0), flip=False, randaugment=None)
    transform = training_transform(28, MEAN, STD, augmentation)
    pixels, *_ = TrainingPairs(photographs, transform, seed=0)[0, 0]
    transform.at_least = None
    full, *_ = TrainingPairs(photographs, transform, seed=0)[0, 0]
    assert pixels.shape == full.shape == (3, 28, 28)
    assert not torch.equal(pixels, full)


def test_small_photographs_are_never_reduced(shared: Path) -> None:
    transform = evaluation_transform(48, MEAN, STD)  # photographs of 200 pixels, less than 4 * 48 on their short side
    for path in sorted((shared / "data/flickr8k-mini/images").glob("*.jpg"))[:30]:
        full = load_image(path)
        if min(full.size) < 4 * 48:
            assert load_image(path, transform.at_least) == full
