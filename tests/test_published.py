"""The authors' checkpoint gives the authors' outputs, losses, gradients and score matrices (values recorded from the
published implementation)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rvlr import config, losses
from rvlr.__main__ import app
from rvlr.errors import UserError
from rvlr.evaluation.encode import Encoded
from rvlr.evaluation.rerank import rerank
from rvlr.models import published
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import tasks

GOLDEN = Path(__file__).parent / "golden/model"
FILES = (GOLDEN / "checkpoint_best.pth", GOLDEN / "config_swin_tiny.json", GOLDEN / "config_bert_tiny.json")
TERMS = {
    "itc": "itc",
    "itm": "itm",
    "iic": "image_distill",
    "ttc": "text_distill",
    "kd": "relation_kd",
    "kdi": "relation_kd_image",
    "kdt": "relation_kd_text",
}


@pytest.fixture
def imported() -> published.Imported:
    return published.read(*FILES)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in np.load(GOLDEN / "inputs.npz").items()}


def test_outputs_equal_the_published_models(imported: published.Imported, inputs: dict[str, torch.Tensor]) -> None:
    model = imported.model
    with torch.no_grad():
        image = model.encode_image(inputs["image"])
        text = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        keys_values = model.image_keys_values(image)
        fused = model.fuse(text, inputs["attention_mask"], keys_values)
        shifted = model.fuse(text, inputs["attention_mask"], keys_values, torch.arange(6).roll(-1))
        teacher_image, teacher_text = model.embed_teacher(inputs["teacher_image"], inputs["teacher_text"])
    found = {
        "image_tokens": image,
        "text_tokens": text,
        "image_embed": model.embed_image(image[:, 0]),
        "text_embed": model.embed_text(text[:, 0]),
        "teacher_image_embed": teacher_image,
        "teacher_text_embed": teacher_text,
        "fused_tokens": fused,
        "itm_logits": model.match(fused[:, 0]),
        "fused_tokens_shifted": shifted,
        "itm_logits_shifted": model.match(shifted[:, 0]),
    }
    expected = np.load(GOLDEN / "outputs.npz")
    assert set(found) == set(expected.files)
    real = inputs["attention_mask"].bool()
    for name, value in found.items():
        want = torch.tensor(expected[name])
        if name.startswith(("text_tokens", "fused_tokens")):  # what stands at padding is nobody's business
            value, want = value[real], want[real]
        torch.testing.assert_close(value.detach(), want, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_losses_and_gradients_equal_the_published_ones(
    imported: published.Imported, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads((GOLDEN / "losses.json").read_text())["student"]
    drawn = iter([recorded["negative_text_index"], recorded["negative_image_index"]])
    everywhere = torch.ones(6, dtype=torch.bool)
    monkeypatch.setattr(losses, "hard_negatives", lambda *_: (torch.tensor(next(drawn)), everywhere))
    section = config.parse({"teacher": "t"}, "test", config.Student)
    task = tasks.StudentTask(imported.model, section).eval()
    batch = {
        "pixels": inputs["image"],
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "image": inputs["image_id"],
        "teacher_image": inputs["teacher_image"],
        "teacher_text": inputs["teacher_text"],
    }
    terms = task(batch)
    for ours, theirs in TERMS.items():
        assert terms[ours].item() == pytest.approx(recorded[theirs], abs=1e-5, rel=1e-5), ours
    assert terms["loss"].item() == pytest.approx(recorded["weighted_total"], rel=1e-5)
    terms["loss"].backward()
    gradients = {name: value.grad for name, value in imported.model.named_parameters()}
    norms = recorded["grad_norm_by_reference_parameter"]
    names = our_names(imported.model)
    largest = max(norms.values())
    for name, norm in norms.items():
        found = gradients[names[name]].norm().item()
        assert found == pytest.approx(norm, rel=1e-4, abs=1e-6 * largest), f"{name} -> {names[name]}"
    assert len(norms) == len([name for name, value in gradients.items() if value is not None])


def our_names(model: RetrievalModel) -> dict[str, str]:
    """Our name of every authors' parameter: tensors are followed through the conversion by where they lie in memory."""
    state = torch.load(FILES[0], weights_only=True)["model"]
    kept = {name: value for name, value in state.items() if not published._BUFFERS.search(name)}
    converted = published._convert(kept, text_layers=2) | published._vision_state(kept, model)
    place = {value.data_ptr(): name for name, value in converted.items()}
    return {name: place[value.data_ptr()] for name, value in kept.items()}


