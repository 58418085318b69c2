"""Two levels of detail in one memory: all windows coarse, and for a question some of them fine.

The idea of Video-X2L (arXiv 2506.21184) and Video-XL-2 on a checkpoint trained with mixed ratios:
the video is condensed twice, strongly and weakly. A question is first read behind the strongly
condensed copy; the windows it looks at most are then replaced by their finer rows, as many as a
budget of bytes allows, and the answer is written behind that mixture. Rows of either level may
stand side by side because a key can be turned from one position to another.

Letters: B batch, H heads, K key/value heads, N rows, E head width, W windows, L layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.engine import prefill
from longtake.errors import OptionError
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache, GrowingLayer, kv_bytes_per_token
from longtake.types import Entry, Window


@dataclass(frozen=True, kw_only=True)
class Fine:
    """A second, finer copy of the video."""

    ratio: int
    """Visual tokens per summary of the finer copy."""
    budget: int
    """Bytes of keys and values a question is answered with, coarse and fine windows together."""
    where: Literal["memory", "disk"] = "memory"
    """Where the finer copy lies: in host memory, or on disk, mapped and read as it is needed."""

    def __post_init__(self) -> None:
        if type(self.ratio) is not int or self.ratio < 1:
            raise OptionError(f"fine ratio must be a whole number from 1, got {self.ratio!r}")
        if self.budget < 1:
            raise OptionError(f"budget must be at least one byte, got {self.budget}")
        if self.where not in ("memory", "disk"):
            raise OptionError(f"fine copies lie in memory or on disk, not {self.where!r}")


class AsideLayer(GrowingLayer):
    """A layer whose buffers lie in host memory, or on disk, and are shown on the model's device."""

    on_disk = False

    def allocate(self, like: Tensor, *shape: int) -> Tensor:
        """Room that is not on the device."""
        if not self.on_disk:
            return torch.empty(shape, dtype=like.dtype)
        with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
            # the name goes at once; the mapping keeps the file until the tensor is let go
            name, count = str(Path(folder) / "rows"), torch.Size(shape).numel()
            return torch.from_file(name, shared=True, size=count, dtype=like.dtype).view(shape)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append; returns all keys and values where the new ones are."""
        held = super().update(key_states, value_states)
        return tuple(part.to(key_states.device) for part in held)

    def peek(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values and these behind them, where these are; nothing is kept of these."""
        keys, values = super().peek(key_states, value_states)
        return keys.to(key_states.device), values.to(key_states.device)


class DiskLayer(AsideLayer):
    """The same in files mapped into memory, gone when the layer is."""

    on_disk = True


class AsideCache(GrowingCache):
    """A cache that takes no room on the device."""

    def __init__(self, where: Literal["memory", "disk"]) -> None:
        super().__init__()
        self.where = where

    def new_layer(self) -> GrowingLayer:
        """One more layer."""
        return (DiskLayer if self.where == "disk" else AsideLayer)(self.reserved)


class TwoLevelCache(GrowingCache):
    """The coarse copy, as any cache, with the finer one beside it."""

    def __init__(self, fine: GrowingCache) -> None:
        super().__init__()
        self.fine = fine
        self.windows: tuple[Window, ...] = ()
        """Of the coarse copy."""
        self.fine_windows: tuple[Window, ...] = ()
        """The same stretches of video in the finer copy."""
        self.fine_entries: tuple[Entry, ...] = ()
        """Where each frame lies in the finer copy."""

    @property
    def nbytes(self) -> int:
        """Bytes of both copies."""
        return super().nbytes + self.fine.nbytes

    @property
    def device(self) -> torch.device:
        """Where the coarse copy is."""
        keys = self.layers[0].keys
        return torch.device("cpu") if keys is None else keys.device

    @property
    def coarse_bytes(self) -> int:
        """Bytes of the coarse copy alone."""
        return super().nbytes

    def trim(self) -> None:
        """Give back what neither copy needs."""
        super().trim()
        self.fine.trim()


@dataclass
class WindowMass:
    """How much of each question token's attention falls on each window: [L, H, R, W]."""

    windows: Sequence[Window]
    layers: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: int, weights_BHRN: Tensor) -> None:
        """Called by each layer with the question's attention."""
        summed_HRN = F.pad(weights_BHRN[0].double().cumsum(-1), (1, 0))
        starts = torch.tensor([window.start for window in self.windows], device=summed_HRN.device)
        stops = torch.tensor([window.stop for window in self.windows], device=summed_HRN.device)
        self.layers.append((summed_HRN[..., stops] - summed_HRN[..., starts]).cpu())

    @property
    def scores(self) -> list[float]:
        """One number per window: over layers, heads and question tokens, the sum of squared shares.

        A head's shares are of its attention on all windows. Squared, a head that looks at one place
        counts, and one that looks everywhere alike does not, however much it looks.
        """
        mass_LHRW = torch.stack(self.layers)
        shares = mass_LHRW / mass_LHRW.sum(-1, keepdim=True).clamp(min=1e-30)
        return shares.square().sum((0, 1, 2)).tolist()


def score_windows(model: LongtakeModel, two: TwoLevelCache, ids: Sequence[int]) -> list[float]:
    """How much a question looks at each window, from reading it behind the coarse copy."""
    mass, length = WindowMass(two.windows), two.get_seq_length()
    x_SD = model.embed(torch.tensor(ids, dtype=torch.int64, device=model.device))
    try:
        prefill(model, iter([x_SD]), two, observe=mass, observed=len(ids))
    finally:
        two.rewind(length)
    return mass.scores


def check_budget(model: LongtakeModel, rows: int, fine: Fine) -> None:
    """Raise OptionError before the work if not even the coarse copy's rows fit the budget."""
    sizes = model.config
    each = kv_bytes_per_token(
        sizes.num_hidden_layers, sizes.num_key_value_heads, sizes.head_dim, model.compute_dtype
    )
    if rows * each > fine.budget:
        raise OptionError(
            f"the coarse copy takes {rows * each} bytes, more than the budget of {fine.budget}; "
            "raise the budget, or the ratio"
        )


def choose_windows(two: TwoLevelCache, scores: Sequence[float], budget: int) -> tuple[int, ...]:
    """Windows to read at the finer level, best first as long as they fit the budget, in order.

    Raises OptionError if not even the coarse copy fits.
    """
    row = two.coarse_bytes // two.get_seq_length()
    left = budget - two.coarse_bytes
    if left < 0:
        raise OptionError(
            f"the coarse copy takes {two.coarse_bytes} bytes, more than the budget of {budget}; "
            "raise the budget"
        )
    chosen = []
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        coarse, fine = two.windows[n], two.fine_windows[n]
        more = ((fine.stop - fine.start) - (coarse.stop - coarse.start)) * row
        if more <= left:
            chosen.append(n)
            left -= more
    return tuple(sorted(chosen))
