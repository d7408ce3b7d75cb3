"""The authors' checkpoint gives the authors' outputs, losses, gradients and score matrices (values recorded from the
published implementation)."""

import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import swin_original
import torch
from torch import Tensor
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from rvlr import config, provenance
from rvlr.cli import app
from rvlr.convert import checkpoint
from rvlr.errors import UserError
from rvlr.evaluation.encode import Encoded
from rvlr.evaluation.rerank import rerank
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import losses, tasks

GOLDEN = Path(__file__).parent / "golden/model"
FILES = (GOLDEN / "checkpoint_best.pth", GOLDEN / "config_swin_tiny.json", GOLDEN / "config_bert_tiny.json")
State = dict[str, Tensor]
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
def imported() -> checkpoint.Imported:
    return checkpoint.read(*FILES)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in np.load(GOLDEN / "inputs.npz").items()}


def test_outputs_equal_the_published_models(imported: checkpoint.Imported, inputs: dict[str, torch.Tensor]) -> None:
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
    imported: checkpoint.Imported, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
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
    names = imported.used
    largest = max(norms.values())
    for name, norm in norms.items():
        found = gradients[names[name]].norm().item()
        assert found == pytest.approx(norm, rel=1e-4, abs=1e-6 * largest), f"{name} -> {names[name]}"
    assert len(norms) == len([name for name, value in gradients.items() if value is not None])


def test_score_matrices_and_candidates_equal_the_published_ones(imported: checkpoint.Imported) -> None:
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


def saved() -> State:
    return torch.load(FILES[0], weights_only=True)["model"]


def test_keys_are_accounted_for(imported: checkpoint.Imported, tmp_path: Path) -> None:
    assert set(imported.used) | set(imported.ignored) == set(saved())
    assert not set(imported.used) & set(imported.ignored)
    assert all(key.endswith(("position_ids", "relative_position_index", "attn_mask")) for key in imported.ignored)
    found = imported.model.state_dict()
    assert sorted(imported.used.values()) == sorted(found)
    for theirs, ours in imported.used.items():
        assert torch.equal(found[ours].flatten(), saved()[theirs].flatten()), theirs
    broken = {**saved(), "surprise.weight": torch.zeros(1), "text_proj.bias": torch.zeros(31)}
    del broken["itm_head.0.bias"]
    torch.save({"model": broken}, tmp_path / "broken.pth")
    with pytest.raises(UserError) as caught:
        checkpoint.read(tmp_path / "broken.pth", *FILES[1:])
    assert "missing: ['match_head.0.bias'], unexplained: ['surprise.weight']" in str(caught.value)
    assert "misshapen: ['text_proj.bias is (31,), not (32,)']" in str(caught.value)


def renamed(change: Callable[[str], str]) -> State:
    return {change(key): value for key, value in saved().items()}


HEADS = {"text_encoder.pooler.dense.bias", "text_encoder.cls.predictions.bias", "vision_encoder.head.weight"}


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        ({"model": renamed(lambda key: key.replace("text_encoder.", "text_encoder.bert."))}, set()),
        ({"model": renamed(lambda key: f"module.{key}")}, set()),
        ({"state_dict": saved(), "epoch": 3}, set()),
        (saved(), set()),
        ({"model": saved() | dict.fromkeys(HEADS, torch.zeros(3))}, HEADS),
    ],
    ids=["bert-prefix", "module-prefix", "state_dict", "bare", "heads"],
)
def test_other_wrappings(imported: checkpoint.Imported, tmp_path: Path, content: Any, ignored: set[str]) -> None:
    torch.save(content, tmp_path / "other.pth")
    again = checkpoint.read(tmp_path / "other.pth", *FILES[1:])
    for key, value in imported.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    assert len(again.ignored) == len(imported.ignored) + len(ignored)
    assert ignored <= set(again.ignored)
    assert set(again.used.values()) == set(imported.used.values())


STUDENTS = ("sig_", "temp2", "lamba")


def without(*prefixes: str) -> State:
    return {key: value for key, value in saved().items() if not key.startswith(prefixes)}


