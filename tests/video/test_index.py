"""The table of frames from hand-made packets; letters as in the module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from longtake.video.index import NO_TIME, Packets, build_index


def packets(
    pts: Sequence[int], keys: Sequence[int], dts: Sequence[int] | None = None, **facts: object
) -> Packets:
    """Packets in decode order with ticks of a tenth of a second."""
    key_P = np.zeros(len(pts), np.bool_)
    key_P[list(keys)] = True
    made = Packets(
        pts_P=np.array(pts, np.int64),
        dts_P=np.arange(len(pts), dtype=np.int64) if dts is None else np.array(dts, np.int64),
        position_P=1000 + 10 * np.arange(len(pts), dtype=np.int64),
        duration_P=np.zeros(len(pts), np.int64),
        key_P=key_P,
        shown_P=np.ones(len(pts), np.bool_),
        time_base=Fraction(1, 10),
        rate=Fraction(10),
        mark="pts",
        stated_seconds=0.0,
        still=False,
        torn=False,
    )
    return replace(made, **facts)


OPEN_GOP = packets([0, 3, 1, 2, 6, 4, 5, 9, 7, 8], keys=[0, 4])
"""I P b b  I b b  P b b: frames 4 and 5 are stored after the key picture 6 they precede."""


def test_frames_are_in_display_order() -> None:
    index = build_index(OPEN_GOP)
    assert index.packet_T.tolist() == [0, 2, 3, 1, 5, 6, 4, 8, 9, 7]
    assert index.frame_P[index.packet_T].tolist() == list(range(10))
    assert index.seconds_T.tolist() == [n / 10 for n in range(10)]
    assert (index.duration, index.fps, index.variable_rate) == (1.0, 10.0, False)


def test_leading_pictures_of_an_open_gop_start_a_gop_earlier() -> None:
    index = build_index(OPEN_GOP)
    starts = index.key_K[index.start_of(np.arange(10))]
    assert starts.tolist() == [0, 0, 0, 0, 0, 0, 4, 4, 4, 4]


def test_a_frame_stored_before_a_key_picture_does_not_start_there() -> None:
    # The key picture (packet 2) is shown before a frame that is stored ahead of it.
    index = build_index(packets([0, 2, 1, 3], keys=[0, 2]))
    assert index.key_K[index.start_of(np.arange(4))].tolist() == [0, 0, 0, 2]


def test_decoding_may_start_at_the_beginning_without_any_key() -> None:
    index = build_index(packets([0, 1, 2], keys=[]))
    assert (index.key_K.tolist(), index.start_of(np.arange(3)).tolist()) == ([0], [0, 0, 0])
    index = build_index(packets([0, 1, 2], keys=[1]))
    assert index.key_K[index.start_of(np.arange(3))].tolist() == [0, 1, 1]


@pytest.mark.parametrize("second", [5, 0, 500, 2**33])
def test_clocks_that_jump_are_joined(second: int) -> None:
    """Two pieces of three frames with the second's clock anywhere; frames 1 and 2 are swapped."""
    dts = [0, 1, 2, second, second + 1, second + 2]
    pts = [1, 3, 2, second + 1, second + 3, second + 2]
    index = build_index(packets(pts, keys=[0, 3], dts=dts, mark="byte"))
    assert index.packet_T.tolist() == [0, 2, 1, 3, 5, 4]
    gap = 3 if second == 5 else 1  # 0.3 s is a pause, not a new clock
    assert np.diff(index.pts_T).tolist() == [1, 1, gap, 1, 1]
    assert index.mark_P.tolist() == [1000, 1010, 1020, 1030, 1040, 1050]


def test_other_containers_may_pause_for_as_long_as_they_like() -> None:
    index = build_index(packets([0, 1, 5000, 5001], keys=[0], dts=[0, 1, 5000, 5001]))
    assert index.seconds_T.tolist() == [0.0, 0.1, 500.0, 500.1]
    assert index.variable_rate


def test_packets_that_are_hidden_or_without_time_are_no_frames() -> None:
    made = packets([NO_TIME, 0, 1, NO_TIME, 2], keys=[1])
    made.shown_P[2] = False
    index = build_index(made)
    assert index.frame_P.tolist() == [-1, 0, -1, -1, 1]


def test_without_times_frames_are_counted() -> None:
    index = build_index(
        packets([NO_TIME] * 4, keys=[0, 2], mark="count", rate=Fraction(30000, 1001))
    )
    assert index.seconds_T.tolist() == [n * 1001 / 30000 for n in range(4)]
    assert index.start_of(np.arange(4)).tolist() == [0, 0, 0, 0]


def test_the_last_frame_lasts_as_stored_or_as_usual() -> None:
    made = packets([0, 2, 4, 6], keys=[0])
    assert build_index(made).duration == 0.8
    made.duration_P[3] = 5
    assert build_index(made).duration == 1.1
    assert build_index(replace(made, still=True)).duration == 0.6


def test_variable_rate_means_wrong_by_half_a_frame() -> None:
    even = np.arange(20) * 10
    assert not build_index(packets(even + np.arange(20) % 2 * 4, keys=[0])).variable_rate
    late = even.copy()
    late[10:] += 12  # a frame is missing in the middle
    assert build_index(packets(late, keys=[0])).variable_rate
