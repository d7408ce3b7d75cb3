"""Pretrained models by name: from the cache where they lie there, so that nothing touches the network without need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import timm
from huggingface_hub import try_to_load_from_cache

T = TypeVar("T")


def local_first(load: Callable[..., T], name: str, **options: Any) -> T:
    """`load(name, **options)`, a `from_pretrained` of transformers, from a folder or the hub's cache, and from the hub
    only what is not there. Raises what `load` raises."""
    try:
        return load(name, local_files_only=True, **options)
    except OSError:
        return load(name, **options)


def cached_timm_weights(name: str) -> Path | None:
    """The cached file of timm's own weights of a model, if they were fetched before."""
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    found = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    return Path(found) if isinstance(found, str) else None
