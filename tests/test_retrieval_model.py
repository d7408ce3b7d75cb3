"""The model as a user's program meets it: loading, embeddings of files and strings, transformers' Auto classes."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

import rvlr
from rvlr.data.records import Split, read_split
from rvlr.errors import UserError
from rvlr.evaluation.encode import encode
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.settings import RetrievalConfig


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> RetrievalModel:
    return RetrievalModel.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def split(tiny_data: Path) -> Split:
    return read_split(tiny_data / "splits/test.jsonl")


def paths(split: Split) -> list[Path]:
    return [split.path(number) for number in range(len(split.records))]


# --- embeddings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_embeddings_are_those_of_evaluation(model: RetrievalModel, split: Split, batch_size: int) -> None:
    expected = encode(model, split, batch_size=4, workers=0)
    images, captions = model.encode_images(paths(split), batch_size), model.encode_captions(split.captions, batch_size)
    for found, embeddings in ((images, expected.image_embeds), (captions, expected.text_embeds)):
        assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)
        torch.testing.assert_close(found, embeddings, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_one_and_many_paths_strings_and_images(model: RetrievalModel, split: Split) -> None:
    expected = model.encode_images(paths(split)[:3])
    opened = [Image.open(path) for path in paths(split)[:3]]
    for given in (map(str, paths(split)[:3]), tuple(opened), (image for image in opened)):
        torch.testing.assert_close(model.encode_images(given, batch_size=2), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_images(str(paths(split)[1])), expected[1:2], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_images(opened[2]), expected[2:], atol=1e-6, rtol=0)
    one = split.captions[0]
    torch.testing.assert_close(model.encode_captions(one), model.encode_captions([one]))
    assert model.encode_images([]).shape == model.encode_captions([]).shape == (0, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_pillow_are_seen_as_files_are(model: RetrievalModel, tmp_path: Path, mode: str) -> None:
    """Modes, transparency and EXIF's orientation; the image itself is left as it is."""
    shades = np.arange(40 * 20, dtype=np.uint16).reshape(20, 40)
    if mode == "I;16":
        image = Image.fromarray(shades * 80)
    else:
        image = Image.fromarray(np.stack([shades % 251, shades % 83, shades % 7], axis=2).astype(np.uint8)).convert(
            mode
        )
    if "A" in mode:
        image.putalpha(Image.fromarray((shades % 256).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path, exif=exif)
    opened = Image.open(path)
    torch.testing.assert_close(model.encode_images(opened), model.encode_images(path), atol=1e-6, rtol=0)
    assert (opened.mode, opened.size) == (image.mode, image.size)


def test_modes_and_gradients_are_left_as_they_were(tiny_model: Path, split: Split) -> None:
    model = RetrievalModel.from_pretrained(tiny_model)
    expected = model.encode_captions(split.captions)
    model.train()
    model.vision_encoder.eval()
    before = {name: part.training for name, part in model.named_modules()}
    found = model.encode_captions(split.captions)
    assert torch.equal(found, expected)  # without dropout
    model.encode_images(paths(split))
    assert {name: part.training for name, part in model.named_modules()} == before
    weight = torch.ones(8, requires_grad=True)
    (found * weight).sum().backward()  # no tensor of inference mode
    assert weight.grad is not None


def test_bad_items_are_named_by_their_place(model: RetrievalModel, split: Split, tmp_path: Path) -> None:
    good, broken = paths(split)[0], tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:100])
    cut = Image.open(broken)
    for images, message in (
        ([good, tmp_path / "none.png"], r"images\[1\]: image .*none\.png is not in"),
        ([good, good, broken], r"images\[2\]: image .*broken\.png cannot be read"),
        ([good, cut], r"images\[1\]: the image cannot be used: .*truncated"),
        ([good, Image.new("F", (9, 9))], r"images\[1\]: the image has 32 bits a pixel"),
        ([Image.new("RGB", (0, 0))], r"images\[0\]: the image has no pixels"),
        (np.zeros((2, 9, 9)), r"images\[0\]: found an object of type ndarray; .*Image\.fromarray"),
        (None, "images: found None"),
    ):
        with pytest.raises(UserError, match=message):
            model.encode_images(images, batch_size=2)
    cut.close()
    for captions, message in (
        (["a dog", None], r"captions\[1\]: found None; give text"),
        ([3], r"captions\[0\]: found 3"),
        (7, "captions: found 7"),
    ):
        with pytest.raises(UserError, match=message):
            model.encode_captions(captions)
    for method in (model.encode_images, model.encode_captions):
        with pytest.raises(UserError, match="batch_size: found 0; give a whole number of at least 1"):
            method([], batch_size=0)


def test_the_tokenizer_travels_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    RetrievalModel.from_pretrained(tiny_model).save_pretrained(tmp_path / "copy")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tiny_model / name).read_bytes(), name
    for path in (tmp_path / "copy").glob("tokenizer*"):
        path.unlink()
    model = RetrievalModel.from_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match=r"model folder: no tokenizer in .*copy"):
        model.encode_captions("a dog")
    model.tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert model.encode_captions("a dog").shape == (1, 8)
    with pytest.raises(UserError, match="no tokenizer: it was not loaded from a folder"):
        RetrievalModel(model.config).encode_captions("a dog")


