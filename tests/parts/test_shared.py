"""Packed rows behind a shared past equal each row behind a past of its own.

R rows, S new tokens of a row, N past keys, H heads, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from longtake.parts import shared
from longtake.parts.attention import attend_masked, attend_part, attend_part_in_blocks, fold
from longtake.parts.shared import Due, SharedStep, Watched
from longtake.parts.suffixes import Packing, Part, Suffixes

HEADS, GROUPS, WIDTH, PAST = 6, 2, 8, 37


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Rows:
    """Rows with suffixes, packed and apart."""

    def __init__(self, rows: int) -> None:
        self.past = (random(1, GROUPS, PAST, WIDTH), random(1, GROUPS, PAST, WIDTH, seed=1))
        self.suffixes = Suffixes()
        self.own: list[tuple[Tensor, Tensor]] = []
        for _ in range(rows):
            self.join()
        self.seed = 10

    def join(self) -> None:
        self.suffixes.join()
        self.own.append(self.past)

    def leave(self, slot: int) -> None:
        self.suffixes.leave(slot)
        self.own[slot] = self.own[-1]
        self.own.pop()

    def step(self, counts: Sequence[int], *, only_last: bool = False) -> None:
        """Give each row so many tokens and compare; 0 sits this one out."""
        parts = [
            Part(n, self.suffixes.lengths[n], count) for n, count in enumerate(counts) if count
        ]
        total = sum(counts)
        self.seed += 1
        q = random(1, HEADS, total, WIDTH, seed=self.seed)
        k, v = random(2, 1, GROUPS, total, WIDTH, seed=self.seed + 100)
        seen: list[Tensor] = []
        last = torch.tensor([sum(counts[: n + 1]) - 1 for n, count in enumerate(counts) if count])
        step = SharedStep(
            positions_BS=torch.zeros(1, total),
            past=lambda layer: self.past,
            suffixes=self.suffixes,
            packing=Packing.of(parts, HEADS // GROUPS, torch.device("cpu")),
            due=Due(last, 0) if only_last else None,
            watched=Watched(last, lambda layer, weights: seen.append(weights)),
        )
        self.suffixes.begin(parts)
        out = step.attend(0, q, k, v)
        start = 0
        for number, part in enumerate(parts):
            mine = slice(start, start + part.count)
            start += part.count
            keys, values = self.own[part.slot]
            keys, values = (
                torch.cat([keys, k[:, :, mine]], 2),
                torch.cat([values, v[:, :, mine]], 2),
            )
            self.own[part.slot] = (keys, values)
            alone = attend_masked(q[:, :, mine], keys, values, None)
            due = slice(-1, None) if only_last else slice(None)
            torch.testing.assert_close(
                out[:, :, mine][:, :, due], alone[:, :, due], rtol=0, atol=2e-6
            )
            wide = keys.repeat_interleave(HEADS // GROUPS, 1)
            scores = q[:, :, start - 1 : start] @ wide.transpose(2, 3) * WIDTH**-0.5
            weights = scores.softmax(-1)[0, :, 0, :PAST].sum(0)
            torch.testing.assert_close(seen[0][number], weights, rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [0, 1 << 22])
@pytest.mark.parametrize("only_last", [False, True])
def test_questions_words_and_both_at_once(
    only_last: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "AT_ONCE", at_once)
    monkeypatch.setattr(shared, "OBSERVED_KEYS", 10)
    rows = Rows(4)
    for counts in ([5, 1, 17, 6], [1, 1, 1, 1], [0, 1, 0, 1], [1, 9, 1, 2], [1, 1, 1, 1]):
        rows.step(counts, only_last=only_last)


@torch.no_grad()
def test_rows_come_and_go_and_outgrow_their_room() -> None:
    rows = Rows(2)
    rows.step([3, 60])
    rows.join()
    rows.join()
    rows.step([1, 70, 4, 1])
    rows.leave(1)
    rows.step([1, 1, 2])
    rows.join()
    rows.step([1, 1, 1, 3])
    rows.leave(3)
    rows.leave(0)
    rows.step([1, 1])
    assert rows.suffixes.lengths == [int(keys.shape[2]) - PAST for keys, _ in rows.own]


@torch.no_grad()
def test_what_a_row_leaves_behind_cannot_spoil_others() -> None:
    """A row whose numbers were not finite leaves; its slot is padding of others now."""
    rows = Rows(3)
    rows.step([2, 2, 9])
    rows.suffixes.values[0][2] = torch.nan
    rows.leave(2)
    rows.join()
    rows.step([1, 1, 3])
    rows.step([1, 1, 1])


@pytest.mark.parametrize("block", [1, 7, 37, 4096])
@torch.no_grad()
def test_blocks_equal_the_kernel(block: int) -> None:
    q, k, v = (random(2, n, 37, WIDTH, seed=n) for n in (HEADS, GROUPS, GROUPS))
    q = fold(q[:, :, :5], GROUPS)
    mask = torch.zeros(2, 1, q.shape[2], 37)
    mask[..., 30:] = -torch.inf
    mask[:, :, 3, :9] = -torch.inf
    for given in (None, mask):
        ours = attend_part_in_blocks(q, k, v, given, block)
        for one, two in zip(ours, attend_part(q, k, v, given), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_call_may_have_nothing_due() -> None:
    """A part of a question: the last layer has only keys and values to keep."""
    rows = Rows(1)
    q, k, v = (random(1, heads, 3, WIDTH) for heads in (HEADS, GROUPS, GROUPS))
    part = Part(0, 0, 3)
    rows.suffixes.begin([part])
    step = SharedStep(
        positions_BS=torch.zeros(1, 3),
        past=lambda layer: rows.past,
        suffixes=rows.suffixes,
        packing=Packing.of([part], HEADS // GROUPS, torch.device("cpu")),
        due=Due(torch.tensor([], dtype=torch.int64), 0),
    )
    assert step.attend(0, q, k, v).shape == q.shape
    assert torch.equal(rows.suffixes.keys[0][:, :, :3], k)
