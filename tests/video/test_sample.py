"""Sampling rules; the published tables are in tests/parity (case-sampling-table)."""

import random

import numpy as np
import pytest

from longtake.errors import OptionError
from longtake.video.sample import (
    at_rate,
    depth_label,
    every_second,
    haystack_depths,
    needle_index,
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
