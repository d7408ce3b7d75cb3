"""What tests of figures and sheets ask of a picture."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert not image.text  # neither time nor version, so that the same figure has the same bytes
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels: np.ndarray, colour: str | tuple[int, int, int]) -> np.ndarray:
    """Where (rows, columns) a colour is."""
    if isinstance(colour, str):
        colour = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return (np.abs(pixels - np.array(colour)) <= 2).all(axis=2)
