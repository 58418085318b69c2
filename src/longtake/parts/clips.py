"""What the towers that see short clips share (VideoChat-Flash, arXiv 2501.00574).

A clip is 4 consecutive frames whose tokens all attend to one another; an image is a clip of one
frame. Here: the sizes, the patches, attention, the MLP, and how the sizes are read off a published
checkpoint, whose config.json does not carry them.

Letters: B clips, F frames of a clip, T frames of all clips, C channels, H W pixels, P patches of a
frame, L tokens of a clip (F*P, plus a class token where there is one), N tokens of all clips, D
width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.errors import CheckpointError, PromptError
from longtake.parts.layers import Linear, gelu
from longtake.parts.vit import CPU_BYTES


@dataclass(frozen=True, kw_only=True)
class ClipTowerConfig:
    """Sizes of a tower; `layers` counts the blocks that are built and run."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    image: int
    patch: int
    frames: int = 4
    """Frames of a clip; the only other input is an image, one frame."""

    @property
    def side(self) -> int:
        """Patches along an edge of a frame."""
        return self.image // self.patch

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return self.side**2

    @property
    def clips_at_once(self) -> int:
        """Clips a CPU should see at a time: queries, keys and values stay below CPU_BYTES.

        They are the widest activation, the MLP's being cut; at 448 pixels a single clip is larger.
        """
        return max(1, CPU_BYTES // (4 * self.frames * self.patches * 3 * self.hidden))


def check_clips(pixels_BFCHW: Tensor, config: ClipTowerConfig) -> None:
    """Raise PromptError unless these are clips or images of the tower's size."""
    shape = tuple(pixels_BFCHW.shape)
    size = (3, config.image, config.image)
    if len(shape) != 5 or shape[1] not in (1, config.frames) or shape[2:] != size:
        raise PromptError(
            f"the tower takes clips [B, {config.frames}, 3, {config.image}, {config.image}] or "
            f"images [B, 1, ...], got {list(shape)}; give whole clips of {config.frames} frames"
        )


class PatchEmbed(nn.Module):
    """A linear map of each patch; published as a Conv3d that sees one frame at a time."""

    def __init__(self, config: ClipTowerConfig) -> None:
        super().__init__()
        kernel = (1, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.hidden, kernel, kernel)
        self.patch = config.patch

    def forward(self, pixels_BFCHW: Tensor) -> Tensor:
        """[B, F, 3, H, W] -> [B, F*P, D]: frame by frame, row by row."""
        dtype, bias = pixels_BFCHW.dtype, self.proj.bias
        bias = None if bias is None else bias.to(dtype)
        weight = self.proj.weight.to(dtype).squeeze(2)
        frames_TDHW = F.conv2d(pixels_BFCHW.flatten(0, 1), weight, bias, self.patch)
        x_TPD = frames_TDHW.flatten(2).transpose(1, 2)
        return x_TPD.unflatten(0, tuple(pixels_BFCHW.shape[:2])).flatten(1, 2)


def attend_all(q_BLD: Tensor, k_BLD: Tensor, v_BLD: Tensor, heads: int) -> Tensor:
    """Attention of every token over every token of its clip: [B, L, D]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BLD, k_BLD, v_BLD))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Two linears around the exact GELU."""

    def __init__(self, config: ClipTowerConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden, config.mlp)
        self.fc2 = Linear(config.mlp, config.hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; on a CPU without gradients in pieces of CPU_BYTES inside."""
        rows = max(1, CPU_BYTES // (x_BLD.element_size() * self.fc1.out_features))
        x_ND = x_BLD.flatten(0, 1)
        if torch.is_grad_enabled() or x_BLD.device.type != "cpu" or len(x_ND) <= rows:
            return self._whole(x_BLD)
        out_ND = x_ND.new_empty(x_ND.shape)
        for piece_ND, out in zip(x_ND.split(rows), out_ND.split(rows), strict=True):
            out.copy_(self._whole(piece_ND))
        return out_ND.view(x_BLD.shape)

    def _whole(self, x_ND: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x_ND)))


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """What the shapes of a published tower say."""

    hidden: int
    layers: int
    mlp: int

    def heads(self, width: int) -> int:
        """Heads of `width` channels each. Raises CheckpointError if they do not fill the tower."""
        if self.hidden % width:
            raise CheckpointError(
                f"the tower is {self.hidden} wide, which is no multiple of its head width {width}"
            )
        return self.hidden // width


def tower_sizes(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> TowerSizes:
    """Read the sizes off published names (those that begin with `prefix`) and their shapes.

    Raises CheckpointError if a tensor is missing or has no rows, or the blocks are not 0, 1, 2, ...
    """
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    blocks = sorted({int(match[1]) for name in shapes if (match := pattern.match(name))})
    if not blocks or blocks != list(range(len(blocks))):
        found = ", ".join(map(str, blocks)) or "none"
        raise CheckpointError(f"{prefix}blocks.N must be 0, 1, 2, ... without a gap, found {found}")
    return TowerSizes(
        hidden=_rows(shapes, f"{prefix}patch_embed.proj.weight"),
        layers=len(blocks),
        mlp=_rows(shapes, f"{prefix}blocks.0.mlp.fc1.weight"),
    )


def _rows(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    shape = shapes.get(name)
    if not shape or shape[0] < 1:
        found = "is missing" if shape is None else f"has the shape {list(shape)}"
        raise CheckpointError(f"{name} {found}; the tower's sizes are read off its rows")
    return shape[0]