def test_score_matrices_and_candidates_equal_the_published_ones(imported: published.Imported) -> None:
    recorded = np.load(GOLDEN / "evaluation.npz")
    model = imported.model
    mask = torch.tensor(recorded["attention_mask"])
    with torch.no_grad():
        image = model.encode_image(torch.tensor(recorded["image"]))
        text = model.encode_text(torch.tensor(recorded["input_ids"]), mask)
        lengths = mask.sum(dim=1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        encoded = Encoded(
            image_tokens=image,
            text_tokens=text[mask.bool()],
            text_offsets=offsets,
            image_embeds=model.embed_image(image[:, 0]),
            text_embeds=model.embed_text(text[:, 0]),
        )
    np.testing.assert_allclose(encoded.image_embeds, recorded["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(encoded.text_embeds, recorded["text_embeds"], atol=1e-5)
    for found, name in zip(rerank(model, encoded, candidates=8), ("scores_i2t", "scores_t2i"), strict=True):
        np.testing.assert_array_equal(found.numpy() == -100, recorded[name] == -100)
        np.testing.assert_allclose(found.numpy(), recorded[name], atol=1e-4)


def test_keys_are_accounted_for(imported: published.Imported, tmp_path: Path) -> None:
    saved = torch.load(FILES[0], weights_only=True)
    assert set(imported.used) | set(imported.ignored) == set(saved["model"])
    assert all(key.endswith(("position_ids", "relative_position_index", "attn_mask")) for key in imported.ignored)
    prefixed = {key.replace("text_encoder.", "text_encoder.bert."): value for key, value in saved["model"].items()}
    torch.save({"model": prefixed}, tmp_path / "prefixed.pth")
    again = published.read(tmp_path / "prefixed.pth", *FILES[1:]).model.state_dict()
    for key, value in imported.model.state_dict().items():
        assert torch.equal(again[key], value), key
    broken = {**saved["model"], "surprise.weight": torch.zeros(1)}
    del broken["itm_head.0.bias"]
    torch.save({"model": broken}, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"missing: \['match_head\.0\.bias'\], unexplained: \['surprise\.weight'\]"):
        published.read(tmp_path / "broken.pth", *FILES[1:])


def test_command_line(tmp_path: Path) -> None:
    files = [str(path) for path in FILES]
    options = ["--vision-config", files[1], "--text-config", files[2], "--output", str(tmp_path / "model")]
    found = CliRunner().invoke(app, ["import-checkpoint", files[0], *options])
    assert found.exit_code == 0, found.output
    again = RetrievalModel.from_pretrained(tmp_path / "model").state_dict()
    for key, value in published.read(*FILES).model.state_dict().items():
        assert torch.equal(again[key], value), key


def test_wasserstein_projections_are_imported(tmp_path: Path) -> None:
    saved = torch.load(FILES[0], weights_only=True)
    for name, width in (("img_wd_proj", 128), ("text_wd_proj", 64)):
        saved["model"] |= {f"{name}.0.weight": torch.randn(96, width), f"{name}.0.bias": torch.randn(96)}
        saved["model"] |= {f"{name}.2.weight": torch.randn(48, 96), f"{name}.2.bias": torch.randn(48)}
    torch.save({"model": saved["model"]}, tmp_path / "wd.pth")
    model = published.read(tmp_path / "wd.pth", *FILES[1:]).model
    assert torch.equal(model.relation_text_proj[2].weight, saved["model"]["text_wd_proj.2.weight"])
    image, text = model.project_relations(torch.randn(3, 128), torch.randn(3, 64))
    assert image.shape == text.shape == (3, 48)