def test_the_example_of_the_readme(
    tiny_data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    study = tmp_path / "results/shapes"
    shutil.copytree(tiny_model, study / "seed0/student-rvlr/model")
    (study / "images").symlink_to(tiny_data / "images")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    values = np.array(re.findall(r"-?\d\.\d+(?:e-\d+)?", capsys.readouterr().out), dtype=float)
    encoded = encode(names["model"], read_split(tiny_data / "splits/test.jsonl"), batch_size=4, workers=0)
    (caption,) = re.findall(r'encode_captions\("(.*?)"\)', blocks[0])
    expected = names["model"].encode_captions(caption) @ encoded.image_embeds[:5].T
    np.testing.assert_allclose(values, expected[0], atol=1e-4)


# --- loading -----------------------------------------------------------------------------------------------------


def test_arguments_of_the_base_class(tiny_model: Path) -> None:
    """Those that ask for what is done anyway are accepted, by the names that this release of transformers has."""
    named = [
        (name, parameter.default)
        for name, parameter in inspect.signature(PreTrainedModel.from_pretrained).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    assert ("cache_dir", None) in named
    model = RetrievalModel.from_pretrained(pretrained_model_name_or_path=tiny_model, **dict(named))
    assert not model.training
    RetrievalModel.from_pretrained(tiny_model, local_files_only=True, use_safetensors=True, device_map=None)


@pytest.mark.parametrize(
    "asked",
    [
        {"device_map": "auto"},
        {"cache_dir": "cache"},
        {"revision": "v2"},
        {"output_loading_info": True},
        {"ignore_mismatched_sizes": True},
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"attn_implementation": "eager"},
        {"embed_dim": 16},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_arguments_that_cannot_be_followed(tiny_model: Path, asked: dict[str, Any]) -> None:
    ((name, value),) = asked.items()
    with pytest.raises(UserError, match=re.escape(f"from_pretrained: {name}={value!r} cannot be followed")):
        RetrievalModel.from_pretrained(tiny_model, **asked)


def test_settings_by_position_or_of_another_kind_are_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"model_args=\(\{'teacher_widths'"):
        RetrievalModel.from_pretrained(tiny_model, {"teacher_widths": [5, 7]})
    with pytest.raises(UserError, match="config: found 'other'; give a RetrievalConfig"):
        RetrievalModel.from_pretrained(tiny_model, config="other")
    with pytest.raises(UserError, match="None names nothing"):
        RetrievalModel.from_pretrained(None)


def test_types_of_numbers(tiny_model: Path, tmp_path: Path) -> None:
    model = RetrievalModel.from_pretrained(tiny_model)
    expected = model.encode_captions("a red circle")
    for given, dtype in (("bfloat16", torch.bfloat16), (torch.float64, torch.float64), ("auto", torch.float32)):
        found = RetrievalModel.from_pretrained(tiny_model, dtype=given)
        assert {value.dtype for value in found.parameters()} == {dtype}
        assert found.encode_images(Image.new("RGB", (40, 40))).dtype == torch.float32
        torch.testing.assert_close(found.encode_captions("a red circle"), expected, atol=0.02, rtol=0)
    assert RetrievalModel.from_pretrained(tiny_model, torch_dtype=torch.float16).dtype == torch.float16
    RetrievalModel.from_pretrained(tiny_model, dtype="bfloat16").save_pretrained(tmp_path / "half")
    assert RetrievalModel.from_pretrained(tmp_path / "half").dtype == torch.float32
    assert RetrievalModel.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    for wrong in ("int8", torch.int8, "float99", 16):
        with pytest.raises(UserError, match=r"dtype: found .*; give 'auto', float32, float16, bfloat16 or float64"):
            RetrievalModel.from_pretrained(tiny_model, dtype=wrong)


def test_given_settings_are_checked_against_the_weights(tiny_model: Path) -> None:
    settings = RetrievalConfig.from_pretrained(tiny_model)
    settings.vision = settings.vision.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    assert RetrievalModel.from_pretrained(tiny_model, config=settings).config.vision.mean == (0.1, 0.2, 0.3)
    settings.embed_dim = 16
    with pytest.raises(UserError, match="embed_dim is 16, but the weights beside it have 8"):
        RetrievalModel.from_pretrained(tiny_model, config=settings)


def test_settings_on_disk(tiny_model: Path) -> None:
    """The JSON is that of earlier releases: sections as mappings, without the weights that a model starts from."""
    found = json.loads((tiny_model / "config.json").read_text())
    vision, text = found["vision"], found["text"]
    assert vision == {
        "name": "resnet10t",
        "options": {"channels": [4, 8, 8, 16], "stem_width": 4},
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "frozen": False,
    }
    assert text == {"text_layers": 1, "fusion_layers": 2, "max_tokens": 40, "max_words": 30, "frozen": False}
    assert found["bert"]["hidden_size"] == 16
    settings = RetrievalConfig(**found)
    assert (settings.vision.image_size, settings.text.max_words, settings.bert.hidden_size) == (32, 30, 16)
    assert json.loads(settings.to_json_string()) == found
    with pytest.raises(UserError, match=r"vision: .*\n.*image_size: found 3"):
        RetrievalConfig(**found | {"vision": {"image_size": 3}})


# --- transformers' Auto classes ----------------------------------------------------------------------------------


def test_the_auto_classes_load_a_model_folder(tiny_model: Path, split: Split) -> None:
    settings, model, tokenizer = (each.from_pretrained(tiny_model) for each in (AutoConfig, AutoModel, AutoTokenizer))
    assert (type(settings), type(model)) == (RetrievalConfig, RetrievalModel)
    expected = RetrievalModel.from_pretrained(tiny_model)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert torch.equal(model.encode_captions(split.captions), expected.encode_captions(split.captions))
    assert AutoModel.from_pretrained(tiny_model, dtype="bfloat16").dtype == torch.bfloat16


def test_the_package_offers_the_model() -> None:
    assert rvlr.RetrievalModel is RetrievalModel
    assert rvlr.RetrievalConfig is RetrievalConfig
    with pytest.raises(AttributeError, match="'rvlr' has no attribute 'Retrieval'"):
        rvlr.Retrieval  # noqa: B018
