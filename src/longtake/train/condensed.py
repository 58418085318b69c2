"""Training through summary tokens: loss over windows, gradients through what each window keeps.

Video-XL, section 3.4, and its released training code: next-token cross-entropy over all steps of a
sequence, keys and values of summaries never detached, so that a late answer teaches the summaries
of the first window. Unlike the original, rows of one shape may be batched.

B batch, S tokens of a stretch of text, N visual tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.errors import OptionError
from longtake.model import LongtakeModel
from longtake.parts.qwen2 import Step
from longtake.parts.summary import SummaryDecoder
from longtake.parts.windows import Chooser, Place, Plan, planned
from longtake.train.dialogue import IGNORED


@dataclass(frozen=True)
class Text:
    """A stretch of text with its labels."""

    ids_BS: Tensor
    labels_BS: Tensor
    """The token itself where it is to be learned, IGNORED where not; shifted here, not before."""


Stretch = Text | Tensor
"""Text, or the features [B, N, D] of a visual."""


class TapeCache:
    """Keys and values as a tape for gradients: nothing is written in place."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def peek(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer and these behind them; nothing is kept."""
        if layer_idx not in self._held:
            return key_states, value_states
        keys, values = self._held[layer_idx]
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Keep these behind the others; returns all."""
        self._held[layer_idx] = self.peek(key_states, value_states, layer_idx)
        return self._held[layer_idx]

    def keep(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> None:
        """Keep these behind the others."""
        self.update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by a layer."""
        return self._held[layer_idx][0].shape[2] if layer_idx in self._held else 0


@dataclass(kw_only=True)
class Losses:
    """Cross-entropy of every step, and their common mean."""

    sums: list[Tensor] = field(default_factory=list)
    """Of each step, over its labelled tokens."""
    counts: list[int] = field(default_factory=list)
    """Labelled tokens of each step."""
    right: int = 0
    """Labelled tokens whose logit is the largest."""

    @property
    def loss(self) -> Tensor:
        """Mean over all labelled tokens. Raises OptionError if there is none."""
        if not sum(self.counts):
            raise OptionError("no token of the sample is labelled; there is nothing to learn")
        return torch.stack(self.sums).sum() / sum(self.counts)

    def add(self, model: LongtakeModel, features_BSD: Tensor, targets_BS: Tensor) -> None:
        """A step's features and the token that should follow each; the head sees labelled ones."""
        learned = targets_BS != IGNORED
        logits_NV, targets_N = model.logits(features_BSD[learned]), targets_BS[learned]
        self.sums.append(F.cross_entropy(logits_NV, targets_N, reduction="sum"))
        self.counts.append(len(targets_N))
        self.right += int((logits_NV.argmax(-1) == targets_N).sum())


def condensed_losses(
    model: LongtakeModel,
    sample: Sequence[Stretch],
    chooser: Chooser,
    window: int,
    place: Place = "interleave",
) -> Losses:
    """Read a sample as inference would, with gradients, and compare with its labels.

    Text is read whole, a visual in windows of `window` tokens condensed by the ratios that
    `chooser` draws. A visual that ends the sample leaves its last window uncondensed, as in the
    original: nothing would look at those summaries. Raises OptionError under gradient
    checkpointing: its second forward would find the tape already written.
    """
    if any(
        getattr(layer, "gradient_checkpointing", False)
        for layer in cast(SummaryDecoder, model.decoder).layers
    ):
        raise OptionError("summaries cannot be trained under gradient checkpointing; turn it off")
    cache, losses = TapeCache(), Losses()
    for place_in, stretch in enumerate(sample):
        after = sample[place_in + 1] if place_in + 1 < len(sample) else None
        if isinstance(stretch, Text):
            targets = next_tokens(stretch, after)
            losses.add(model, read_text(model, model.embed(stretch.ids_BS), cache), targets)
            continue
        parts = stretch.split(window, dim=1)
        plans = planned((part.shape[1] for part in parts), chooser, place)
        for number, part_BND in enumerate(parts, 1):
            last = number == len(parts)
            if last and after is None:
                features_BND = read_text(model, part_BND, cache)
            else:
                features_BND = read_window(model, part_BND, next(plans), cache)
            targets = torch.full(part_BND.shape[:2], IGNORED, device=part_BND.device)
            if last and isinstance(after, Text):
                targets[:, -1] = after.labels_BS[:, 0]
            losses.add(model, features_BND, targets)
    return losses


def next_tokens(text: Text, after: Stretch | None) -> Tensor:
    """Labels shifted by one: what should follow each token; the last looks at the next stretch."""
    first = torch.full_like(text.labels_BS[:, :1], IGNORED)
    if isinstance(after, Text):
        first = after.labels_BS[:, :1]
    return torch.cat([text.labels_BS[:, 1:], first], dim=1)


def read_text(model: LongtakeModel, x_BSD: Tensor, cache: TapeCache) -> Tensor:
    """Features [B, S, D] of tokens that are all kept."""
    past = cache.get_seq_length()
    positions = torch.arange(past, past + x_BSD.shape[1], device=x_BSD.device)
    step = Step(positions_BS=positions.expand(len(x_BSD), -1), cache=cache)
    return model.decoder(x_BSD, step)


def read_window(model: LongtakeModel, part_BND: Tensor, plan: Plan, cache: TapeCache) -> Tensor:
    """Features [B, N, D] of a window's visual tokens; only its summaries are kept."""
    rows, decoder = plan.is_summary().to(part_BND.device), cast(SummaryDecoder, model.decoder)
    features_BSD = decoder.window(part_BND, rows, cache, cache.get_seq_length())
    return features_BSD[:, ~rows]


def summary_parts(decoder: SummaryDecoder) -> Mapping[str, nn.Module]:
    """The modules that summary tokens have of their own, by name: to train these alone."""
    return {name: part for name, part in decoder.named_modules() if "beacon_" in name}


@dataclass(frozen=True)
class Curriculum:
    """Which ratios windows are drawn from as training goes on: small first (section 3.4)."""

    stages: tuple[tuple[float, tuple[int, ...]], ...] = (
        (0.0, (2,)),
        (0.25, (2, 4)),
        (0.5, (2, 4, 8)),
        (0.75, (2, 4, 8, 16)),
    )
    """(share of the run from which, ratios), in order; the released code has one stage."""

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.stages]
        if not starts or starts[0] != 0.0 or starts != sorted(set(starts)):
            raise OptionError(f"a curriculum's stages must start at 0 and rise, got {starts}")

    def ratios(self, progress: float) -> tuple[int, ...]:
        """The ratios allowed when so much of the run is done. Raises OptionError outside 0 to 1."""
        if not 0.0 <= progress <= 1.0:
            raise OptionError(f"progress is a share of the run, 0 to 1, got {progress}")
        return [ratios for start, ratios in self.stages if start <= progress][-1]
