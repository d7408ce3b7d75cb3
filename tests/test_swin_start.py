"""Microsoft's Swin checkpoints of 2021 (224 px, window 7) as the start of a vision encoder of any size and window."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from swin_original import State, forward, weights

from rvlr import config
from rvlr.errors import UserError
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.vision import VisionEncoder

NAME = "swin_base_patch4_window12_384"
DEPTHS, HEADS = [2, 2, 4, 2], [1, 2, 4, 8]
SMALL = {"embed_dim": 8, "depths": DEPTHS, "num_heads": HEADS}
BIAS = "relative_position_bias_table"


@pytest.fixture(scope="module")
def original() -> State:
    return weights(8, DEPTHS, HEADS, window=7, side=224, classes=50, seed=0)


@pytest.fixture(scope="module")
def path(original: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("swin") / "swin_base_patch4_window7_224_22k.pth"
    torch.save({"model": original}, path)
    return path


def in_timm(name: str) -> str:
    """timm halves the resolution at the start of the next stage."""
    return re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", name)


def parameters(original: State) -> State:
    buffers = ("attn_mask", "relative_position_index")
    return {name: value for name, value in original.items() if not name.endswith(buffers) and "head" not in name}


def resized(table: np.ndarray, window: int) -> np.ndarray:
    """A bias table (13, 13) for window 7 -> (2 window - 1, 2 window - 1): the old offsets 0, 1, 2 .. move to 0, 1,
    1 + q, 1 + q + q^2 .. so that the last reaches the new edge, and values in between are linear."""
    (ratio,) = (q.real for q in np.roots([*[1.0] * 5, 1.0 - (window - 1)]) if abs(q.imag) < 1e-9 and q.real > 0)
    half = np.cumsum(ratio ** np.arange(6))
    old, new = np.concatenate([-half[::-1], [0], half]), np.arange(1 - window, window)
    rows = np.stack([np.interp(new, old, row) for row in table])
    return np.stack([np.interp(new, old, column) for column in rows.T], axis=1)


def test_same_size_gives_the_same_outputs(original: State, path: Path) -> None:
    encoder = VisionEncoder(NAME, 224, {**SMALL, "window_size": 7}, path).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = encoder(pixels)
        expected = forward(original, pixels, DEPTHS, HEADS, window=7)
    torch.testing.assert_close(found[:, 1:], expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 0], expected.mean(dim=1), atol=2e-5, rtol=1e-4)
    for name, value in parameters(original).items():
        assert torch.equal(encoder.backbone.state_dict()[in_timm(name)], value), name


def test_larger_windows_through_the_configuration(original: State, path: Path, tmp_path: Path) -> None:
    text = {"weights": "random", "size": {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}}
    vision = {"name": NAME, "weights": str(path), "options": {**SMALL, "window_size": 12}, "image_size": 384}
    section = config.parse({"vision": vision, "text": text | {"text_layers": 1, "fusion_layers": 1}}, "t", config.Model)
    build.initialise(section, 0, ["a dog"], tmp_path / "model")
    found = RetrievalModel.from_pretrained(tmp_path / "model").vision_encoder.backbone.state_dict()
    expected = parameters(original)
    assert set(found) == {in_timm(name) for name in expected}
    tables = 0
    for name, value in expected.items():
        if not name.endswith(BIAS):
            assert torch.equal(found[in_timm(name)], value), name
            continue
        old, new = value.T.reshape(-1, 13, 13).numpy(), found[name].T.reshape(-1, 23, 23).numpy()
        np.testing.assert_allclose(new, np.stack([resized(table, 12) for table in old]), atol=1e-4)
        np.testing.assert_allclose(new[:, 10:13, 10:13], old[:, 5:8, 5:8], atol=1e-5)  # the centre and what adjoins it
        tables += 1
    assert tables == sum(DEPTHS)


def test_resizing_keeps_symmetry(original: State, tmp_path: Path) -> None:
    mirrored = dict(original)
    for name in [name for name in original if name.endswith(BIAS)]:
        mirrored[name] = original[name] + original[name].flip(0)  # the value of an offset and of its opposite
    torch.save({"model": mirrored}, tmp_path / "swin.pth")
    encoder = VisionEncoder(NAME, 384, {**SMALL, "window_size": 12}, tmp_path / "swin.pth")
    for block in encoder.backbone.layers[2].blocks:
        table = block.attn.relative_position_bias_table
        torch.testing.assert_close(table, table.flip(0), atol=1e-5, rtol=0)


def test_what_is_no_such_checkpoint(original: State, tmp_path: Path) -> None:
    options = {**SMALL, "window_size": 7}
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"broken\.pth does not load: it is damaged, or not"):
        VisionEncoder(NAME, 224, options, tmp_path / "broken.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"broken\.safetensors does not load: .*header"):
        VisionEncoder(NAME, 224, options, tmp_path / "broken.safetensors")
    torch.save({"model": original, "config": Fraction(1, 2)}, tmp_path / "objects.pth")
    with pytest.raises(UserError, match=r"contains Python objects \(fractions\.Fraction\).*weights alone"):
        VisionEncoder(NAME, 224, options, tmp_path / "objects.pth")
    torch.save({"model": original}, tmp_path / "narrow.pth")
    with pytest.raises(UserError, match=r"(?s)narrow\.pth does not load into timm's .*size mismatch for patch_embed"):
        VisionEncoder(NAME, 224, {**options, "embed_dim": 16}, tmp_path / "narrow.pth")
    less = {name: value for name, value in original.items() if "layers.1.downsample" not in name}
    torch.save({"model": less}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"3 parameters missing: \['layers\.2\.downsample"):
        VisionEncoder(NAME, 224, options, tmp_path / "less.pth")


@pytest.mark.slow
def test_the_released_size(tmp_path: Path) -> None:
    """Swin-B as released: 224 px, window 7, 21,841 classes, into the published 384 px and window 12."""
    original = weights(128, [2, 2, 18, 2], [4, 8, 16, 32], window=7, side=224, classes=21_841, seed=0)
    path = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    torch.save({"model": original}, path)
    vision = config.Vision(weights=path)
    encoder = VisionEncoder(vision.name, vision.image_size, vision.options, vision.weights)
    path.unlink()
    found, expected = encoder.backbone.state_dict(), parameters(original)
    assert set(found) == {in_timm(name) for name in expected}
    for name, value in expected.items():
        assert found[in_timm(name)].shape == ((529, value.shape[1]) if name.endswith(BIAS) else value.shape), name
        assert name.endswith(BIAS) or torch.equal(found[in_timm(name)], value), name
    assert encoder.width == 1024
