"""Sampling rules; the published tables are in tests/parity (case-sampling-table)."""

import math
import random

import numpy as np
import pytest

from longtake.errors import OptionError
from longtake.video.sample import (
    Footage,
    PerSecond,
    at_rate,
    depth_label,
    evenly,
    every_second,
    haystack_depths,
    needle_index,
    part_of,
    uniform,
)


@pytest.mark.parametrize(
    ("total", "num", "indices"),
    [
        (100, 8, [0, 14, 28, 42, 56, 70, 84, 99]),
        (7, 7, [0, 1, 2, 3, 4, 5, 6]),
        (3, 7, [0, 0, 0, 1, 1, 1, 2]),
        (1, 4, [0, 0, 0, 0]),
        (1, 1, [0]),
        (999, 1, [0]),
        (33, 2, [0, 32]),
    ],
)
def test_uniform_indices(total: int, num: int, indices: list[int]) -> None:
    assert uniform(total, num) == indices


def test_uniform_is_the_truncated_linspace() -> None:
    draw = random.Random(0)
    for _ in range(3000):
        total, num = draw.randint(1, 10 ** draw.randint(1, 10)), draw.randint(1, 700)
        assert uniform(total, num) == np.linspace(0, total - 1, num, dtype=np.int64).tolist()


def test_uniform_ends_on_the_last_frame_of_long_videos() -> None:
    # (total - 1) * ((num - 1) / (num - 1)) in floats; the computed value falls short for some
    short = [
        (total, num)
        for total in (86_399, 107_892, 2_592_001)
        for num in range(2, 2000)
        if int((num - 1) * ((total - 1) / (num - 1))) != total - 1
    ]
    assert short, "no pair left that needs the last index to be set"
    assert all(uniform(total, num)[-1] == total - 1 for total, num in short)


@pytest.mark.parametrize(
    ("total", "fps", "indices"),
    [
        (100, 24.97, [0, 25, 50, 75]),
        (30, 12.5, [0, 12, 24]),  # half goes to even: 12, not 13
        (30, 13.5, [0, 14, 28]),
        (4, 0.6, [0, 1, 2, 3]),
        (4, 0.2, [0, 1, 2, 3]),  # rounds to a step of 0, where the original fails
        (1, 60.0, [0]),
    ],
)
def test_every_second_steps_by_the_rounded_rate(total: int, fps: float, indices: list[int]) -> None:
    assert every_second(total, fps) == indices


@pytest.mark.parametrize(
    ("at_most", "indices"),
    [(0, [0, 15, 30, 45]), (4, [0, 15, 30, 45]), (3, [0, 29, 59]), (1, [0])],
)
def test_at_rate_spreads_uniformly_when_bounded(at_most: int, indices: list[int]) -> None:
    assert at_rate(60, 30.0, per_second=2.0, at_most=at_most) == indices


def test_depths_and_labels_are_those_of_numpy() -> None:
    for parts in range(1, 400):
        interval = 1 / parts
        depths = np.arange(0, 1 + interval, interval)
        assert haystack_depths(interval) == depths.tolist()
        labels = [float(round(depth * 100, -1)) for depth in depths]
        assert [depth_label(depth) for depth in haystack_depths(interval)] == labels


def test_depths_keep_their_float_artefacts() -> None:
    assert haystack_depths(0.2)[3] == 0.6000000000000001
    assert haystack_depths(0.3)[-1] == 1.2
    assert needle_index(haystack_depths(0.3)[3], 200) == 179
    assert needle_index(1.2, 200) == 240
    assert [depth_label(depth) for depth in (0.25, 0.75, 1.2)] == [20.0, 80.0, 120.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: uniform(0, 4),
        lambda: uniform(4, 0),
        lambda: every_second(0, 25.0),
        lambda: every_second(10, 0.0),
        lambda: every_second(10, float("nan")),
        lambda: every_second(10, float("inf")),
        lambda: at_rate(10, 25.0, per_second=-1.0),
        lambda: at_rate(10, 25.0, per_second=1.0, at_most=-1),
        lambda: haystack_depths(0.0),
        lambda: haystack_depths(1.5),
        lambda: haystack_depths(float("nan")),
        lambda: needle_index(-0.1, 10),
        lambda: needle_index(float("nan"), 10),
        lambda: needle_index(0.5, 0),
    ],
)
def test_values_that_mean_nothing_are_option_errors(call) -> None:
    with pytest.raises(OptionError, match="must be"):
        call()


# -- VideoChat-Flash ------------------------------------------------------------------------------


def sampled(frames: int, fps: float, num: int, **rule: int) -> list[int]:
    """What its rule takes of a whole video."""
    return PerSecond(**rule)(Footage(frames=frames, fps=fps), num)


@pytest.mark.parametrize(
    ("frames", "fps", "num", "count"),
    [
        (9000, 30.0, 512, 296),  # 300 s, in groups of 8
        (27_000, 30.0, 512, 512),
        (1200, 30.0, 512, 64),  # 40 s, but the least is 64
        (90, 1.0, 512, 88),
        (64, 30.0, 512, 64),
        (63, 30.0, 512, 56),  # fewer than the least: whole groups of what there is
        (10, 1.0, 512, 8),
        (8, 1.0, 512, 8),
        (5, 1.0, 512, 8),  # fewer than a group: filled up
        (1, 0.0, 512, 8),
        (9000, 30.0, 510, 296),
        (27_000, 30.0, 510, 510),  # no multiple of 8 nor of 4, as wanted
        (27_000, 30.0, 66, 66),
        (9000, 30.0, 65, 65),
        (9000, 30.0, 16, 16),  # below 64: the original takes 64
        (9000, 30.0, 10, 10),
        (9000, 30.0, 1, 1),
        (5, 1.0, 3, 3),
        (5, 1.0, 5, 5),
        (5, 1.0, 6, 6),
        (5, 1.0, 1, 1),
        (12, 1.0, 11, 11),
        (12, 1.0, 16, 8),
    ],
)
def test_frames_a_second_in_groups(frames: int, fps: float, num: int, count: int) -> None:
    chosen = sampled(frames, fps, num)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] < frames


