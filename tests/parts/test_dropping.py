"""When tokens are dropped and which: counts, rows, stages, and schedules that mean nothing.

N visual tokens, S sequence, K rows that stay, H heads, Q asking rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.errors import OptionError
from longtake.parts.dropping import Block, Schedule, even_rows, kept_rows, looks, ranked_rows

CARD = Schedule(layers=(4, 18), ratios=(1.0, 0.75, 0.25))


def schedule(kind: str, *layers: int, ratios: tuple[float, ...] = ()) -> Schedule:
    """Of any kind; by default each drop halves."""
    shares = ratios or tuple(0.5**n for n in range(len(layers) + 1))
    return Schedule(kind=kind, layers=layers, ratios=shares)  # type: ignore[arg-type]


# -- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "ratios", "counts"),
    [
        (192, (1, 0.4), (192, 76)),  # 76.8: truncated, not rounded
        (8192, (1, 0.75, 0.25), (8192, 6144, 2048)),
        (64, (1, 0.5, 0.25, 0.125), (64, 32, 16, 8)),
        (100, (1, 0.29), (100, 28)),  # 28.999... in doubles, as in the original
        (100, (1, 1, 1), (100, 100, 100)),
        (64, (1, 0.01, 0.001), (64, 1, 1)),  # the original would leave none
        (1, (1, 0.5), (1, 1)),
        (0, (1, 0.5), (0, 0)),
    ],
)
def test_counts(tokens: int, ratios: tuple[float, ...], counts: tuple[int, ...]) -> None:
    layers = tuple(range(1, len(ratios)))
    assert schedule("uniform", *layers, ratios=ratios).counts(tokens) == counts


def test_counts_never_rise() -> None:
    for tokens in range(300):
        counts = schedule("attention", 1, 2, 3, ratios=(1, 0.7, 0.33, 0.01)).counts(tokens)
        assert counts[0] == tokens
        assert list(counts) == sorted(counts, reverse=True)


def test_stages_are_runs_of_layers() -> None:
    assert CARD.stages(28) == [range(4), range(4, 18), range(18, 28)]
    assert schedule("uniform", 7).stages(8) == [range(7), range(7, 8)]
    assert [n for part in schedule("uniform", 1, 2, 5).stages(9) for n in part] == list(range(9))


def test_rows_of_each_layer() -> None:
    assert CARD.rows(28, [8192], 100) == [8292] * 4 + [6244] * 14 + [2148] * 10
    # each visual is truncated by itself
    two = schedule("uniform", 2, ratios=(1, 0.4))
    assert two.rows(4, [192, 64], 10) == [266, 266, 111, 111]
    assert two.rows(4, [], 10) == [10] * 4
    full = schedule("attention", 8, 16, 24, ratios=(1, 0.5, 0.25, 0.125))
    # shares of a full cache (specification, section 4.3)
    for dropping, share in ((CARD, 0.607), (full, 0.518)):
        assert sum(dropping.rows(28, [8192], 0)) / 28 / 8192 == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize(
    ("kind", "even"),
    [
        ("uniform", [True, True, True]),
        ("attention", [False, False, False]),
        ("uniform0_attention", [True, False, False]),
        ("uniform1_attention", [True, True, False]),
    ],
)
def test_kinds(kind: str, even: list[bool]) -> None:
    three = schedule(kind, 1, 2, 3)
    assert [three.is_even(drop) for drop in range(3)] == even
    assert three.shared == sum(even)
    assert three.depends == (sum(even) < 3)
    one = schedule(kind, 1)
    assert one.shared == int(even[0])
    assert one.depends == (not even[0])


# -- which rows -----------------------------------------------------------------------------------


def test_even_rows_are_the_truncated_linspace() -> None:
    """In doubles: whole-number division differs, as at 59 and 29."""
    assert even_rows(192, 4).tolist() == [0, 63, 127, 191]
    assert even_rows(7, 7).tolist() == list(range(7))
    assert even_rows(7, 1).tolist() == [0]
    differ = 0
    for left in range(1, 400):
        for stay in {1, left, left // 2, left // 3, int(left * 0.9)} - {0}:
            rows = even_rows(left, stay)
            doubles = torch.linspace(0, left - 1, stay, dtype=torch.float64).long()
            assert rows.dtype == torch.int64
            assert torch.equal(rows, doubles)
            assert rows[0] == 0
            assert stay == 1 or rows[-1] == left - 1
            assert len(rows.unique()) == stay
            whole = [i * (left - 1) // max(1, stay - 1) for i in range(stay)]
            differ += rows.tolist() != whole
    assert differ


def test_ranked_rows_keep_their_order() -> None:
    assert ranked_rows(torch.tensor([0.1, 0.5, 0.2, 0.4]), 2).tolist() == [1, 3]
    assert ranked_rows(torch.tensor([9.0, 1.0, 8.0, 7.0]), 3).tolist() == [0, 2, 3]
    assert ranked_rows(torch.tensor([3.0]), 1).tolist() == [0]


def test_looks_are_means_over_heads_and_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    scores_HQN = torch.randn(3, 2, 7, generator=generator)
    plain = np.exp(scores_HQN.double().numpy())
    plain = (plain / plain.sum(-1, keepdims=True)).mean((0, 1))
    np.testing.assert_allclose(looks(scores_HQN).numpy(), plain, rtol=1e-5)
    assert looks(scores_HQN.bfloat16()).dtype == torch.float32


def test_the_mean_over_heads_hangs_on_all_keys() -> None:
    """One head sees text and cares little for visuals: ranking over visuals alone turns about."""
    scores_HQN = torch.tensor([[[9.0, 2.0, 1.0]], [[0.0, 1.0, 2.0]]])  # the text comes first
    assert ranked_rows(looks(scores_HQN)[1:], 1).tolist() == [1]
    head_HQN = scores_HQN * torch.tensor([1.5, 1.0])[:, None, None]
    assert ranked_rows(looks(head_HQN)[1:], 1).tolist() == [1]
    assert ranked_rows(looks(head_HQN[..., 1:]), 1).tolist() == [0]
    # within one head a softmax over fewer keys changes no order
    for head in head_HQN:
        both = [ranked_rows(looks(part), 1) for part in (head[None][..., 1:], head[None])]
        assert both[0].tolist() == ranked_rows(looks(head[None])[1:], 1).tolist()


def test_kept_rows_touch_visuals_alone() -> None:
    halves = schedule("uniform", 1)
    blocks = (Block(2, 4, 4), Block(8, 6, 6))
    stay_K, after = kept_rows(halves, 0, blocks, 16, None)
    assert stay_K.tolist() == [0, 1, 2, 5, 6, 7, 8, 10, 13, 14, 15]
    assert after == (Block(2, 2, 4), Block(6, 3, 6))


def test_shares_count_from_what_there_was() -> None:
    """Not from what an earlier drop left: 10 * 0.55 is 5, 10 * 0.25 is 2, half of 5 would be too,
    but 0.45 of 5 is 2.25 and of 10 is 4."""
    twice = schedule("uniform", 1, 2, ratios=(1, 0.55, 0.45))
    _, after = kept_rows(twice, 0, (Block(3, 10, 10),), 14, None)
    assert after == (Block(3, 5, 10),)
    stay_K, after = kept_rows(twice, 1, after, 9, None)
    assert after == (Block(3, 4, 10),)
    assert stay_K.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]


def looked_at(length: int, *best: int) -> Tensor:
    """Looks that prefer some rows."""
    looks_S = torch.linspace(1e-3, 0, length)
    looks_S[list(best)] = 1.0
    return looks_S


def test_each_visual_is_ranked_by_itself() -> None:
    """Text is never dropped, nor is a visual for another's sake."""
    halves = schedule("attention", 1)
    blocks = (Block(1, 4, 4), Block(6, 4, 4))
    stay_K, after = kept_rows(halves, 0, blocks, 11, looked_at(11, 6, 7, 10))
    assert stay_K.tolist() == [0, 1, 2, 5, 6, 7, 10]
    assert after == (Block(1, 2, 4), Block(4, 2, 4))
    stay_K, _ = kept_rows(halves, 0, blocks[:1], 11, looked_at(11, 2, 4, 9))
    assert stay_K.tolist() == [0, 2, 4, 5, 6, 7, 8, 9, 10]


