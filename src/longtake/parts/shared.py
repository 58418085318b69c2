"""Several rows behind one past: its keys and values are read once for all and copied for none.

New tokens of all rows travel as one packed sequence without padding, whether a row reads a question
or writes a word. Their queries are folded into one attention over the past. Behind it each row has
a short suffix of its own, attended with rows of similar length, and the two attentions are merged
by their log-sum-exps, which is exact.

Letters: R rows, A rows of a group, T packed tokens, L most tokens of a row, C room of a suffix, W
tokens watched, N past keys, H query heads, K key/value heads, G = H/K, M folded queries, E head
width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from longtake.parts.attention import attend_part, fold, merge
from longtake.parts.qwen2 import Step

ROOM = 64
"""Tokens a suffix begins with; room then grows by half."""

OBSERVED_KEYS = 8192
"""Keys whose weights are worked out at a time."""

Past = Callable[[int], tuple[Tensor, Tensor]]
"""Keys and values [1, K, N, E] of a layer."""


@dataclass(frozen=True)
class Part:
    """New tokens of one row."""

    slot: int
    """Where the row's suffix lies."""
    held: int
    """Tokens of its suffix before these."""
    count: int
    """How many; at least one."""


class Suffixes:
    """Keys and values behind the past, one suffix for each row; rows lie in slots without gaps."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Tokens of each slot."""
        self.keys: list[Tensor] = []
        """Of each layer: [R, K, C, E], with room for more rows and tokens."""
        self.values: list[Tensor] = []
        self._room = (0, 0)
        """Rows and tokens there is room for."""

    def join(self) -> int:
        """A slot for one more row."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def leave(self, slot: int) -> None:
        """Give up a slot; the last one moves there."""
        last = len(self.lengths) - 1
        for buffer in (*self.keys, *self.values):
            buffer[slot] = buffer[last]
            buffer[last] = 0  # what is padding must be finite
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def room_for(self, parts: Sequence[Part]) -> tuple[int, int]:
        """Rows and tokens that buffers with these at the end have room for."""
        rows, tokens = self._room
        need = max(part.held + part.count for part in parts)
        if len(self.lengths) > rows:
            rows = max(len(self.lengths), 2 * rows)
        if need > tokens:
            tokens = max(need, tokens * 3 // 2, ROOM)
        return rows, tokens

    def begin(self, parts: Sequence[Part]) -> None:
        """Make room for what each layer will append, and count it."""
        room = self.room_for(parts)
        if room != self._room:
            rows, tokens = room
            for buffers in (self.keys, self.values):
                for layer, old in enumerate(buffers):
                    buffers[layer] = old.new_zeros(rows, old.shape[1], tokens, old.shape[3])
                    buffers[layer][: old.shape[0], :, : old.shape[2]] = old
            self._room = room
        for part in parts:
            self.lengths[part.slot] += part.count

    def append(self, layer: int, k_KTE: Tensor, v_KTE: Tensor, packing: Packing) -> None:
        """Keep a layer's new keys and values."""
        while len(self.keys) <= layer:
            rows, tokens = self._room
            shape = (rows, k_KTE.shape[0], tokens, k_KTE.shape[2])
            self.keys.append(k_KTE.new_zeros(shape))
            self.values.append(k_KTE.new_zeros(shape))
        where = (packing.slot_T, slice(None), packing.place_T)
        self.keys[layer][where] = k_KTE.transpose(0, 1)
        self.values[layer][where] = v_KTE.transpose(0, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, room included."""
        return sum(buffer.nbytes for buffer in (*self.keys, *self.values))


@dataclass(frozen=True)
class Group:
    """Rows whose suffixes are attended together, padded to the longest."""

    slots_A: Tensor | slice
    """A slice where these are the first ones."""
    tokens_AL: Tensor
    """Packed place of each query; padding stands for the row's first again."""
    valid_AL: Tensor | None
    """Which queries are no padding; None is all."""
    mask_A1MC: Tensor
    """0 where a query may look, else -inf."""

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Part]], heads: int, device: torch.device) -> Group:
        """Of parts and the packed place where each begins; `heads`: G."""
        slots = [part.slot for _, part in parts]
        starts, held, counts = (
            torch.tensor(numbers, device=device)[:, None]
            for numbers in (
                [start for start, _ in parts],
                [part.held for _, part in parts],
                [part.count for _, part in parts],
            )
        )
        longest = max(part.count for _, part in parts)
        place_AL = torch.arange(longest, device=device).expand(len(parts), -1)
        valid_AL = place_AL < counts
        place_AL = place_AL * valid_AL
        room = max(part.held + part.count for _, part in parts)
        seen_ALC = torch.arange(room, device=device) <= (held + place_AL)[..., None]
        mask_ALC = torch.zeros(seen_ALC.shape, device=device).masked_fill(~seen_ALC, -torch.inf)
        first = slots == list(range(len(slots)))
        return cls(
            slice(0, len(slots)) if first else torch.tensor(slots, device=device),
            starts + place_AL,
            None if bool(valid_AL.all()) else valid_AL,
            mask_ALC.repeat(1, heads, 1)[:, None],
        )

    def attend(self, q_HTE: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [H, t, E] and log-sum-exps [H, t] of this group's tokens, in order."""
        room = self.mask_A1MC.shape[-1]
        k, v = (buffer[:, :, :room][self.slots_A] for buffer in (keys, values))
        q_AHLE = q_HTE[:, self.tokens_AL].transpose(0, 1)
        mask = self.mask_A1MC.to(q_HTE.dtype)
        out, lse = attend_part(fold(q_AHLE, k.shape[1]), k, v, mask)
        out, lse = out.reshape(q_AHLE.shape), lse.reshape(q_AHLE.shape[:3])
        out_HALE, lse_HAL = out.transpose(0, 1), lse.transpose(0, 1)
        if self.valid_AL is None:
            return out_HALE.flatten(1, 2), lse_HAL.flatten(1, 2)
        return out_HALE[:, self.valid_AL], lse_HAL[:, self.valid_AL]

    def tokens(self) -> Tensor:
        """Packed places of what `attend` gives."""
        return self.tokens_AL.flatten() if self.valid_AL is None else self.tokens_AL[self.valid_AL]


@dataclass(frozen=True)
class Packing:
    """How rows' tokens lie in one packed sequence, and which suffixes are attended together."""

    slot_T: Tensor
    place_T: Tensor
    """Place of each token in its suffix."""
    groups: tuple[Group, ...]
    order_T: Tensor | None
    """Brings the groups' tokens, one group after another, into packed order; None if they are."""

    @classmethod
    def of(cls, parts: Sequence[Part], heads: int, device: torch.device) -> Packing:
        """One part after another; `heads`: query heads for each key/value head."""
        starts = [0, *accumulate(part.count for part in parts)]
        alike: dict[tuple[int, int], list[tuple[int, Part]]] = {}
        for start, part in zip(starts, parts, strict=False):
            # words that are written in one group, questions in groups of about the same length
            size = (part.held + part.count).bit_length() if part.count > 1 else 0
            alike.setdefault((part.count.bit_length(), size), []).append((start, part))
        groups = tuple(Group.of(group, heads, device) for group in alike.values())
        order = torch.cat([group.tokens() for group in groups]).argsort()
        sorted_already = bool((order == torch.arange(len(order), device=device)).all())
        slots = [part.slot for part in parts for _ in range(part.count)]
        places = [part.held + n for part in parts for n in range(part.count)]
        slot_T, place_T = torch.tensor([slots, places], device=device)
        return cls(slot_T, place_T, groups, None if sorted_already else order)

    def attend(self, q_HTE: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's attention over its own suffix: [H, T, E] and log-sum-exps [H, T]."""
        found = [group.attend(q_HTE, keys, values) for group in self.groups]
        if self.order_T is None and len(found) == 1:
            return found[0]
        out, lse = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        if self.order_T is None:
            return out, lse
        return out[:, self.order_T], lse[:, self.order_T]


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
        if self.due is None or layer != self.due.last:
            out_HTE, lse_HT = behind(q_HTE, own, own_lse, keys, values)
        else:
            places, lse_HT = self.due.tokens_W, own_lse.clone()
            found, lse = behind(q_HTE[:, places], own[:, places], own_lse[:, places], keys, values)
            out_HTE = own.index_copy(1, places, found)
            lse_HT[:, places] = lse
        if self.watched is not None:
            places = self.watched.tokens_W
            self.watched.note(layer, looks(q_HTE[:, places], lse_HT[:, places], keys))
        return out_HTE[None]


def behind(
    q_HTE: Tensor, own_HTE: Tensor, own_HT: Tensor, k_1KNE: Tensor, v_1KNE: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over a past, merged with that over what follows it and its log-sum-exps."""
    old, old_lse = attend_part(fold(q_HTE[None], k_1KNE.shape[1]), k_1KNE, v_1KNE)
    old, old_lse = old.reshape(q_HTE.shape), old_lse.reshape(q_HTE.shape[:2])
    return merge(old, old_lse, own_HTE, own_HT)


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
