"""The retrieval model: backbones of every layout, BERT loading, saving, frozen encoders, fast paths and slow ones."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from rvlr import config
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.evaluation.encode import encode
from rvlr.evaluation.inputs import NOT_A_CANDIDATE
from rvlr.evaluation.rerank import rerank
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.vision import VisionEncoder

BACKBONES = {
    "swin": ("swin_tiny_patch4_window7_224", {"window_size": 2, "embed_dim": 8, "depths": (1, 1, 1, 1)}, 64, 4),
    "vit": ("vit_tiny_patch16_224", {"depth": 1}, 64, 16),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, 64, 4),
    "efficientnet": ("tf_efficientnet_lite0", {}, 64, 4),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_every_layout_become_tokens(name: str) -> None:
    timm_name, options, size, patches = BACKBONES[name]
    encoder = VisionEncoder(timm_name, size, options).eval()
    tokens = encoder(torch.randn(2, 3, size, size))
    assert tokens.shape == (2, 1 + patches, encoder.width)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(dim=1))


def test_tokens_keep_their_place() -> None:
    """A change in one corner of the image changes the token of that corner most."""
    timm_name, options, size, _ = BACKBONES["convnext"]
    torch.manual_seed(0)
    encoder = VisionEncoder(timm_name, size, options).eval()
    image = torch.zeros(1, 3, size, size)
    changed = image.clone()
    changed[:, :, : size // 4, -size // 4 :] = 5
    difference = (encoder(changed) - encoder(image))[0, 1:].norm(dim=1)
    assert difference.argmax() == 1  # of 2 x 2 patches, row by row: top right


def test_local_weights_are_loaded_and_foreign_ones_refused(tmp_path: Path) -> None:
    name, options, size, _ = BACKBONES["convnext"]
    source = VisionEncoder(name, size, options)
    safe, pickled = tmp_path / "weights.safetensors", tmp_path / "weights.pth"
    save_file(source.backbone.state_dict(), safe)
    torch.save({"state_dict": source.backbone.state_dict()}, pickled)
    for path in (safe, pickled):
        loaded = VisionEncoder(name, size, options, path)
        for key, value in source.backbone.state_dict().items():
            assert torch.equal(loaded.backbone.state_dict()[key], value), key
    torch.save({"model": {"something.else": torch.zeros(1)}}, pickled)
    with pytest.raises(UserError, match=r"not a checkpoint of timm's 'convnext_atto'.*something\.else"):
        VisionEncoder(name, size, options, pickled)
    pickled.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"weights\.pth does not load"):
        VisionEncoder(name, size, options, pickled)
    with pytest.raises(UserError, match="no file"):
        VisionEncoder(name, size, options, tmp_path / "absent.pth")
    with pytest.raises(UserError, match="near it: convnext_atto"):
        VisionEncoder("convnext_ato", size, options)


def test_real_pretrained_weights_load(shared: Path) -> None:
    path = shared / "weights/tf_efficientnet_lite0.safetensors"
    encoder = VisionEncoder("tf_efficientnet_lite0", 64, {}, path)
    assert torch.equal(encoder.backbone.conv_stem.weight, load_file(path)["conv_stem.weight"])


def test_bert_is_cut_into_text_and_fusion_layers(tmp_path: Path) -> None:
    size = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    bert = BertModel(BertConfig(num_hidden_layers=3, **size))
    bert.save_pretrained(tmp_path / "bert")
    _write_tokenizer(tmp_path / "bert")
    text = {"weights": str(tmp_path / "bert"), "text_layers": 2, "fusion_layers": 2}
    section = config.parse({**TINY_MODEL, "text": text}, "test", config.Model)
    build.initialise(section, 0, [], tmp_path / "model")
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    ids, mask = torch.tensor([[2, 9, 8, 3]]), torch.ones(1, 4, dtype=torch.long)
    bert.eval()
    hidden = bert(ids, mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.encode_text(ids, mask), hidden[2])
    # without its cross-attention the first fusion layer is BERT's third
    layer = model.fusion_layers[0]
    attended = layer.self_block(hidden[2], hidden[2], mask.bool()[:, None, None])
    torch.testing.assert_close(layer.output(layer.intermediate(attended), attended), hidden[3])
    too_many = config.parse({**TINY_MODEL, "text": {**text, "text_layers": 4}}, "test", config.Model)
    with pytest.raises(UserError, match="text_layers: 4 asked for"):
        build.initialise(too_many, 0, [], tmp_path / "other")


def _write_tokenizer(folder: Path) -> None:
    from rvlr.data.text import learn_tokenizer

    learn_tokenizer(["a red circle left of a blue square"]).save_pretrained(folder)


def test_same_seed_same_model(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    captions = read_split(tiny_data / "splits/train.jsonl").captions
    section = config.parse(TINY_MODEL, "test", config.Model)
    build.initialise(section, 0, captions, tmp_path / "same")
    build.initialise(section, 1, captions, tmp_path / "other")
    weights = (tiny_model / "model.safetensors").read_bytes()
    assert (tmp_path / "same/model.safetensors").read_bytes() == weights
    assert (tmp_path / "other/model.safetensors").read_bytes() != weights


def test_a_student_adds_teacher_projections_and_nothing_else_may_be_missing(tiny_model: Path, tmp_path: Path) -> None:
    added = {"teacher_widths": [5, 7], "fusion_weight": 0.3}
    student = RetrievalModel.student_from(tiny_model, **added)
    assert student.teacher_vision_proj.weight.shape == (8, 5)
    assert student.fusion_weight.item() == pytest.approx(0.3)
    student.save_pretrained(tmp_path / "student")
    again = RetrievalModel.from_pretrained(tmp_path / "student")
    assert torch.equal(again.teacher_text_proj.weight, student.teacher_text_proj.weight)
    state = load_file(tmp_path / "student/model.safetensors")
    del state["vision_proj.weight"]
    save_file(state, tmp_path / "student/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing: \['vision_proj\.weight'\]"):
        RetrievalModel.from_pretrained(tmp_path / "student")


def test_frozen_encoders_stay_as_they_are(tiny_data: Path, tmp_path: Path) -> None:
    frozen = {key: {**TINY_MODEL[key], "frozen": True} for key in ("vision", "text")}
    build.initialise(config.parse({**TINY_MODEL, **frozen}, "test", config.Model), 0, ["a b"], tmp_path / "model")
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    model.train()
    assert model.fusion_layers.training
    assert not any(module.training for module in model.vision_encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.fusion_layers.parameters())


def test_matching_needs_only_the_cls_of_the_last_layer(tiny_model: Path) -> None:
    model = RetrievalModel.from_pretrained(tiny_model)
    text, image = torch.randn(3, 5, 16), torch.randn(2, 2, model.vision_encoder.width)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    which = torch.tensor([1, 0, 1])
    whole = model.fuse(text, mask, model.image_keys_values(image), which)
    first = model.fuse(text, mask, model.image_keys_values(image), which, cls_only=True)
    torch.testing.assert_close(first, whole[:, :1])
    one_by_one = model.fuse(text, mask, model.image_keys_values(image[which]))
    torch.testing.assert_close(one_by_one, whole)
    captions = torch.tensor([2, 0, 2])
    chosen = model.fuse(text[captions], mask[captions], model.image_keys_values(image), which)
    torch.testing.assert_close(model.fuse(text, mask, model.image_keys_values(image), which, captions), chosen)


@pytest.mark.parametrize("fusion_layers", [1, 2, 3])
@pytest.mark.parametrize("candidates", [3, 100])
def test_reranking_equals_scoring_pair_by_pair(
    tiny_data: Path, tmp_path: Path, fusion_layers: int, candidates: int
) -> None:
    split = read_split(tiny_data / "splits/test.jsonl")
    text = {**TINY_MODEL["text"], "fusion_layers": fusion_layers}
    section = config.parse({**TINY_MODEL, "text": text}, "test", config.Model)
    build.initialise(section, 3, split.captions, tmp_path / "model")
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    for parameter in model.parameters():  # larger weights than a fresh model's, so that scores differ
        parameter.data.mul_(1.5)
    encoded = encode(model, split, batch_size=4, workers=0)
    by_image, by_caption = rerank(model, encoded, candidates)
    similarity = encoded.image_embeds @ encoded.text_embeds.T
    for image in range(len(split.records)):
        top = set(similarity[image].topk(min(candidates, similarity.shape[1])).indices.tolist())
        for caption in range(len(split.captions)):
            rows = slice(encoded.text_offsets[caption], encoded.text_offsets[caption + 1])
            tokens = encoded.text_tokens[rows][None]
            with torch.inference_mode():
                keys_values = model.image_keys_values(encoded.image_tokens[image : image + 1])
                fused = model.fuse(tokens, torch.ones(tokens.shape[:2]), keys_values)
                logit = model.match(fused[:, 0])[0, 1]
            expected = logit if caption in top else torch.tensor(NOT_A_CANDIDATE)
            torch.testing.assert_close(by_image[image, caption], expected, atol=1e-5, rtol=1e-5)
            top_images = similarity[:, caption].topk(min(candidates, len(split.records))).indices
            expected = logit if image in top_images else torch.tensor(NOT_A_CANDIDATE)
            torch.testing.assert_close(by_caption[caption, image], expected, atol=1e-5, rtol=1e-5)