def test_each_frame_is_from_the_middle_of_its_share() -> None:
    assert sampled(100, 1.0, 10) == [4, 14, 24, 34, 44, 54, 64, 74, 84, 94]
    assert sampled(16, 1.0, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sampled(5, 1.0, 512) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert sampled(9000, 30.0, 1) == [4499]
    assert sampled(10, 0.0, 4) == [0, 3, 5, 8]


def test_shares_are_those_of_numpy() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        frames, num = draw.randint(1, 10 ** draw.randint(1, 6)), draw.randint(1, 700)
        chosen = sampled(frames, draw.choice([0.0, 1.0, 23.976, 30.0, 60.0]), num)
        taken = min(len(chosen), frames)
        bounds = np.linspace(start=0, stop=frames, num=taken + 1).astype(int)
        middle = ((bounds[:-1] + bounds[1:] - 1) // 2).tolist()
        assert chosen == middle + middle[-1:] * (len(chosen) - taken)
        assert len(chosen) <= max(num, 8)


def test_training_takes_smaller_groups() -> None:
    assert len(sampled(90, 1.0, 512, group=4, least=1)) == 88
    assert len(sampled(23, 1.0, 512, group=4, least=1)) == 20
    assert len(sampled(3, 1.0, 512, group=4, least=1)) == 4
    assert len(sampled(90, 1.0, 512, group=4, least=64)) == 88


@pytest.mark.parametrize(("frames", "num"), [(0, 8), (8, 0), (-1, 8), (8, -8)])
def test_nothing_to_take_is_an_option_error(frames: int, num: int) -> None:
    with pytest.raises(OptionError, match="must be at least 1"):
        sampled(frames, 1.0, num)


WHOLE = Footage(frames=300, fps=30.0)
"""Ten seconds."""


@pytest.mark.parametrize(
    ("start", "end", "first", "frames", "seconds"),
    [
        (2.0, 6.0, 60, 120, 4.0),
        (None, 6.0, 0, 180, 6.0),
        (2.0, None, 60, 237, 7.9),  # the end is a tenth of a second before the video's
        (0.0, 10.0, 0, 297, 9.9),
        (0.0, 99.0, 0, 297, 9.9),
        (-3.0, 1.0, 0, 30, 1.0),
        (1.05, 1.99, 31, 28, 0.94),  # both truncated, the first frame lies before the start
        (9.8, None, 294, 2, 0.1),  # 2.99... frames in doubles, as in the original
    ],
)
def test_a_part_of_a_video(
    start: float | None, end: float | None, first: int, frames: int, seconds: float
) -> None:
    part = part_of(WHOLE, start, end)
    assert (part.first, part.frames, part.fps) == (first, frames, 30.0)
    assert part.seconds == pytest.approx(seconds)
    assert part.reckoned_seconds == frames / 30
    for rule in (evenly, PerSecond()):
        chosen = rule(part, 40)
        assert chosen == sorted(chosen)
        assert chosen[0] >= first
        assert chosen[-1] < first + frames <= WHOLE.frames


def test_no_part_is_the_whole() -> None:
    assert part_of(WHOLE, None, None) is WHOLE
    assert WHOLE.seconds == WHOLE.reckoned_seconds == 10.0


@pytest.mark.parametrize(
    ("start", "end", "match"),
    [
        (10.0, None, "no frame lies between 10 s and 9.9 s of a video of 10.00 s; choose another"),
        (99.0, 120.0, "no frame lies between 99 s and 9.9 s"),
        (6.0, 2.0, "no frame lies between 6 s and 2 s"),
        (4.0, 4.0, "no frame lies between 4 s and 4 s"),
        (4.0, 4.01, "no frame lies between"),
        (-5.0, -1.0, "no frame lies between 0 s and -1 s"),
        (math.nan, None, "start must be a time in seconds, got nan"),
        (None, math.nan, "end must be a time in seconds, got nan"),
        (None, math.inf, "end must be a time in seconds, got inf"),
        (-math.inf, 3.0, "start must be a time in seconds, got -inf"),
    ],
)
def test_a_part_without_frames(start: float | None, end: float | None, match: str) -> None:
    with pytest.raises(OptionError, match=match) as raised:
        part_of(WHOLE, start, end)
    assert "\n" not in str(raised.value)


def test_nothing_that_moves_has_no_parts() -> None:
    still = Footage(frames=1, fps=0.0)
    assert still.seconds == 0.0
    assert part_of(still, None, None) is still
    with pytest.raises(OptionError, match="no frame lies between"):
        part_of(still, 0.0, 1.0)


def test_evenly_counts_from_the_first_frame_of_the_part() -> None:
    assert evenly(Footage(frames=100, fps=30.0, first=40), 3) == [40, 89, 139]
    assert evenly(Footage(frames=100, fps=30.0), 8) == uniform(100, 8)
    assert evenly(Footage(frames=1, fps=0.0, first=7), 3) == [7, 7, 7]
