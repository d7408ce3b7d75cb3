"""Pretrained models, tokenizers and model folders: damaged, foreign, incomplete, of other sizes than stated."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from storm import Case, World

Spoil = Callable[[Path], None]
WEIGHTS = "model.safetensors"
CODE = "open('ran', 'w').close()\nclass Anything: pass\n"
BERT_SIZES = "files/config_bert_tiny.json"
GOLDEN = Path(__file__).resolve().parent.parent / "golden/model"


def write(name: str, content: str | bytes) -> Spoil:
    """Replace a file of a folder."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, size: int) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(*names: str) -> Spoil:
    return lambda folder: [(folder / name).unlink() for name in names]


def settings(name: str, **changed: Any) -> Spoil:
    """Change keys of a JSON file; a__b is the key b within a."""

    def spoil(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        for key, value in changed.items():
            *outer, last = key.split("__")
            place = found
            for part in outer:
                place = place[part]
            place[last] = value
        (folder / name).write_text(json.dumps(found))

    return spoil


def state(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    """Change the weights of a folder."""

    def spoil(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHTS))
        save_file({name: value.contiguous() for name, value in changed.items()}, folder / WEIGHTS, {"format": "pt"})

    return spoil


def poison(name: str, value: float = float("nan")) -> Spoil:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[name].view(-1)[-1] = value
        return weights

    return state(change)


def whole(name: str) -> Spoil:
    """Store a tensor as whole numbers, as quantised weights are."""
    return state(lambda weights: weights | {name: weights[name].char()})


def renamed(change: Callable[[str], str]) -> Spoil:
    return state(lambda weights: {change(name): value for name, value in weights.items()})


def dropped(part: str) -> Spoil:
    return state(lambda weights: {name: value for name, value in weights.items() if part not in name})


def with_code(*files: str) -> Spoil:
    """Ask for Python code that lies in the folder, where a class is looked up by name."""

    def spoil(folder: Path) -> None:
        (folder / "code.py").write_text(CODE)
        for name in files:
            path = folder / name
            found = json.loads(path.read_text()) if path.exists() else {}
            found |= {"auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "code.Anything"), "model_type": "own"}
            found["auto_map"]["AutoTokenizer"] = ["code.Anything", None]
            path.write_text(json.dumps(found))

    return spoil


def all_unknown(folder: Path) -> None:
    """A vocabulary of as many words, none of which anybody writes."""
    found = json.loads((folder / "tokenizer.json").read_text())
    words = found["model"]["vocab"]
    found["model"]["vocab"] = {word if word[0] == "[" else f"\u00fe{number}": number for word, number in words.items()}
    (folder / "tokenizer.json").write_text(json.dumps(found))


def unframed(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(found | {"post_processor": None}))


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def below(name: str, spoil: Spoil) -> Spoil:
    return lambda folder: spoil(folder / name)


def nothing(folder: Path) -> None:
    """The fault lies in the settings."""


def initialise(world: World, folder: Path, **changed: Any) -> list[str]:
    """The command for a model with these sections changed."""
    section = yaml.safe_load((world.sections / "model.yaml").read_text())
    for name, value in changed.items():
        section[name] = section[name] | value if isinstance(section.get(name), dict) else value
    (folder / "model.yaml").write_text(yaml.safe_dump(section))
    files = ["--config", "model.yaml", "--split", f"{world.data}/splits/train.jsonl"]
    return ["initialise", *files, "--seed", "0", "--output", "new"]


def text(weights: str) -> dict[str, Any]:
    return {"text": {"weights": weights, "size": None}}


def bert(name: str, spoil: Spoil, *says: str) -> Case:
    """`initialise` with a BERT folder that was spoilt."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.bert, folder / "bert")
        spoil(folder / "bert")
        return initialise(world, folder, **text("bert"))

    return Case(f"BERT: {name}", arrange, (r"text\.weights", *says))


def model(name: str, spoil: Spoil, *says: str) -> Case:
    """`evaluate` with a model folder that was spoilt."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.model, folder / "model")
        spoil(folder / "model")
        files = [
            "--config",
            f"{world.sections}/evaluation.yaml",
            "--model",
            "model",
            "--seed",
            "0",
            "--run",
            "initial-a",
        ]
        more = ["--split", f"{world.data}/splits/test.jsonl", "--relevance", f"{world.relevance}/test.npy"]
        return ["evaluate", *files, *more, "--output", "new"]

    return Case(f"model folder: {name}", arrange, says)


def teacher(name: str, spoil: Spoil, *says: str) -> Case:
    """`extract` with a single-modal text model that was spoilt."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.bert, folder / "bert")
        spoil(folder / "bert")
        vision = yaml.safe_load((world.sections / "model.yaml").read_text())["vision"]
        section = {"kind": "single-modal", "vision": vision, "text": {"weights": "bert"}, "workers": 0}
        (folder / "teacher.yaml").write_text(yaml.safe_dump(section))
        files = ["--config", "teacher.yaml", "--split", f"{world.data}/splits/train.jsonl"]
        return ["extract", *files, "--output", "new"]

    return Case(f"single-modal text: {name}", arrange, (r"text\.weights", *says))


def named(name: str, weights: str, *says: str) -> Case:
    """`initialise` with a string for `text.weights`, beside a folder `weights/bert`."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.bert, folder / "weights/bert")
        return initialise(world, folder, **text(weights))

    return Case(f"text.weights: {name}", arrange, (r"text\.weights", *says), environment={"HOME": "/nowhere"})


def vision(what: str, spoil: Spoil, *says: str, file: str = "vision.pth", **changed: Any) -> Case:
    """`initialise` with a vision checkpoint that was spoilt, or with other settings."""

    def arrange(world: World, folder: Path) -> list[str]:
        spoil(folder)
        weights = file if os.path.lexists(folder / file) else "random"
        return initialise(world, folder, vision={"weights": weights} | changed)

    return Case(f"vision: {what}", arrange, says)


def backbone(change: Callable[[dict[str, torch.Tensor]], Any], file: str = "vision.pth") -> Spoil:
    """The vision weights of the sound model, changed, in a file."""

    def spoil(folder: Path) -> None:
        from conftest import TINY_MODEL

        from rvlr import config
        from rvlr.models.vision import VisionEncoder

        section = config.Vision(**TINY_MODEL["vision"])
        encoder = VisionEncoder(section.name, section.image_size, section.options)
        changed = change(encoder.backbone.state_dict())
        save_file(changed, folder / file) if file.endswith(".safetensors") else torch.save(changed, folder / file)

    return spoil


def imported(name: str, spoil: Spoil, *says: str) -> Case:
    """`import-checkpoint` with a spoilt folder that holds the authors' files and a tokenizer."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(GOLDEN, folder / "files")
        shutil.copytree(world.bert, folder / "tokenizer", ignore=shutil.ignore_patterns("config.json", WEIGHTS))
        spoil(folder)
        options = ["--vision-config", "files/config_swin_tiny.json", "--text-config", "files/config_bert_tiny.json"]
        return [
            "import-checkpoint",
            "files/checkpoint_best.pth",
            *options,
            "--tokenizer",
            "tokenizer",
            "--output",
            "new",
        ]

    return Case(f"import: {name}", arrange, says)


def infinite(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["layer1.0.conv1.weight"].view(-1)[0] = float("inf")
    return weights


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(weights.items())[: len(weights) // 2])


def grey(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"conv1.0.weight": weights["conv1.0.weight"][:, :1]}


def zeroed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) for name, value in weights.items()}


def negative(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: -value if name.endswith("running_var") else value for name, value in weights.items()}


def misnamed(made: str, name: str) -> Spoil:
    """Sound vision weights of one format, called as if they were of the other."""
    return both(backbone(dict, made), lambda folder: (folder / made).rename(folder / name))


def rows(count: int) -> Spoil:
    """More word embeddings than the tokenizer has tokens."""
    return both(
        settings(CONFIG, vocab_size=count),
        state(lambda weights: weights | {WORDS: torch.ones(count, weights[WORDS].shape[1])}),
    )


LAST = "encoder.layer.2.output.dense.weight"
WORDS = "embeddings.word_embeddings.weight"
PLAIN = "vision.safetensors"
CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
NO_MODEL = r"config\.json describes no model that can be built"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
SHARDS = json.dumps({"weight_map": {"a": "model-1.safetensors"}})
PICKLE = b"cos\nsystem\n(S'touch ran'\ntR."
HUGE_HEADER = b"\xff" * 7 + b"\x0f" + b"{" * 90
FEW_ROWS = both(settings(CONFIG, vocab_size=9), state(lambda weights: weights | {WORDS: weights[WORDS][:9]}))
BERTS = [
    bert("no key loads", renamed(lambda name: f"tower.{name}"), "53 missing", r"55 unexpected: \['tower\."),
    bert("one key is missing", dropped(LAST), r"1 missing: \['encoder\.layer\.2\.output\.dense\.weight'\]"),
    bert("a layer is missing", dropped("encoder.layer.2."), CONFIG, "num_hidden_layers is 3, .* have 2"),
    bert("an unknown key", state(lambda weights: weights | {"gate.weight": torch.ones(3)}), "1 unexpected", "gate"),
    bert("fewer layers in config.json", settings(CONFIG, num_hidden_layers=2), "num_hidden_layers is 2, .* have 3"),
    bert("10**9 layers", settings(CONFIG, num_hidden_layers=10**9), CONFIG, "num_hidden_layers is 10+, .* have 3"),
    bert("a width of 10**9", settings(CONFIG, hidden_size=10**9), CONFIG, "hidden_size: found 10+"),
    bert("a width of another model", settings(CONFIG, hidden_size=32), CONFIG, "hidden_size is 32, .* have 16"),
    bert("10**12 words", settings(CONFIG, vocab_size=10**12), CONFIG, "vocab_size: found 10+"),
    bert("heads that do not divide", settings(CONFIG, num_attention_heads=3), CONFIG, "num_attention_heads 3"),
    bert("a decoder", settings(CONFIG, is_decoder=True), CONFIG, "is_decoder"),
    bert("a size as text", settings(CONFIG, hidden_size="wide"), CONFIG, "hidden_size"),
    bert("another kind of model", settings(CONFIG, model_type="roberta"), "roberta", "must be a BERT"),
    bert("NaN in its weights", poison(LAST), WEIGHTS, "not finite", LAST),
    bert("quantised weights", whole(LAST), WEIGHTS, f"{LAST} contains I8"),
    bert("weights cut off", cut(WEIGHTS, 5000), WEIGHTS, "truncated"),
    bert("weights of 0 bytes", cut(WEIGHTS, 0), WEIGHTS, "empty"),
    bert("a header of 2**60 bytes", write(WEIGHTS, HUGE_HEADER), WEIGHTS, "damaged"),
    bert("no weights", remove(WEIGHTS), "no weights in", r"model\.safetensors", r"pytorch_model\.bin"),
    bert("a pickle that runs code", both(remove(WEIGHTS), write("pytorch_model.bin", PICKLE)), r"pytorch_model\.bin"),
    bert(
        "shards that are not there", both(remove(WEIGHTS), write(f"{WEIGHTS}.index.json", SHARDS)), "model-1", "no such"
    ),
    bert("config.json is a list", write(CONFIG, "[1]"), CONFIG, "contains a list"),
    bert("config.json cut off", cut(CONFIG, 30), CONFIG, "not valid JSON"),
    bert("an adapter", write("adapter_config.json", "{}"), "adapter"),
    bert("a quantisation", settings(CONFIG, quantization_config={"quant_method": "gptq"}), "quantised"),
    bert("attention from the hub", settings(CONFIG, _attn_implementation="org/kernel"), CONFIG, "code from the hub"),
    bert("code for the model", with_code(CONFIG), CONFIG, "auto_map", "no code"),
    bert("code for the tokenizer", with_code(SETTINGS), SETTINGS, "auto_map", "no code"),
    bert("no tokenizer", remove(TOKENIZER, SETTINGS), "no tokenizer in bert", r"vocab\.txt"),
    bert("a tokenizer without vocabulary", remove(TOKENIZER), "no tokenizer in bert"),
    bert("tokenizer.json cut off", cut(TOKENIZER, 300), r"bert/tokenizer\.json", "not valid JSON"),
    bert("the vocabulary of another model", rows(5000), r"has \d+ tokens, the model embeds 5000", "cut short"),
    bert("a vocabulary nobody writes", all_unknown, "does not know 100%", "at most 50%"),
    bert("more tokens than rows", FEW_ROWS, r"tokenizer has \d+ tokens, the model embeds 9", "first 9 of"),
    bert("no pad token", settings(SETTINGS, pad_token=None), "pad_token"),
    bert("a tokenizer without [CLS] and [SEP]", unframed, r"between \[CLS\] and \[SEP\]"),
]
NAMES = [
    named("a mistyped path", "weights/brt", "no such folder: weights/brt", "weights there is bert"),
    named("a mistyped absolute path", "/nowhere/at/all", "no such folder"),
    named("a path below the home folder", "~/bert", "no such folder: /nowhere/bert"),
    named("a path of Windows", "weights\\bert", "no such folder"),
    named("a file", "weights/bert/model.safetensors", "is a file", "folder that contains"),
    named("a mistyped file", "bert.bin", "no such folder"),
    named("an address", "https://huggingface.co/org/bert", "no such folder: https://hug", "OWNER/NAME"),
    named("a name with blanks", "bert base", "neither a folder nor a name"),
    named("nothing", " ", "names nothing|found . ."),
    named("a name too long for a file", "a" * 300 + "/", "too long"),
]
MODELS = [
    model("no tokenizer", remove(TOKENIZER, SETTINGS), "no tokenizer in .*model"),
    model("code for the tokenizer", with_code(SETTINGS), "auto_map", "no code"),
    model("10**9 text layers", settings(CONFIG, text__text_layers=10**9), CONFIG, r"text\.text_layers", "100"),
    model("99 fusion layers", settings(CONFIG, text__fusion_layers=99), CONFIG, r"fusion_layers is 99, .* have 2"),
    model("a width of 10**9", settings(CONFIG, bert__hidden_size=10**9), CONFIG, r"bert\.hidden_size: found 10+"),
    model("teacher widths of 10**9", settings(CONFIG, teacher_widths=[10**9, 7]), NO_MODEL, "teacher_vision_proj"),
    model("pictures of 10**9 pixels", settings(CONFIG, vision__image_size=10**9), CONFIG, "image_size", "2,048"),
    model("a backbone 10**9 deep", settings(CONFIG, vision__options={"layers": [10**9, 1, 1, 1]}), NO_MODEL, "8,000"),
    model(
        "an option that loads", settings(CONFIG, vision__options={"checkpoint_path": "x"}), CONFIG, "checkpoint_path"
    ),
    model("an endless temperature", settings(CONFIG, contrast_temperature=float("inf")), CONFIG, "Infinity"),
    model("a mean in 0 to 255", settings(CONFIG, vision__mean=[123.7, 116.3, 103.5]), r"vision\.mean", "0 to 1"),
    model("more tokens than positions", settings(CONFIG, text__max_tokens=999), r"text\.max_tokens", "512"),
    model("no key vision", settings(CONFIG, vision=None), CONFIG, "vision"),
    model("NaN in its weights", poison("match_head.3.bias"), WEIGHTS, "not finite", r"match_head\.3\.bias"),
    model("quantised weights", whole("vision_proj.bias"), WEIGHTS, r"vision_proj\.bias contains I8"),
    model("weights cut off", cut(WEIGHTS, 3000), WEIGHTS, "truncated"),
    model("no weights", remove(WEIGHTS), WEIGHTS, "no such file", "rvlr initialise"),
    model("a run's folder", both(remove(WEIGHTS), lambda folder: (folder / "model").mkdir()), "; give model/model"),
    model("a BERT in its place", settings(CONFIG, model_type="bert"), "'bert' model", "rvlr"),
]
TEACHERS = [
    teacher("no key loads", renamed(lambda name: f"tower.{name}"), "53 missing"),
    teacher("one key is missing", dropped(LAST), "1 missing", LAST),
    teacher("code for the model", with_code(CONFIG), CONFIG, "auto_map"),
    teacher("no tokenizer", remove(TOKENIZER, SETTINGS), "no tokenizer in bert"),
    teacher("a vocabulary nobody writes", all_unknown, "does not know"),
    teacher("infinity in its weights", poison(LAST, float("inf")), WEIGHTS, "not finite"),
    teacher("a width of 10**9", settings(CONFIG, hidden_size=10**9), NO_MODEL, r"the largest, .* \(10{9}, 10{9}\)"),
    teacher("one width more", settings(CONFIG, intermediate_size=33), "another model", "misshapen"),
]
VISIONS = [
    vision("infinity in its weights", backbone(infinite), r"vision\.pth", "not finite", r"layer1\.0\.conv1\.weight"),
    vision("quantised weights", backbone(lambda found: {name: value.char() for name, value in found.items()}), "int8"),
    vision("a folder", lambda folder: (folder / "vision.pth").mkdir(), r"vision\.weights: vision\.pth", "folder"),
    vision("0 bytes", write("vision.pth", b""), r"vision\.weights: vision\.pth is empty"),
    vision("a mean in 0 to 255", nothing, r"vision\.mean", "0 to 1", mean=[123.7, 116.3, 103.5]),
    vision("a deviation of 0", nothing, r"vision\.std", "0.001 to 1", std=[0.2, 0.0, 0.2]),
    vision("a mean that is no number", nothing, r"vision\.mean", mean=[float("nan"), 0.5, 0.5]),
    vision("safetensors called .pth", misnamed("vision.safetensors", "vision.pth"), "rename it .* in .safetensors"),
    vision("a .pth called safetensors", misnamed("vision.pth", PLAIN), "rename it to end in .pth", file=PLAIN),
    vision("a pointer of Git LFS", write(PLAIN, POINTER), "git lfs pull", file=PLAIN),
    vision("a web page", write("vision.pth", "<!DOCTYPE html><html>"), "web page"),
    vision("a broken link", lambda folder: (folder / PLAIN).symlink_to("gone"), "a link to gone", file=PLAIN),
    vision("a part of its weights", backbone(halved), r"\d+ parameters missing: \[", "complete file"),
    vision("weights of one channel", backbone(grey), "size mismatch", "vision.options that"),
    vision("weights that are all 0", backbone(zeroed), "the same tokens of every image"),
    vision("negative variances", backbone(negative), "tokens that are not finite"),
    vision("shared parameters", nothing, "shares parameters", name="coat_lite_tiny", options={}),
    vision("channels of 10**9", nothing, "cannot be built: vision", options={"channels": [10**9, 8, 8, 8]}),
    vision("no tokens", nothing, "makes no tokens", name="crossvit_9_240", options={}, image_size=240),
]
IMPORTS = [
    imported("code for the tokenizer", below("tokenizer", with_code(SETTINGS)), "--tokenizer", "auto_map"),
    imported("no vocabulary", below("tokenizer", remove(TOKENIZER)), "--tokenizer: no tokenizer in"),
    imported("10**9 layers", settings(BERT_SIZES, num_hidden_layers=10**9), "config_bert_tiny", "100"),
    imported("a size as a list", settings(BERT_SIZES, fusion_layer=[1]), BERT_SIZES, "no sizes fusion_layer"),
    imported("a negative size", settings("files/config_swin_tiny.json", embed_dim=-8), "no sizes embed_dim"),
    imported("0 bytes", write("files/checkpoint_best.pth", b""), r"checkpoint_best\.pth is empty"),
]
CASES = [*BERTS, *NAMES, *MODELS, *TEACHERS, *VISIONS, *IMPORTS]
