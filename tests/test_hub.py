"""Pretrained models by name: the network is touched for what is not in the cache, and for nothing else."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from rvlr.data.text import learn_tokenizer
from rvlr.models.retrieval import RetrievalModel

pytestmark = pytest.mark.slow

MODEL = {
    "vision": {"name": "resnet10t", "weights": "pretrained", "image_size": 64},
    "text": {"weights": "org/mini", "text_layers": 1, "fusion_layers": 1},
}


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub that has nothing, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub, in its own layout, with a tiny BERT and a ResNet whose first norm is 0."""
    home = tmp_path_factory.mktemp("hub")

    def snapshot(name: str) -> Path:
        folder = home / f"hub/models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("a" * 40)
        made = folder / "snapshots" / ("a" * 40)
        made.mkdir(parents=True)
        return made

    tokenizer = learn_tokenizer(["a small red circle left of a large orange square", "right of, above, at the bottom"])
    bert = snapshot("org/mini")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    state = timm.create_model("resnet10t").state_dict()
    state["bn1.weight"] = torch.full_like(state["bn1.weight"], 0.5)
    save_file(state, snapshot(timm.get_pretrained_cfg("resnet10t").hf_hub_id) / "model.safetensors")
    return home


def initialise(home: Path, endpoint: str, folder: Path, splits: Path) -> subprocess.CompletedProcess[str]:
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    program = [sys.executable, "-m", "rvlr", "initialise", "--config", folder / "model.yaml", "--seed", "0"]
    program += ["--split", splits / "train.jsonl", "--output", folder / "model"]
    variables = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    return subprocess.run(program, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_what_is_cached_is_loaded_without_the_network(
    cache: Path, hub: tuple[str, list[str]], tmp_path: Path, tiny_data: Path
) -> None:
    done = initialise(cache, hub[0], tmp_path, tiny_data / "splits")
    assert done.returncode == 0, done.stderr
    assert hub[1] == []
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    assert model.vision_encoder.backbone.bn1.weight.unique().tolist() == [0.5]


def test_what_is_not_cached_is_asked_for_and_named(hub: tuple[str, list[str]], tmp_path: Path, tiny_data: Path) -> None:
    done = initialise(tmp_path / "empty", hub[0], tmp_path, tiny_data / "splits")
    assert done.returncode == 1
    assert any("org/mini" in path for path in hub[1])
    assert "text.weights: 'org/mini' is no folder, nor a name in the hub's cache or on the hub" in done.stderr
    assert "hf download org/mini" in done.stderr
    assert "Traceback" not in done.stderr
