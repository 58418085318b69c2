"""Several rows behind one past: its keys and values are read once for all and copied for none.

The queries of all rows' new tokens are folded into one attention over the past. Behind it each row
has a suffix of its own (`suffixes.py`). The two attentions are merged by their log-sum-exps, which
is exact.

Letters: T packed tokens, W tokens watched, N past keys, H query heads, K key/value heads, M folded
queries, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.parts.attention import attend_part, fold, merge
from longtake.parts.qwen2 import Step
from longtake.parts.suffixes import Packing, Suffixes

OBSERVED_KEYS = 8192
"""Keys whose weights are worked out at a time."""

AT_ONCE = 1 << 22
"""Weights (heads x tokens x keys) that may exist at once; up to there one product gives both the
attention and what is looked at."""

Past = Callable[[int], tuple[Tensor, Tensor]]
"""Keys and values [1, K, N, E] of a layer."""


@dataclass(frozen=True)
class Due:
    """The tokens whose features are of use, where others only leave keys and values behind."""

    tokens_W: Tensor
    """Packed places."""
    last: int
    """The last layer: there nothing looks at the other tokens any more."""


@dataclass(frozen=True)
class Watched:
    """Whose attention on the past is wanted, and who wants it."""

    tokens_W: Tensor
    """Packed places, all of them due."""
    note: Callable[[int, Tensor], None]
    """Called with (layer, attention [W, N] on each past key, summed over heads, fp32)."""


@dataclass(frozen=True, kw_only=True)
class SharedStep(Step):
    """A step of packed rows; positions_BS are [1, T]."""

    past: Past
    suffixes: Suffixes
    packing: Packing
    due: Due | None = None
    """None is all."""
    watched: Watched | None = None

    def attend(self, layer: int, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """Attention of packed queries over the past and each its own suffix: [1, H, T, E].

        In the last layer what is not due gets the attention over its suffix alone.
        """
        q_HTE, suffixes = q_BHSE[0], self.suffixes
        suffixes.append(layer, k_BKSE[0], v_BKSE[0], self.packing)
        own, own_lse = self.packing.attend(q_HTE, suffixes.keys[layer], suffixes.values[layer])
        keys, values = self.past(layer)
        if self.watched is not None and self._at_once(q_HTE, keys):
            out_HTE, weights_WN = behind_seen(q_HTE, own, own_lse, keys, values)
            self.watched.note(layer, weights_WN)
            return out_HTE[None]
        if self.due is None or layer != self.due.last:
            out_HTE, lse_HT = behind(q_HTE, own, own_lse, keys, values)
        elif len(places := self.due.tokens_W):
            found, lse = behind(q_HTE[:, places], own[:, places], own_lse[:, places], keys, values)
            out_HTE, lse_HT = own.index_copy(1, places, found), own_lse.index_copy(1, places, lse)
        else:
            out_HTE, lse_HT = own, own_lse  # the kernel divides by the number of queries
        if self.watched is not None:
            places = self.watched.tokens_W
            self.watched.note(layer, looks(q_HTE[:, places], lse_HT[:, places], keys))
        return out_HTE[None]

    def _at_once(self, q_HTE: Tensor, k_1KNE: Tensor) -> bool:
        """Whether all tokens are watched and their weights fit beside everything else."""
        heads, tokens = q_HTE.shape[:2]
        few = heads * tokens * k_1KNE.shape[2] <= AT_ONCE
        all_watched = self.watched is not None and len(self.watched.tokens_W) == tokens
        return few and all_watched and q_HTE.dtype == torch.float32


def behind(
    q_HTE: Tensor, own_HTE: Tensor, own_HT: Tensor, k_1KNE: Tensor, v_1KNE: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over a past, merged with that over what follows it and its log-sum-exps."""
    old, old_lse = attend_part(fold(q_HTE[None], k_1KNE.shape[1]), k_1KNE, v_1KNE)
    old, old_lse = old.reshape(q_HTE.shape), old_lse.reshape(q_HTE.shape[:2])
    return merge(old, old_lse, own_HTE, own_HT)


def behind_seen(
    q_HTE: Tensor, own_HTE: Tensor, own_HT: Tensor, k_1KNE: Tensor, v_1KNE: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, and `looks` of every token: weights are made once, as a whole."""
    heads, tokens = own_HT.shape
    k_KNE, v_KNE = k_1KNE[0], v_1KNE[0]
    q_KME = fold(q_HTE[None] * q_HTE.shape[-1] ** -0.5, len(k_KNE))[0]
    weights_KMN = torch.bmm(q_KME, k_KNE.transpose(1, 2))
    highest_KM = weights_KMN.amax(-1)
    torch.softmax(weights_KMN, -1, out=weights_KMN)
    # the highest score and its weight tell the sum
    lse_HT = (highest_KM - weights_KMN.amax(-1).log()).view(heads, tokens)
    old_HTE = torch.bmm(weights_KMN, v_KNE).view(q_HTE.shape)
    out_HTE, all_HT = merge(old_HTE, lse_HT, own_HTE, own_HT)
    share_T1H = (lse_HT - all_HT).exp().t()[:, None]
    weights_THN = weights_KMN.view(heads, tokens, -1).transpose(0, 1)
    return out_HTE, torch.bmm(share_T1H, weights_THN)[:, 0]


def looks(q_HWE: Tensor, lse_HW: Tensor, k_1KNE: Tensor) -> Tensor:
    """How much queries look at each past key: [W, N], summed over heads, fp32.

    `lse`: log-sum-exps over all keys, the past and what follows.
    """
    groups, width = k_1KNE.shape[1], q_HWE.shape[-1]
    q_KME = fold(q_HWE[None] * width**-0.5, groups)[0]
    minus_KM1 = -lse_HW.reshape(groups, -1, 1).float()
    parts = []
    for k_KNE in k_1KNE[0].split(OBSERVED_KEYS, dim=1):
        if q_KME.dtype == torch.float32:
            scores = torch.baddbmm(minus_KM1, q_KME, k_KNE.transpose(1, 2))
        else:
            scores = (q_KME @ k_KNE.transpose(1, 2)).float().add_(minus_KM1)
        weights = scores.exp_().unflatten(1, (-1, q_HWE.shape[1]))
        parts.append(weights.sum((0, 1)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
