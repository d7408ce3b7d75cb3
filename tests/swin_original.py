"""The Swin transformer as Microsoft's checkpoints of 2021 lay it out: made-up weights, and a naive forward pass.

Written from the paper (Liu et al., ICCV 2021) and the names in those files, without timm.
"""

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def weights(width: int, depths: list[int], heads: list[int], window: int, side: int, classes: int, seed: int) -> State:
    """Random weights of a Swin for images of `side` pixels, buffers and a classifier included."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def add(name: str, *shape: int, scale: float = 0.1, shift: float = 0.0) -> None:
        state[name] = shift + scale * torch.randn(shape, generator=generator)

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        add(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        if bias:
            add(f"{name}.bias", outputs)

    def norm(name: str, size: int) -> None:
        add(f"{name}.weight", size, shift=1.0)
        add(f"{name}.bias", size)

    add("patch_embed.proj.weight", width, 3, 4, 4)
    add("patch_embed.proj.bias", width)
    norm("patch_embed.norm", width)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        size, side_here = width * 2**stage, side // 4 // 2**stage
        near = min(window, side_here)
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if block % 2 and side_here > window:
                state[f"{name}.attn_mask"] = torch.zeros((side_here // near) ** 2, near**2, near**2)
            norm(f"{name}.norm1", size)
            add(f"{name}.attn.relative_position_bias_table", (2 * near - 1) ** 2, count, scale=1.0)
            state[f"{name}.attn.relative_position_index"] = bias_index(near)
            linear(f"{name}.attn.qkv", size, 3 * size)
            linear(f"{name}.attn.proj", size, size)
            norm(f"{name}.norm2", size)
            linear(f"{name}.mlp.fc1", size, 4 * size)
            linear(f"{name}.mlp.fc2", 4 * size, size)
        if stage + 1 < len(depths):  # at the end of the stage
            linear(f"layers.{stage}.downsample.reduction", 4 * size, 2 * size, bias=False)
            norm(f"layers.{stage}.downsample.norm", 4 * size)
    norm("norm", width * 2 ** (len(depths) - 1))
    linear("head", width * 2 ** (len(depths) - 1), classes)
    return state


def bias_index(window: int) -> torch.Tensor:
    """(window^2, window^2): which row of the bias table belongs to a pair of places in a window."""
    places = [(y, x) for y in range(window) for x in range(window)]
    row = 2 * window - 1
    return torch.tensor([[(a - c + window - 1) * row + b - d + window - 1 for c, d in places] for a, b in places])


def forward(state: State, pixels: torch.Tensor, depths: list[int], heads: list[int], window: int) -> torch.Tensor:
    """(B, 3, side, side) -> (B, N, width of the last stage), normalised."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def attend(x: torch.Tensor, name: str, count: int, shifted: bool) -> torch.Tensor:
        batch, side, _, width = x.shape
        near = min(window, side)
        shift = near // 2 if shifted and side > window else 0
        x = x.roll((-shift, -shift), (1, 2))
        wrapped = (torch.arange(side) + shift) // side  # 1 for rows that came from the other edge
        region = wrapped[:, None] * 2 + wrapped[None, :]
        bias = state[f"{name}.relative_position_bias_table"][bias_index(near)].permute(2, 0, 1)
        output = torch.empty_like(x)
        for top in range(0, side, near):
            for left in range(0, side, near):
                here = (slice(None), slice(top, top + near), slice(left, left + near))
                qkv = linear(x[here].reshape(batch, near * near, width), f"{name}.qkv")
                query, key, value = qkv.reshape(batch, near * near, 3, count, width // count).permute(2, 0, 3, 1, 4)
                scores = query @ key.transpose(-1, -2) * (width // count) ** -0.5 + bias
                places = region[here[1:]].flatten()
                scores = scores.masked_fill(places[:, None] != places[None, :], float("-inf"))
                mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, near, near, width)
                output[here] = linear(mixed, f"{name}.proj")
        return output.roll((shift, shift), (1, 2))

    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            x = x + attend(norm(x, f"{name}.norm1"), f"{name}.attn", count, block % 2 == 1)
            x = x + linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        if stage + 1 < len(depths):
            corners = [x[:, y::2, z::2] for y, z in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = linear(
                norm(torch.cat(corners, -1), f"layers.{stage}.downsample.norm"), f"layers.{stage}.downsample.reduction"
            )
    return norm(x, "norm").flatten(1, 2)
