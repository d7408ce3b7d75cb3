"""Where a pretrained model is: in a folder, or on the hub under a name. A path is never looked up on the hub, and
a model in the hub's cache is not fetched again."""

import difflib
import re
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache

from rvlr.errors import UserError

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
)
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers looks for them."""
_TEXTS = ["*.json", "*.txt", "*.model"]
_FETCHED = ([*_TEXTS, "model.safetensors", "model-*.safetensors"], [*_TEXTS, "pytorch_model*.bin"])
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_FILE = re.compile(r".*\.(safetensors|bin|pth?|ckpt|h5|msgpack|onnx|gguf|npz|json|txt|ya?ml|model|zip|tar|gz)", re.I)


def find(name: str | Path, key: str, *parts: tuple[str, ...]) -> Path:
    """The folder of a pretrained model: a path, or a name on the hub, fetched if the cache lacks it.

    key: the key of the configuration or the option that gives the name, for messages. parts: groups of file names, such
    as `VOCABULARIES`; a model in the cache is complete if it has one file of every group. Raises UserError.
    """
    folder = local(name, key)
    if folder is not None:
        return folder
    name = str(name)
    cached = try_to_load_from_cache(name, "config.json")
    folder = Path(cached).parent if isinstance(cached, str) else None
    return folder if folder is not None and _complete(folder, parts) else _fetch(name, key, parts)


def local(name: str | Path, key: str) -> Path | None:
    """The folder that a path names, None for a name on the hub. Raises UserError for what is neither."""
    if not str(name).strip():
        raise UserError(f"{key}: {name!r} names nothing; give a folder, or a name on the hub")
    try:
        if isinstance(name, Path) or _is_path(name):
            return _folder(name, key)
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that may not be read, no such home
        raise UserError(f"{key}: {name}: {getattr(error, 'strerror', None) or error}; correct the path") from None
    if not _HUB_NAME.fullmatch(name):
        raise UserError(f"{key}: {name!r} is neither a folder nor a name on the hub, such as bert-base-uncased")
    return None


def file_in(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these files that is in a folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def near(path: Path) -> str:
    """Names like the first part of a path that does not exist, as the end of a message; empty if there is none."""
    path = path.absolute()
    while not path.parent.is_dir():
        path = path.parent
    found = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    return f"; in {path.parent} there is {', '.join(found)}" if found else ""


def cached_timm_weights(name: str) -> Path | None:
    """The cached file of timm's own weights of a model, if they were fetched before."""
    import timm  # and PyTorch, which a look at a folder does not need

    described = timm.get_pretrained_cfg(name)
    repository = described.hf_hub_id if described is not None else None
    found = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    return Path(found) if isinstance(found, str) else None


def _is_path(name: str) -> bool:
    """Whether a string can mean a path only. A name on the hub is NAME or OWNER/NAME."""
    owner = name.split("/")[0]
    return (
        name.startswith(("/", ".", "~"))
        or "\\" in name
        or name.count("/") > 1
        or name.endswith("/")
        or _FILE.fullmatch(name) is not None
        or Path(name).exists()
        or ("/" in name and Path(owner).exists())
    )


def _folder(name: str | Path, key: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{key}: {path} is a file; give the folder that contains config.json, weights and tokenizer")
    shown = name if "://" in str(name) else path
    raise UserError(
        f"{key}: no such folder: {shown}{near(path)}; give a folder, or a name on the hub, which is NAME or OWNER/NAME"
    )


def _complete(folder: Path, parts: tuple[tuple[str, ...], ...]) -> bool:
    return all(file_in(folder, names) is not None for names in parts)


def _fetch(name: str, key: str, parts: tuple[tuple[str, ...], ...]) -> Path:
    advice = f"without a network, give a folder, or fetch it where there is one: hf download {name}"
    for patterns in _FETCHED:
        try:
            folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
        except Exception as error:  # those of the network, the hub and the disk have no common base
            raise UserError(
                f"{key}: {name!r} is no folder, nor a name in the hub's cache or on the hub: {error}\n{advice}"
            ) from error
        if _complete(folder, parts):
            return folder
    lacking = next(names for names in parts if file_in(folder, names) is None)
    raise UserError(f"{key}: {name!r} has none of {', '.join(lacking)} on the hub or in its cache; {advice}")
