"""A model without its numbers: names and shapes of its parameters, at no cost in memory."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from rvlr.errors import UserError

M = TypeVar("M", bound=nn.Module)
_MOST = 8_000
"""Parameters (tensors) of a model. The largest encoders of timm have about 2,000."""


def outline(build: Callable[[], M], complaint: str) -> M:
    """What `build` makes, on PyTorch's device `meta`; its random state is left as it is.

    Settings may come from anywhere, so that sizes are looked at before memory is taken: raises UserError, beginning
    with `complaint`, if nothing can be built, or nothing that fits into this machine.
    """
    count = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if count > _MOST:
            raise UserError(f"more than {_MOST:,} parameter tensors; no model that is known has as many")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = build()
    except Exception as error:  # those of timm, transformers and PyTorch have no common base
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
