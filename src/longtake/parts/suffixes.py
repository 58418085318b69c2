"""Keys and values of several rows behind a past that they share: one short suffix for each row.

New tokens of all rows travel as one packed sequence without padding, whether a row reads a question
or writes a word; only where suffixes are attended are rows of similar length padded.

Letters: R rows, A rows of a group, T packed tokens, L most tokens of a row, C room of a suffix, H
query heads, K key/value heads, G = H/K, M folded queries, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from longtake.parts.attention import attend_part, fold

ROOM = 64
"""Tokens a suffix begins with; room then grows by half."""


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
