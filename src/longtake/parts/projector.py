"""The LLaVA projector: linears with exact GELU between them ("mlp2x_gelu" and its kin)."""

import re

from torch import Tensor, nn

from longtake.errors import CheckpointError
from longtake.parts.layers import Linear


def projector_depth(kind: str) -> int:
    """Number of linears that a published `mm_projector_type` names.

    Raises CheckpointError for a type that no supported system uses.
    """
    if kind == "linear":
        return 1
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None or int(match[1]) < 1:
        raise CheckpointError(
            f"mm_projector_type {kind!r} is not supported; expected 'linear' or 'mlp<N>x_gelu'"
        )
    return int(match[1])


class Projector(nn.Sequential):
    """Vision width -> model width; parameters are named 0, 2, 4, ... as published."""

    def __init__(self, vision: int, hidden: int, depth: int = 2) -> None:
        layers: list[nn.Module] = [Linear(vision, hidden)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), Linear(hidden, hidden)]
        super().__init__(*layers)

    def forward(self, features_TPD: Tensor) -> Tensor:
        """[T, P, vision] -> [T, P, hidden]."""
        return super().forward(features_TPD)  # type: ignore[no-untyped-call]
