"""Rotary position tables. B batch, S positions, E half of a head's width.

Frequencies and angles are fp32 whatever the model's dtype: half-precision positions collide beyond
a few thousand tokens, which is where long video lives (LongVA's stack lost them beyond 227 frames).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.parts.fields import mapping, real, whole

Ramp = Literal["dim", "rotations"]
"""What rises evenly between pairs that are left and pairs that are slowed: their number, as in the
code of YaRN and of transformers, or how often they turn, as both papers print it."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Position interpolation (arXiv 2306.15595): every pair turns `factor` times slower."""

    factor: float
    """How many times further than trained the model shall read; from 1."""

    @property
    def gain(self) -> float:
        """Nothing is multiplied."""
        return 1.0

    def frequencies(self, head_dim: int, theta: float) -> Tensor:
        """Of all pairs: [E], fp32."""
        return 1.0 / (self.factor * powers(head_dim, theta))


@dataclass(frozen=True, kw_only=True)
class Ntk:
    """NTK-aware: a larger base, so that the fastest pair turns as it did, the slowest `factor`
    times slower."""

    factor: float
    """How many times further than trained the model shall read; from 1."""

    @property
    def gain(self) -> float:
        """Nothing is multiplied."""
        return 1.0

    def frequencies(self, head_dim: int, theta: float) -> Tensor:
        """Of all pairs: [E], fp32."""
        larger = theta * self.factor ** (head_dim / max(1, head_dim - 2))
        return 1.0 / powers(head_dim, larger)


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN (arXiv 2309.00071): fast pairs turn as they did, slow ones `factor` times slower.

    With the visual tokens of training as `original` and those of a video over them as `factor`,
    visual context window extension (arXiv 2409.20018).
    """

    factor: float
    """How many times further than `original` the model shall read; from 1."""
    original: int
    """Positions it was trained on."""
    beta_fast: float = 32.0
    """A pair that turns more often than this within `original` is left as it is."""
    beta_slow: float = 1.0
    """A pair that turns less often than this is slowed by the whole factor."""
    attention: float | None = None
    """What cosines and sines are multiplied by, in place of 0.1 ln(factor) + 1."""
    truncate: bool = True
    """A ramp by number begins and ends at whole pairs; in the authors' code, not in the paper."""
    ramp: Ramp = "dim"

    @property
    def gain(self) -> float:
        """What cosines and sines are multiplied by (section 3.4); scores get its square."""
        return 0.1 * math.log(self.factor) + 1.0 if self.attention is None else self.attention

    def frequencies(self, head_dim: int, theta: float) -> Tensor:
        """Of all pairs: [E], fp32."""
        powers_E = powers(head_dim, theta)
        kept_E = self.kept(powers_E, theta)
        # the order of these operations is that of transformers: the same bits
        return 1.0 / (self.factor * powers_E) * (1.0 - kept_E) + 1.0 / powers_E * kept_E

    def kept(self, powers_E: Tensor, theta: float) -> Tensor:
        """How much of its speed each pair keeps, 1 for all of it, 0 for a `factor`-th: [E]."""
        if self.ramp == "rotations":
            turns_E = self.original / (2.0 * math.pi * powers_E)
            # where the ramp has no length, it is a step
            length = max(self.beta_fast - self.beta_slow, 1e-3)
            return ((turns_E - self.beta_slow) / length).clamp(0.0, 1.0)
        low, high = self.edges(2 * len(powers_E), theta)
        pairs_E = torch.arange(len(powers_E), dtype=torch.float32)
        return 1.0 - ((pairs_E - low) / (high - low)).clamp(0.0, 1.0)

    def edges(self, head_dim: int, theta: float) -> tuple[float, float]:
        """The last pair that is left as it is, and the first that is slowed wholly (by number)."""
        low, high = (
            head_dim * math.log(self.original / (turns * 2.0 * math.pi)) / (2.0 * math.log(theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high + 0.001 if low == high else high


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How positions become angles."""

    theta: float
    """The base; above 1."""
    positions: int = 32768
    """Positions the weights were trained on, before anything stretched them."""
    scaling: Linear | Ntk | Yarn | None = None
    """What stretches them."""

    @property
    def factor(self) -> float:
        """How many times further than trained the model reads."""
        return 1.0 if self.scaling is None else self.scaling.factor

    @property
    def gain(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.gain

    def window(self, stated: int) -> int:
        """How far a checkpoint reads of whose length so much is stated, its own scaling aside."""
        return stated if self.scaling is None else max(stated, round(self.positions * self.factor))

    def stretched(self, scaling: Linear | Ntk | Yarn) -> Rope:
        """With this in place of what stretched them before; a factor up to 1 stretches nothing."""
        return replace(self, scaling=scaling if scaling.factor > 1.0 else None)


class RopeTable(NamedTuple):
    """Cosines and sines of a run of positions, each [B, 1, S, 2E] in the model's dtype."""

    cos: Tensor
    sin: Tensor
    gain: float = 1.0
    """What both have been multiplied by."""

    def first(self, count: int) -> RopeTable:
        """The table of the first `count` positions."""
        return RopeTable(self.cos[:, :, :count], self.sin[:, :, :count], self.gain)

    def last(self, count: int) -> RopeTable:
        """The table of the last `count` positions."""
        return RopeTable(self.cos[:, :, -count:], self.sin[:, :, -count:], self.gain)


def powers(head_dim: int, theta: float) -> Tensor:
    """theta^(2i/head_dim) of all pairs (RoFormer, eq. 15): [E], fp32."""
    exponents_E = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return torch.pow(theta, exponents_E)


def frequencies(head_dim: int, rope: Rope) -> Tensor:
    """Rotary frequencies, plain theta^(-2i/head_dim) or stretched: [E], fp32."""
    if rope.scaling is None:
        return 1.0 / powers(head_dim, rope.theta)
    return rope.scaling.frequencies(head_dim, rope.theta)


def rope_table(
    positions_BS: Tensor, frequencies_E: Tensor, dtype: torch.dtype, gain: float = 1.0
) -> RopeTable:
    """Tables for just the positions in use, multiplied by `gain`."""
    angles_BSE = positions_BS[..., None].float() * frequencies_E
    angles = torch.cat([angles_BSE, angles_BSE], dim=-1)[:, None]
    return RopeTable((angles.cos() * gain).to(dtype), (angles.sin() * gain).to(dtype), gain)


def rotate(x_BHSE: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys [B, H, S, 2E] by their positions (the two-halves layout).

    They grow by the table's gain as well.
    """
    first, second = x_BHSE.chunk(2, dim=-1)
    return x_BHSE * table.cos + torch.cat([-second, first], dim=-1) * table.sin


def unrotate(x_BHSE: Tensor, table: RopeTable) -> Tensor:
    """Undo `rotate`: queries or keys as they were before, to the last bit or two."""
    back_BHSE = rotate(x_BHSE, RopeTable(table.cos, -table.sin))
    # turning back multiplied by the gain a second time
    return back_BHSE if table.gain == 1.0 else back_BHSE / table.gain**2


UNUSABLE = ("mscale", "mscale_all_dim", "mrope_section")
"""Fields that would change the angles or the gain, of models that are not ours."""


def rope_from_config(config: Mapping[str, Any]) -> Rope:
    """From either the published (rope_scaling) or the transformers-5 (rope_parameters) spelling.

    Raises CheckpointError for a context extension of a kind that is not ours: silently ignoring
    one changes every logit.
    """
    nested = mapping(config, "rope_parameters")
    scaling = mapping(config, "rope_scaling") or nested
    stated = (held for held in (config, scaling, nested) if held.get("rope_theta") is not None)
    theta = real(next(stated, {}), "rope_theta", 10000.0)
    if theta <= 1.0:
        raise CheckpointError(f"config.json: rope_theta is {theta}, expected a number above 1")
    positions = whole(config, "max_position_embeddings", 32768)
    positions = whole(scaling, "original_max_position_embeddings", positions)
    # a factor of no stated kind must not pass for none
    unnamed = "default" if scaling.get("factor") is None else None
    kind = scaling.get("rope_type") or scaling.get("type") or unnamed
    unusable = [name for name in UNUSABLE if scaling.get(name) is not None]
    if kind not in ("default", "yarn", "linear") or unusable:
        found = f"{kind!r}{' with ' + unusable[0] if unusable else ''}"
        raise CheckpointError(
            f"config.json: rope scaling {found} is not supported; expected yarn, linear or none"
        )
    plain = Rope(theta=theta, positions=positions)
    if kind == "default":
        return plain
    if kind == "linear":
        return plain.stretched(Linear(factor=factor_from_config(scaling)))
    return replace(plain, scaling=yarn_from_config(scaling, positions))


def factor_from_config(scaling: Mapping[str, Any]) -> float:
    """How many times further a checkpoint reads. Raises CheckpointError."""
    factor = real(scaling, "factor")
    if factor < 1.0:
        raise CheckpointError(f"config.json: rope scaling factor is {factor}, expected 1 or more")
    return factor


def yarn_from_config(scaling: Mapping[str, Any], original: int) -> Yarn:
    """The fields that transformers reads. Raises CheckpointError for numbers that mean nothing."""
    factor = factor_from_config(scaling)
    fast, slow = real(scaling, "beta_fast", 32.0), real(scaling, "beta_slow", 1.0)
    truncate = scaling.get("truncate", True)
    if fast < slow:
        raise CheckpointError(f"config.json: beta_fast {fast} is below beta_slow {slow}")
    if not isinstance(truncate, bool):
        raise CheckpointError(f"config.json: truncate is {truncate!r}, expected true or false")
    given = scaling.get("attention_factor") is not None
    return Yarn(
        factor=factor,
        original=original,
        beta_fast=fast,
        beta_slow=slow,
        attention=real(scaling, "attention_factor") if given else None,
        truncate=truncate,
    )