def test_a_teacher(imported: checkpoint.Imported, inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    unused = {"img_wd_proj.0.weight": torch.zeros(2, 128), "lamba": torch.zeros(1)}
    torch.save({"model": without(*STUDENTS) | unused}, tmp_path / "teacher.pth")
    teacher = checkpoint.read(tmp_path / "teacher.pth", *FILES[1:])
    assert teacher.missing == {"relation_temperature": "stage 1 has none; set to 0.07, where stage 2 begins"}
    assert set(unused) <= set(teacher.ignored)
    assert teacher.model.config.teacher_widths is None
    batch = {"pixels": inputs["image"], "input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        found, expected = teacher.model(**batch), imported.model(**batch)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_fixed_scalars_come_from_the_checkpoints_config(tmp_path: Path) -> None:
    state, fixed = without("temp", "lamba"), {"temp": 0.05, "temp2": 0.1, "lamda": 0.25, "max_tokens": 20}
    torch.save({"model": state, "config": fixed}, tmp_path / "fixed.pth")
    found = checkpoint.read(tmp_path / "fixed.pth", *FILES[1:])
    scalars = ("temperature", "relation_temperature", "fusion_weight")
    assert [getattr(found.model, name).item() for name in scalars] == pytest.approx([0.05, 0.1, 0.25])
    assert found.missing["fusion_weight"] == "no parameter; lamda is 0.25 in the checkpoint's config"
    assert found.model.config.text.max_tokens == 20
    torch.save({"model": state}, tmp_path / "unknown.pth")
    with pytest.raises(UserError, match=r"missing: \['fusion_weight', 'relation_temperature', 'temperature'\]"):
        checkpoint.read(tmp_path / "unknown.pth", *FILES[1:])


def test_files_that_are_refused(tmp_path: Path) -> None:
    def read(content: Any, *sizes: Path) -> None:
        torch.save(content, tmp_path / "bad.pth")
        checkpoint.read(tmp_path / "bad.pth", *(sizes or FILES[1:]))

    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        checkpoint.read(tmp_path / "none.pth", *FILES[1:])
    (tmp_path / "cut.pth").write_bytes(FILES[0].read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.pth does not load: it is damaged"):
        checkpoint.read(tmp_path / "cut.pth", *FILES[1:])
    with pytest.raises(UserError, match=r"bad\.pth does .*Python objects \(fractions\.Fraction\).* weights alone"):
        read({"model": saved(), "config": Fraction(1, 2)})
    with pytest.raises(UserError, match=r"no tensors: \['epoch'\]"):
        read({"epoch": 3})
    with pytest.raises(UserError, match="contains a list"):
        read([1])
    with pytest.raises(UserError, match=r"no matrix vision_proj\.weight"):
        read({"model": without("vision_proj")})
    with pytest.raises(UserError, match="some parameters twice"):
        read({"model": saved() | {"module.temp": torch.ones(())}})
    with pytest.raises(UserError, match=r"values of text_proj\.bias are not finite"):
        read({"model": saved() | {"text_proj.bias": torch.full((32,), float("nan"))}})
    with pytest.raises(UserError, match="no sizes image_res, window_size"):
        read({"model": saved()}, FILES[2], FILES[2])
    sizes = json.loads(FILES[1].read_text())
    (tmp_path / "window.json").write_text(json.dumps(sizes | {"window_size": 4}))
    with pytest.raises(UserError, match=r"misshapen: .*bias_table is \(9, 1\), not \(49, 1\)"):
        read({"model": saved()}, tmp_path / "window.json", FILES[2])
    text = json.loads(FILES[2].read_text())
    (tmp_path / "heads.json").write_text(json.dumps(text | {"num_attention_heads": 7}))
    with pytest.raises(
        UserError, match=r"heads\.json describe no model that can be built: .*number of attention heads"
    ):
        read({"model": saved()}, FILES[1], tmp_path / "heads.json")
    (tmp_path / "text.json").write_text(json.dumps(text | {"hidden_size": "64"}))
    with pytest.raises(UserError, match=r"describe no model that can be built: .*hidden_size"):
        read({"model": saved()}, FILES[1], tmp_path / "text.json")
    contradictions = {"image_res is 128 there and 64": {"image_res": 128}, "vision_width is 77": {"vision_width": 77}}
    for complaint, change in contradictions.items():
        (tmp_path / "vision.json").write_text(json.dumps(sizes | change))
        with pytest.raises(UserError, match=f"{complaint} .*in the checkpoint"):
            checkpoint.read(FILES[0], tmp_path / "vision.json", FILES[2])
    for key, value in {"encoder_width": 77, "fusion_layer": 9}.items():
        (tmp_path / "text.json").write_text(json.dumps(text | {key: value}))
        with pytest.raises(UserError, match=f"{key} is {value} "):
            checkpoint.read(FILES[0], FILES[1], tmp_path / "text.json")


def test_other_sizes(tmp_path: Path) -> None:
    """Another Swin and another BERT, against a naive Swin and transformers' own BERT."""
    width, layers, text_layers, hidden = 8, 5, 2, 24
    sizes = {"image_res": 64, "window_size": 4, "embed_dim": width, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 4, 4]}
    depths, heads = sizes["depths"], sizes["num_heads"]
    swin = swin_original.weights(width, depths, heads, window=4, side=64, classes=3, seed=1)  # stage 4 is of 2 x 2
    text = {"hidden_size": hidden, "num_attention_heads": 3, "intermediate_size": 32, "num_hidden_layers": layers}
    text |= {
        "vocab_size": 50,
        "max_position_embeddings": 30,
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
    }
    bert = BertModel(BertConfig(**text)).eval()
    state = {f"vision_encoder.{key}": value for key, value in swin.items()}
    state |= {f"text_encoder.bert.{key}": value for key, value in bert.state_dict().items()}
    for layer in range(text_layers, layers):
        prefix = f"text_encoder.bert.encoder.layer.{layer}."
        for key in [key for key in state if key.startswith(f"{prefix}attention.")]:
            shape = list(state[key].shape)
            if key.endswith(("key.weight", "value.weight")):
                shape[1] = 8 * width  # keys and values come from the image
            state[key.replace(".attention.", ".crossattention.")] = torch.randn(shape)
    for name, inputs, outputs in (("vision_proj", 8 * width, 6), ("text_proj", hidden, 6)):
        state |= {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.randn(outputs)}
    for place, inputs, outputs in ((0, hidden, 2 * hidden), (3, 2 * hidden, 2)):
        state |= {
            f"itm_head.{place}.weight": torch.randn(outputs, inputs),
            f"itm_head.{place}.bias": torch.zeros(outputs),
        }
    state |= {"itm_head.1.weight": torch.ones(2 * hidden), "itm_head.1.bias": torch.zeros(2 * hidden)}
    torch.save({"model": state | {"temp": torch.tensor(0.05)}}, tmp_path / "other.pth")
    (tmp_path / "vision.json").write_text(json.dumps(sizes))
    (tmp_path / "text.json").write_text(json.dumps(text | {"fusion_layer": text_layers}))
    found = checkpoint.read(tmp_path / "other.pth", tmp_path / "vision.json", tmp_path / "text.json")
    assert set(found.ignored) >= {key for key in state if ".head." in key or "pooler" in key}
    assert len(found.model.fusion_layers) == layers - text_layers
    assert found.model.config.text.max_tokens == 30  # no more than there are positions
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(50, (2, 7))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        image, words = found.model.encode_image(pixels), found.model.encode_text(ids, mask)
        expected = swin_original.forward(swin, pixels, depths, heads, window=4)
        hidden_states = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        logits = found.model(pixels, ids, mask)["match_logits"]
    torch.testing.assert_close(image[:, 1:], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(words, hidden_states[text_layers], atol=1e-5, rtol=1e-4)
    assert logits.shape == (2, 2)


def test_command_line(imported: checkpoint.Imported, tmp_path: Path) -> None:
    files, output = [str(path) for path in FILES], tmp_path / "model"
    options = ["--vision-config", files[1], "--text-config", files[2], "--output"]
    found = CliRunner().invoke(app, ["import-checkpoint", files[0], *options, str(output)])
    assert found.exit_code == 0, found.output
    again = RetrievalModel.from_pretrained(output).state_dict()
    for key, value in imported.model.state_dict().items():
        assert torch.equal(again[key], value), key
    record = json.loads((output / "import.json").read_text())
    assert record.pop("provenance")["rvlr"]
    sources = record.pop("sources")
    assert sources["checkpoint"] == {"file": FILES[0].name, "sha256": provenance.sha256(FILES[0])}
    assert record == {"used": imported.used, "ignored": imported.ignored, "missing": {}}
    assert record["used"]["itm_head.0.weight"] == "match_head.0.weight"
    messages = found.stderr
    assert f"keys used: {len(imported.used)};" in messages
    assert f"keys ignored: {len(imported.ignored)}: " in messages
    assert "text_encoder.embeddings.position_ids (a buffer, computed from the sizes)" in messages
    assert all(key in messages for key in imported.ignored)
    assert "keys missing: 0\n" in messages
    found = CliRunner().invoke(app, ["import-checkpoint", files[0], "--tokenizer", "no/where", *options, str(output)])
    assert "--tokenizer: 'no/where' is no folder, nor a name in the hub's cache or on the hub" in str(found.exception)
    (tmp_path / "mine.txt").write_text("my own")
    found = CliRunner().invoke(app, ["import-checkpoint", files[0], *options, str(tmp_path)])
    assert isinstance(found.exception, UserError)
    assert "rvlr did not make mine.txt in it" in str(found.exception)
    assert (tmp_path / "mine.txt").exists()


def with_wasserstein() -> State:
    state, generator = saved(), torch.Generator().manual_seed(0)
    for name, width in (("img_wd_proj", 128), ("text_wd_proj", 64)):
        for part, inputs, outputs in ((0, width, 96), (2, 96, 48)):
            state[f"{name}.{part}.weight"] = torch.randn(outputs, inputs, generator=generator) / 8
            state[f"{name}.{part}.bias"] = torch.randn(outputs, generator=generator)
    return state


def slow_wasserstein(student: Tensor, image: Tensor, text: Tensor, words: Tensor, tau: float, weight: float) -> float:
    """`wd` of docs/METHOD.md, "Losses", row by row: the area between two step functions over the sorted values."""

    def cosines(rows: Tensor) -> np.ndarray:
        rows = rows.double().numpy()
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows @ rows.T

    fused, pictures, captions = cosines(student) / tau, cosines(image) / tau, cosines(text) / tau
    target, scale, total = weight * captions + (1 - weight) * pictures, 1 - cosines(words), 0.0
    for matrix in (fused, target):
        np.fill_diagonal(matrix, 0)
    for left, right, mass in zip(fused * scale, target * scale, scale, strict=True):
        values = np.sort(np.concatenate([left, right]))
        for low, high in itertools.pairwise(values):
            one, other = (mass[row <= low].sum() / mass.sum() for row in (left, right))
            total += abs(one - other) * (high - low)
    return total / len(scale)


def test_wasserstein_from_an_imported_checkpoint(inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = with_wasserstein()
    torch.save({"model": state}, tmp_path / "wd.pth")
    checkpoint.save(checkpoint.read(tmp_path / "wd.pth", *FILES[1:]), None, tmp_path / "model")
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    teachers = inputs["teacher_image"], inputs["teacher_text"]
    image, text = model.project_relations(*teachers)
    for found, name, given in ((image, "img_wd_proj", teachers[0]), (text, "text_wd_proj", teachers[1])):
        hidden = torch.nn.functional.gelu(given @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
        torch.testing.assert_close(found, hidden @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"])
    section = config.parse({"teacher": "t", "distance": "wd"}, "test", config.Student)
    task = tasks.StudentTask(model, section).eval()
    batch = {"pixels": inputs["image"], "image": inputs["image_id"], "input_ids": inputs["input_ids"]}
    batch |= {"attention_mask": inputs["attention_mask"], "teacher_image": teachers[0], "teacher_text": teachers[1]}
    terms = task(batch)
    assert set(terms) == {"loss", "itc", "itm", "iic", "ttc", "kd"}
    with torch.no_grad():
        pixels, words = (
            model.encode_image(inputs["image"]),
            model.encode_text(inputs["input_ids"], inputs["attention_mask"]),
        )
        fused = model.fuse(words, inputs["attention_mask"], model.image_keys_values(pixels))[:, 0]
        embedded = model.embed_text(words[:, 0])
    tau, weight = model.relation_temperature.item(), model.fusion_weight.item()
    expected = slow_wasserstein(fused, image.detach(), text.detach(), embedded, tau, weight)
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-4)
    terms["loss"].backward()
    for layer in (model.relation_image_proj[0], model.relation_text_proj[0], model.teacher_vision_proj):
        assert layer.weight.grad.norm() > 0
