"""Token dropping as a decoder's `between=`: whole sequences at once, for batches and training.

The obvious form of what `longtake.staged` does chunk by chunk (VideoChat-Flash, video-level
compression). Rows of a batch may lose different numbers of tokens: they are padded anew, on the
side they were padded on, and a mask says what counts. Layers behind a drop hold shorter caches, so
written tokens get a position of their own in each stage.

Letters: B batch, S sequence, N keys, K rows that stay, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import PromptError
from longtake.parts.attention import padded_causal
from longtake.parts.dropping import Block, Schedule, kept_rows, looks
from longtake.parts.qwen2 import Decoder, LayerCache, Step
from longtake.parts.ranking import ranking_keys, ranking_queries, ranking_scores

IGNORED = -100
"""Label of a token that is not learned."""


class Lengths(LayerCache, Protocol):
    """What writing asks of a cache."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by a layer."""


@dataclass(frozen=True)
class Row:
    """One sequence of a batch, as it is now."""

    length: int
    """Tokens without padding."""
    blocks: tuple[Block, ...] = ()
    """Its visuals; none drops nothing."""
    labels_S: Tensor | None = None
    """While training: of each token; those before a learned one ask, instead of the last token."""

    def asking(self) -> list[int]:
        """Tokens by whose attention visuals are ranked; none while training: nothing drops.

        Of a first token that is learned, the one before is the last: the original's index wraps.
        """
        if self.labels_S is None:
            return [self.length - 1]
        labels = self.labels_S.tolist()
        found = [
            number - 1
            for number, label in enumerate(labels)
            if label != IGNORED and labels[number - 1] == IGNORED
        ]
        return [number % len(labels) for number in found]


@dataclass(kw_only=True)
class DropBetween:
    """Drops visual tokens of a batch between layers; one object serves one batch."""

    decoder: Decoder
    schedule: Schedule
    rows: Sequence[Row]
    """Of the batch, in order."""
    left: bool = False
    """Whether the batch is padded on the left, as for writing; else on the right."""
    kept: list[list[Tensor]] = field(default_factory=list)
    """Of each drop and row: what stayed, as indices into what went in."""
    lengths: dict[int, list[int]] = field(default_factory=dict)
    """Of each layer a stage begins with: tokens of every row, without padding."""

    def __call__(self, layer: int, x_BSD: Tensor, step: Step) -> tuple[Tensor, Step]:
        """What the next layer gets. Raises PromptError if the batch is another one."""
        if layer + 1 not in self.schedule.layers:
            return x_BSD, step
        if len(x_BSD) != len(self.rows):
            raise PromptError(f"{len(x_BSD)} rows to drop from, {len(self.rows)} were described")
        if layer + 1 in self.lengths:
            return x_BSD, self._written(layer + 1, x_BSD.shape[1], step)
        return self._dropped(layer + 1, x_BSD, step)

    @property
    def labels_BS(self) -> Tensor:
        """While training: labels of what is left, IGNORED where it is padded."""
        labels = [row.labels_S for row in self.rows if row.labels_S is not None]
        longest = max(map(len, labels))
        return torch.stack([F.pad(one, (0, longest - len(one)), value=IGNORED) for one in labels])

    def _dropped(self, layer: int, x_BSD: Tensor, step: Step) -> tuple[Tensor, Step]:
        drop, device = self.schedule.layers.index(layer), x_BSD.device
        stays, after = [], []
        for row, x_SD in zip(self.rows, x_BSD, strict=True):
            whole_SD = x_SD[-row.length :] if self.left else x_SD[: row.length]
            stay_K, blocks = self._stay(layer, drop, row, whole_SD.detach())
            labels = None if row.labels_S is None else row.labels_S[stay_K.to(row.labels_S.device)]
            after.append(Row(len(stay_K), blocks, labels))
            stays.append((stay_K, whole_SD[stay_K]))
        self.rows = after
        self.kept.append([stay_K.cpu() for stay_K, _ in stays])
        self.lengths[layer] = [row.length for row in after]
        longest = max(self.lengths[layer])
        x_BSD = torch.stack([self._padded(x_KD, longest) for _, x_KD in stays])
        valid_BN = self._valid(layer, longest, device)
        positions_BS = (valid_BN.cumsum(1) - 1).clamp(min=0)
        mask_BSN = None if bool(valid_BN.all()) else padded_causal(valid_BN, longest)
        return x_BSD, replace(step, positions_BS=positions_BS, mask_BSN=mask_BSN)

    @torch.no_grad()
    def _stay(
        self, layer: int, drop: int, row: Row, x_SD: Tensor
    ) -> tuple[Tensor, tuple[Block, ...]]:
        """Rows that stay, on the device of x."""
        everything = torch.arange(row.length, device=x_SD.device)
        if not row.blocks:
            return everything, row.blocks
        looks_S = None
        if not self.schedule.is_even(drop):
            asking = torch.tensor(row.asking(), dtype=torch.int64, device=x_SD.device)
            if not len(asking):
                return everything, row.blocks
            looks_S = self._looks(layer, x_SD, asking)
        stay_K, blocks = kept_rows(self.schedule, drop, row.blocks, row.length, looks_S)
        return stay_K.to(x_SD.device), blocks

    def _looks(self, layer: int, x_SD: Tensor, asking_Q: Tensor) -> Tensor:
        queries = ranking_queries(self.decoder, layer, x_SD[asking_Q], asking_Q)
        scores_HQS = ranking_scores(queries, ranking_keys(self.decoder, layer, x_SD, 0))
        later_QS = torch.arange(len(x_SD), device=x_SD.device) > asking_Q[:, None]
        return looks(scores_HQS.masked_fill(later_QS, float("-inf")))

    def _written(self, layer: int, new: int, step: Step) -> Step:
        """The step of written tokens in the stage that begins with `layer`."""
        cache: Lengths = step.cache  # type: ignore[assignment]
        longest = max(self.lengths[layer])
        written, device = cache.get_seq_length(layer) - longest, step.positions_BS.device
        valid_BN = F.pad(self._valid(layer, longest, device), (0, written + new), value=True)
        positions_BS = valid_BN.cumsum(1)[:, -new:] - 1
        mask_BSN = None if bool(valid_BN.all()) else padded_causal(valid_BN, new)
        return replace(step, positions_BS=positions_BS, mask_BSN=mask_BSN)

    def _valid(self, layer: int, longest: int, device: torch.device) -> Tensor:
        """Which tokens of a stage count: [B, N]."""
        lengths = torch.tensor(self.lengths[layer], device=device)[:, None]
        places = torch.arange(longest, device=device)
        return places >= longest - lengths if self.left else places < lengths

    def _padded(self, x_KD: Tensor, longest: int) -> Tensor:
        missing = longest - len(x_KD)
        return F.pad(x_KD, (0, 0, missing, 0) if self.left else (0, 0, 0, missing))