def test_without_visuals_all_rows_stay() -> None:
    stay_K, after = kept_rows(schedule("uniform", 1), 0, (), 5, None)
    assert stay_K.tolist() == [0, 1, 2, 3, 4]
    assert after == ()


# -- schedules that mean nothing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"kind": "median"}, "kind 'median' is unknown; choose uniform, attention, uniform0"),
        ({"kind": None}, "kind None is unknown"),
        ({"layers": (18, 4)}, r"whole numbers from 1 that rise, got \[18, 4\]"),
        ({"layers": (4, 4)}, r"whole numbers from 1 that rise, got \[4, 4\]"),
        ({"layers": (0, 4)}, r"whole numbers from 1 that rise, got \[0, 4\]"),
        ({"layers": (-1, 4)}, "whole numbers from 1 that rise"),
        ({"layers": (4, 18.0)}, "whole numbers from 1 that rise"),
        ({"layers": (True, 18)}, "whole numbers from 1 that rise"),
        ({"layers": ()}, "whole numbers from 1 that rise"),
        ({"ratios": (1, 0.5)}, "needs 3 ratios for 2 layers"),
        ({"ratios": (1, 0.5, 0.2, 0.1)}, "needs 3 ratios for 2 layers"),
        ({"ratios": ()}, "needs 3 ratios for 2 layers"),
        ({"ratios": (1, 0.25, 0.75)}, "must start at 1, never rise"),
        ({"ratios": (0.9, 0.75, 0.25)}, "must start at 1"),
        ({"ratios": (1, 1.5, 0.25)}, "never rise"),
        ({"ratios": (1, 0.5, 0)}, "stay above 0"),
        ({"ratios": (1, 0.5, -0.5)}, "stay above 0"),
        ({"ratios": (1, 0.5, math.nan)}, "stay above 0"),
        ({"ratios": (1, math.nan, 0.5)}, "stay above 0"),
        ({"ratios": (math.nan, 0.5, 0.5)}, "must start at 1"),
        ({"ratios": (math.inf, 0.5, 0.5)}, "must start at 1"),
    ],
)
def test_schedules_that_mean_nothing(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match) as raised:
        Schedule(**{"layers": (4, 18), "ratios": (1.0, 0.75, 0.25)} | fields)
    assert "\n" not in str(raised.value)


def test_layers_are_left_after_the_last_drop() -> None:
    CARD.check_depth(19)
    for layers in (18, 4, 1):
        with pytest.raises(OptionError, match=f"after layer 18 leaves none of .* {layers} layers"):
            CARD.check_depth(layers)
