"""Weights: reading files of them that may be damaged or foreign, and comparing what they contain with a model."""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.serialization import get_unsafe_globals_in_checkpoint

from rvlr import files
from rvlr.errors import UserError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
Shapes = dict[str, tuple[int, ...]]
State = dict[str, torch.Tensor]
Header = dict[str, tuple[str, tuple[int, ...]]]
_MOST = 8_000
"""Parameters (tensors) of a model. The largest encoders of timm have about 2,000."""


def read(path: Path, load: Callable[[Path], T], key: str = "") -> T:
    """`load(path)`, where `load` reads pickles under `weights_only`. key: what names the file, for messages.

    Raises UserError if there is no such file, or if it cannot be read.
    """
    prefix = f"{key}: " if key else ""
    try:
        files.check_file(path)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None
    if path.stat().st_size == 0:
        raise UserError(f"{prefix}{path} is empty (0 bytes); copy or fetch it again")
    try:
        return load(path)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None
    except Exception as error:  # the errors of pickles and of safetensors have no common base
        raise UserError(f"{prefix}{path} does not load: {_refusal(path, error)}") from error


def _refusal(path: Path, error: Exception) -> str:
    """What is wrong with a file whose loading failed with `error`, and how to fix it. PyTorch's own message on pickles
    advises users to turn the protection off."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}; check its permissions and the disk"
    if (content := _content(path)) is not None:
        return content
    if path.suffix == ".safetensors":
        return f"it is truncated, damaged or no safetensors file ({error}); copy or fetch it again"
    try:
        found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it fails in many ways on arbitrary bytes
        return "it is damaged, or not of the format that torch.save writes since PyTorch 1.6; fetch or save it again"
    if not found:
        return (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"it contains Python objects ({', '.join(sorted(found))}), and loading these could run code of the author of "
        "the file; if you trust the file, write its weights alone to a new file: "
        "torch.save({'model': torch.load(OLD, weights_only=False)['model']}, NEW)"
    )


def _content(path: Path) -> str | None:
    """What a file contains instead of weights of the type that its name states, and how to fix it; None if unclear."""
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, no weights; run `git lfs pull` in its repository, or fetch the file itself"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page (HTML), not weights; fetch the file itself"
    if path.suffix == ".safetensors" and start.startswith(b"PK"):
        return "it contains what torch.save writes, not safetensors; rename it to end in .pth"
    if path.suffix != ".safetensors" and start[8:9] == b"{":
        return "it contains safetensors, not what torch.save writes; rename it to end in .safetensors"
    return None


def shapes(path: Path, key: str) -> Shapes:
    """Names and shapes of the tensors in a file of weights, or in the files that an index (.index.json) names.

    Raises UserError as `read` does, and if weights are quantised.
    """
    if path.name.endswith(".index.json"):
        return {name: shape for part in _parts(path, key) for name, shape in shapes(part, key).items()}
    found = read(path, _safetensors_header if path.suffix == ".safetensors" else _pickled_header, key)
    check_kinds({name: kind for name, (kind, _) in found.items()}, f"{key}: {path}")
    return {name: shape for name, (_, shape) in found.items()}


def _parts(index: Path, key: str) -> list[Path]:
    table = read(index, files.read_json, key)
    named = table.get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{key}: {index}: no weight_map that names the files of the weights; copy or fetch it again")
    return [index.with_name(Path(name).name) for name in sorted(set(named.values()))]


def _safetensors_header(path: Path) -> Header:
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _pickled_header(path: Path) -> Header:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"it contains a {type(state).__name__}, not weights by name")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in tensors.items()}


def shapes_of(model: nn.Module) -> Shapes:
    """Names and shapes of the tensors that a model saves."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def differences(expected: Shapes, found: Shapes) -> str:
    """How a model's parameters and those of a file differ, as the end of a message; empty if they do not."""
    lists = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} is {found[name]}, not {expected[name]}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ],
    }
    return describe(lists) if any(lists.values()) else ""


def describe(lists: Mapping[str, list[str]]) -> str:
    """Lists by their titles as messages print them: the length and the first of each."""
    named = {title: f": {names[:5]}{' ...' if len(names) > 5 else ''}" for title, names in lists.items() if names}
    return ", ".join(f"{len(names)} {title}{named.get(title, '')}" for title, names in lists.items())


def sizes(shapes: Shapes, places: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Sizes of matrices by their keys; places: the name of a matrix and an axis. Matrices that are missing are left
    out."""
    found = {key: (shapes.get(name), axis) for key, (name, axis) in places.items()}
    return {key: shape[axis] for key, (shape, axis) in found.items() if shape is not None and len(shape) == 2}


def layers(shapes: Shapes, prefix: str) -> int:
    """How many layers there are, numbered after `prefix`."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in shapes)
    return len({match[1] for match in found if match})


def compare_sizes(stated: Mapping[str, int], actual: Mapping[str, int], source: str) -> None:
    """Raise UserError where a configuration states another size than the weights beside it have. Sizes that only one of
    the two has (0 layers, say) are left to the comparison of names."""
    wrong = [
        f"{name} is {stated[name]}, but the weights beside it have {size}"
        for name, size in actual.items()
        if size and name in stated and stated[name] != size
    ]
    if wrong:
        raise UserError("\n  ".join([f"{source}: sizes that are not those of the weights", *wrong]))


def check_kinds(kinds: Mapping[str, str], source: str) -> None:
    """Raise UserError if a file has whole numbers for weights, as quantised models do; kinds: dtypes by name."""
    for name, kind in kinds.items():
        if name.endswith(("weight", "bias")) and "f" not in kind.lower():
            raise UserError(
                f"{source}: {name} contains {kind.removeprefix('torch.')} numbers, where weights are floating point; "
                "give weights that are not quantised"
            )


def kinds_of(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of dtypes, for `check_kinds`."""
    return {name: str(value.dtype) for name, value in state.items()}


def check_finite(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise UserError if weights contain NaN or infinity."""
    broken = [name for name, value in state.items() if value.is_floating_point() and not math.isfinite(_extent(value))]
    if broken:
        raise UserError(
            f"{source}: values that are not finite (NaN or infinity) in {len(broken)} of {len(state)} tensors, first "
            f"in {broken[0]}; the training that made them failed, or the file is damaged: give other weights"
        )


def _extent(value: torch.Tensor) -> float:
    """Finite if all of a tensor's values are; without a copy of them."""
    if value.numel() == 0:
        return 0.0
    low, high = value.detach().aminmax()
    return float(low) - float(high)


def outline(build: Callable[[], M], complaint: str) -> M:
    """The model that `build` makes, on PyTorch's device `meta`: names and shapes without numbers. PyTorch's random
    state is left as it is.

    Settings may come from anywhere, so that sizes are checked before memory is taken. Raises UserError, beginning with
    `complaint`, if no model can be built, or if the model does not fit into the memory of this machine.
    """
    count = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if count > _MOST:
            raise UserError(f"more than {_MOST:,} parameter tensors; no supported model has as many")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = build()
    except Exception as error:  # the errors of timm, transformers and PyTorch have no common base
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{complaint}: {why}") from error
    finally:
        hook.remove()
    state = model.state_dict()
    needed = sum(value.numel() * value.element_size() for value in state.values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        largest = max(state, key=lambda name: state[name].numel())
        raise UserError(
            f"{complaint}: its weights are {needed / 1e9:,.0f} GB, and this machine has {memory / 1e9:.0f}; "
            f"the largest, {largest}, is of shape {tuple(state[largest].shape)}"
        )
    return model
