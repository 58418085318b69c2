"""Rotary position tables. B batch, S positions, E half of a head's width.

Frequencies and angles are fp32 whatever the model's dtype: half-precision positions collide beyond
a few thousand tokens, which is where long video lives (LongVA's stack lost them beyond 227 frames).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.parts.fields import mapping, real


class RopeTable(NamedTuple):
    """Cosines and sines of a run of positions, each [B, 1, S, 2E] in the model's dtype."""

    cos: Tensor
    sin: Tensor


def frequencies(head_dim: int, theta: float) -> Tensor:
    """Plain rotary frequencies theta^(-2i/head_dim): [E], fp32 (RoFormer, eq. 15)."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)


def rope_table(positions_BS: Tensor, frequencies_E: Tensor, dtype: torch.dtype) -> RopeTable:
    """Tables for just the positions in use."""
    angles_BSE = positions_BS[..., None].float() * frequencies_E
    angles = torch.cat([angles_BSE, angles_BSE], dim=-1)[:, None]
    return RopeTable(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(x_BHSE: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys [B, H, S, 2E] by their positions (the two-halves layout)."""
    first, second = x_BHSE.chunk(2, dim=-1)
    return x_BHSE * table.cos + torch.cat([-second, first], dim=-1) * table.sin


def unrotate(x_BHSE: Tensor, table: RopeTable) -> Tensor:
    """Undo `rotate`: queries or keys as they were before, to the last bit or two."""
    return rotate(x_BHSE, RopeTable(table.cos, -table.sin))


def theta_from_config(config: Mapping[str, Any]) -> float:
    """rope_theta from either the published or the transformers-5 spelling.

    Raises CheckpointError if the config asks for a context extension: silently ignoring one
    changes every logit.
    """
    nested = mapping(config, "rope_parameters")
    scaling = mapping(config, "rope_scaling") or nested
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"rope scaling {kind!r} is not supported yet; expected none")
    return real(config if config.get("rope_theta") is not None else nested, "rope_theta", 10000.0)
