"""Two levels of detail in one memory: all windows coarse, and for a question some of them fine.

The idea of Video-X2L (arXiv 2506.21184) and Video-XL-2 on a checkpoint trained with mixed ratios:
the video is condensed twice, strongly and weakly. A question is first read behind the strongly
condensed copy; the windows it looks at most are then replaced by their finer rows, as many as a
budget of bytes allows, and the answer is written behind that mixture. Rows of either level may
stand side by side because a key can be turned from one position to another.

Letters: B batch, H heads, K key/value heads, N rows, E head width, W windows, L layers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from longtake.choices import FINE_PLACES, check_choice
from longtake.engine import prefill
from longtake.errors import CapacityError, OptionError
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache, GrowingLayer
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
        check_choice("fine_on", self.where, FINE_PLACES)


class AsideLayer(GrowingLayer):
    """A layer whose buffers lie in host memory, or on disk, and are shown on the model's device."""

    on_disk = False

    def allocate(self, like: Tensor, *shape: int) -> Tensor:
        """Room that is not on the device."""
        if not self.on_disk:
            return torch.empty(shape, dtype=like.dtype)
        count = torch.Size(shape).numel()
        with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
            # the name goes at once; the mapping keeps the file until the tensor is let go
            name = Path(folder) / "rows"
            take_room(name, count * like.dtype.itemsize)
            rows = torch.from_file(str(name), shared=True, size=count, dtype=like.dtype)
            return rows.view(shape)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append; returns all keys and values where the new ones are."""
        self.keep(key_states, value_states)
        return tuple(cast(Tensor, part).to(key_states.device) for part in (self.keys, self.values))

    def peek(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values and these behind them, where these are; nothing is kept of these."""
        keys, values = super().peek(key_states, value_states)
        return keys.to(key_states.device), values.to(key_states.device)


def take_room(file: Path, size: int) -> None:
    """Make a file of so many bytes. Raises CapacityError if the disk has no room for them.

    A file that only claims its size would end the program when a row is written that does not fit.
    """
    try:
        with file.open("wb") as made:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(made.fileno(), 0, size)
            else:
                made.truncate(size)
    except OSError as error:
        where = file.parent.parent
        raise CapacityError(
            f"{where} has no room for {size} bytes of the finer copy ({error.strerror}); "
            "free some, set TMPDIR to another folder, or keep it in memory"
        ) from error


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
    def shareable(self) -> bool:
        """Each question has a mixture of its own."""
        return False

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
class WindowScores:
    """How much a question looks at each window: over layers and heads, the sum of squared shares.

    Shares are of a head's attention on all windows, from the question's last token, where the
    answer begins. Squared, a head that looks at one place counts, and one that looks everywhere
    alike does not, however much it looks.
    """

    owner_N: Tensor
    """The window of each row of the coarse copy; one past the last window for text."""
    scores_W: Tensor

    @classmethod
    def of(cls, two: TwoLevelCache) -> WindowScores:
        """None yet."""
        owner = torch.full((two.get_seq_length(),), len(two.windows))
        for number, window in enumerate(two.windows):
            owner[window.start : window.stop] = number
        return cls(owner.to(two.device), torch.zeros(len(two.windows), device=two.device))

    def __call__(self, layer: int, weights_BHN: Tensor) -> None:
        """Called by each layer with the last query's attention."""
        on_memory = weights_BHN[0, :, : len(self.owner_N)]
        mass = on_memory.new_zeros(len(on_memory), len(self.scores_W) + 1)
        mass = mass.index_add_(1, self.owner_N, on_memory)[:, :-1]
        shares = mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)
        self.scores_W += shares.square().sum(0)


def score_windows(model: LongtakeModel, two: TwoLevelCache, ids: Sequence[int]) -> list[float]:
    """How much a question looks at each window, from reading it behind the coarse copy."""
    scores, length = WindowScores.of(two), two.get_seq_length()
    x_SD = model.embed(torch.tensor(ids, dtype=torch.int64, device=model.device))
    try:
        prefill(model, iter([x_SD]), two, observe=scores)
    finally:
        two.rewind(length)
    return [float(score) for score in scores.scores_W.tolist()]


def check_budget(taken: int, fine: Fine) -> None:
    """Raise OptionError if not even the coarse copy, of so many bytes, fits the budget."""
    if taken > fine.budget:
        raise OptionError(
            f"the coarse copy takes {taken} bytes, more than the budget of {fine.budget}; "
            "raise the budget, or the ratio"
        )


def choose_windows(two: TwoLevelCache, scores: Sequence[float], fine: Fine) -> tuple[int, ...]:
    """Windows to read at the finer level, best first as long as they fit the budget, in order.

    Raises OptionError if not even the coarse copy fits.
    """
    row = two.coarse_bytes // two.get_seq_length()
    check_budget(two.coarse_bytes, fine)
    left, chosen = fine.budget - two.coarse_bytes, []
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        coarse, finer = two.windows[n], two.fine_windows[n]
        more = ((finer.stop - finer.start) - (coarse.stop - coarse.start)) * row
        if more <= left:
            chosen.append(n)
            left -= more
    return tuple(sorted(chosen))
