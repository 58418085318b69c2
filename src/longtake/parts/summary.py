"""Visual summary tokens: their embedding, their q/k/v, and attention that keeps only them.

Video-XL (arXiv 2409.14485, section 3.2). A summary token shares all weights of the decoder but has
its own projections to queries, keys and values in every layer, and its own embedding. It sees all
of the past and of its window before it. When the window is over, a layer keeps the summaries' keys
and values alone, and their positions close ranks: the k-th kept row stands at position k.

The original keeps keys unrotated and rotates all of them at every step. The positions of kept rows
never change again, so here each is rotated once, where it will stay: the same numbers.

Letters: B batch, S rows of a window, V summaries among them, D width, K key/value heads, E head
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from longtake.parts.attention import attend
from longtake.parts.layers import Linear
from longtake.parts.qwen2 import Attention, Decoder, DecoderConfig, Step
from longtake.parts.rope import RopeTable, rotate

PARAMETERS = ("q", "k", "v")
"""What a summary token has of its own, as released (`beacon_param`)."""


class WindowCache(Protocol):
    """A cache that can show a window's keys without keeping them."""

    def peek(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer and these behind them; nothing is kept."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> Any:
        """Keep these behind the others; returns all."""

    def keep(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> None:
        """Keep these behind the others."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a window are summaries, in the forms that a layer needs."""

    summary_V: Tensor
    """Indices of summaries, int64."""
    visual_N: Tensor
    """Indices of visual tokens."""
    back_S: Tensor
    """Brings rows sorted as [visual, summaries] back into the window's order."""

    @classmethod
    def of(cls, is_summary_S: Tensor) -> Rows:
        """From one truth value per row."""
        summary, visual = is_summary_S.nonzero()[:, 0], (~is_summary_S).nonzero()[:, 0]
        return cls(summary, visual, torch.cat([visual, summary]).argsort())

    def join(self, visual_BND: Tensor, summary_BVD: Tensor) -> Tensor:
        """Visual rows and summaries in the window's order: [B, S, D]."""
        return torch.cat([visual_BND, summary_BVD], dim=1).index_select(1, self.back_S)


@dataclass(frozen=True, kw_only=True)
class WindowStep(Step):
    """A step over one window."""

    rows: Rows


class SummaryAttention(Attention):
    """The decoder's attention with a second set of projections for summary tokens."""

    def __init__(self, config: DecoderConfig, layer: int, own: Sequence[str] = PARAMETERS) -> None:
        super().__init__(config, layer)
        for name in own:
            heads = config.heads if name == "q" else config.kv_heads
            projection = Linear(config.hidden, heads * config.head_dim)
            self.register_module(f"beacon_{name}_proj", projection)

    def forward(
        self, x_BSD: Tensor, step: Step, table: RopeTable, queries: int | None = None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; of a window only the summaries' keys and values are kept.

        `queries`: as of the ordinary attention; a window's rows are all wanted.
        """
        if not isinstance(step, WindowStep):
            return super().forward(x_BSD, step, table, queries)
        rows, cache = step.rows, cast(WindowCache, step.cache)
        visual_BND = x_BSD.index_select(1, rows.visual_N)
        summary_BVD = x_BSD.index_select(1, rows.summary_V)
        q, k, v = (
            rows.join(ordinary(visual_BND), own(summary_BVD))
            .unflatten(-1, (-1, self.head_dim))
            .transpose(1, 2)
            for ordinary, own in (self._projections(name) for name in PARAMETERS)
        )
        keys, values = cache.peek(rotate(k, table), v, self.layer)
        out = attend(rotate(q, table), keys, values)
        # the kept rows close ranks at the window's first positions, which the table begins with
        kept = len(rows.summary_V)
        kept_k, kept_v = (x.index_select(2, rows.summary_V) for x in (k, v))
        cache.keep(rotate(kept_k, table.first(kept)), kept_v, self.layer)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _projections(self, name: str) -> tuple[nn.Module, nn.Module]:
        """The projection of ordinary rows and that of summaries, which may be the same."""
        ordinary = self.get_submodule(f"{name}_proj")
        return ordinary, getattr(self, f"beacon_{name}_proj", ordinary)


class SummaryDecoder(Decoder):
    """The decoder with summary tokens."""

    def __init__(self, config: DecoderConfig, own: Sequence[str] = PARAMETERS) -> None:
        """`own`: which of q, k and v summaries project with weights of their own."""
        super().__init__(config, partial(SummaryAttention, own=own))
        self.beacon_embed_tokens = nn.Embedding(1, config.hidden)

    def window(
        self, features_BND: Tensor, is_summary_S: Tensor, cache: WindowCache, past: int
    ) -> Tensor:
        """Read one window of visual tokens behind `past` kept ones: features [B, S, D].

        Keeps the keys and values of the rows that `is_summary_S` marks, and no others.
        """
        rows = Rows.of(is_summary_S.to(features_BND.device))
        batch = len(features_BND)
        summary_1D = self.beacon_embed_tokens.weight.to(features_BND.dtype)
        x_BSD = rows.join(features_BND, summary_1D.expand(batch, len(rows.summary_V), -1))
        positions = torch.arange(past, past + x_BSD.shape[1], device=x_BSD.device)
        step = WindowStep(positions_BS=positions.expand(batch, -1), cache=cache, rows=rows)
        return self(x_BSD, step)


@torch.no_grad()
def begin_summaries(decoder: SummaryDecoder, embedding_row: int) -> None:
    """Start a decoder's summary tokens as training does: copies of the ordinary weights.

    `embedding_row`: the token whose embedding they begin with (the end token, as released).
    """
    decoder.beacon_embed_tokens.weight.copy_(decoder.embed_tokens.weight[embedding_row])
    for layer in decoder.layers:
        attention = cast(SummaryAttention, layer.self_attn)
        for name in PARAMETERS:
            if hasattr(attention, f"beacon_{name}_proj"):
                ordinary = attention.get_submodule(f"{name}_proj")
                own = attention.get_submodule(f"beacon_{name}_proj")
                own.load_state_dict(ordinary.state_dict())
