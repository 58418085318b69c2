"""Where summaries stand against counting token by token, and which ratio each window gets."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from longtake.choices import MIXES
from longtake.errors import OptionError
from longtake.parts.windows import (
    SEED,
    Chooser,
    Place,
    Plan,
    Ratios,
    planned,
)


@dataclass
class Counted:
    """One window, walked token by token."""

    rows: list[bool] = field(default_factory=list)
    """Whether each row is a summary."""
    ends: list[int] = field(default_factory=list)
    """The visual token just read when each summary came, counted in the window."""
    left: int = 0


def walk(sizes: list[int], ratio: int) -> list[Counted]:
    """Read visual tokens one after another, a summary after each `ratio` of them."""
    windows, waiting = [], 0
    for size in sizes:
        window = Counted()
        for token in range(size):
            window.rows.append(False)
            waiting += 1
            if waiting == ratio:
                window.rows.append(True)
                window.ends.append(token)
                waiting = 0
        window.left = waiting
        windows.append(window)
    return windows


def walk_appended(sizes: list[int], ratio: int) -> list[Counted]:
    """The same with each window's summaries behind its tokens; nothing is carried."""
    windows = []
    for size in sizes:
        ends = [token for token in range(size) if (token + 1) % ratio == 0]
        windows.append(Counted([False] * size + [True] * len(ends), ends))
    return windows


def found(plan: Plan) -> Counted:
    return Counted(plan.is_summary().tolist(), plan.last_token().tolist(), plan.left)


def plans(sizes: list[int], ratio: int, place: Place = "interleave") -> list[Plan]:
    return list(planned(iter(sizes), Ratios(choices=(ratio,)).chooser(), place))


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 7, 8, 16, 32, 200])
@pytest.mark.parametrize("raw", [1, 2, 6, 7, 8, 31, 32, 33, 144])
def test_one_window_is_counted_out(raw: int, ratio: int) -> None:
    plan = Plan(raw=raw, ratio=ratio)
    assert [found(plan)] == walk([raw], ratio)
    assert plan.summaries == raw // ratio
    appended = Plan(raw=raw, ratio=ratio, place="append")
    assert [found(appended)] == walk_appended([raw], ratio)
    assert appended.summaries == raw // ratio


@pytest.mark.parametrize("ratio", [2, 3, 7, 32])
def test_what_is_carried_comes_earlier(ratio: int) -> None:
    for carried in range(ratio):
        for raw in [*range(1, 2 * ratio + 2), 100]:
            plan = Plan(raw=raw, ratio=ratio, carried=carried)
            # reading `carried` tokens first leaves just so many waiting
            assert found(plan) == walk([carried, raw], ratio)[1]
            assert plan.summaries == sum(plan.is_summary().tolist()) == (raw + carried) // ratio
            appended = replace(plan, place="append")  # which carries nothing
            assert found(appended) == walk_appended([raw], ratio)[0]


@pytest.mark.parametrize("seed", range(40))
def test_windows_in_sequence_are_counted_out(seed: int) -> None:
    draw = random.Random(seed)
    ratio = draw.choice([2, 3, 5, 7, 8, 32])
    sizes = [draw.randint(1, 3 * ratio) for _ in range(12)]
    assert [found(plan) for plan in plans(sizes, ratio)] == walk(sizes, ratio)
    appended = plans(sizes, ratio, "append")
    assert [found(plan) for plan in appended] == walk_appended(sizes, ratio)
    # no token is counted twice or forgotten, however the windows are cut
    total = sum(plan.summaries for plan in plans(sizes, ratio))
    assert total == sum(sizes) // ratio


@pytest.mark.parametrize(
    ("sizes", "ratio", "summaries", "left"),
    [
        # 32 does not divide a frame of 144 tokens: full windows do, and an odd end loses 16
        ([1440, 1440, 144], 32, [45, 45, 4], [0, 0, 16]),
        # 1440 = 205 x 7 + 5; then 5 are carried, and 5 + 5 make one more
        ([1440, 1440, 288], 7, [205, 206, 41], [5, 3, 4]),
        # a window too short for a summary hands all it has on
        ([3, 3, 3], 8, [0, 0, 1], [3, 6, 1]),
    ],
)
def test_remainders_by_hand(
    sizes: list[int], ratio: int, summaries: list[int], left: list[int]
) -> None:
    in_turn = plans(sizes, ratio)
    assert [plan.summaries for plan in in_turn] == summaries
    assert [plan.left for plan in in_turn] == left
    assert [plan.raw for plan in in_turn] == sizes


def drawn(ratios: Ratios, sizes: list[int], expected: int = 0) -> list[int]:
    chooser = ratios.chooser(lambda: expected)
    return [chooser.ratio(size) for size in sizes]


def test_the_originals_first_draws() -> None:
    """Run with the original: 2, 8, 4, 4 for [2, 4, 8]."""
    assert drawn(Ratios(choices=(2, 4, 8)), [1440] * 4) == [2, 8, 4, 4]
    assert SEED == 42


def test_draws_are_those_of_one_generator_among_what_divides() -> None:
    ratios = Ratios(choices=(2, 4, 8, 12, 16), seed=7)
    rng, sizes = np.random.default_rng(7), [1440, 12, 8, 16, 20, 1440, 2, 48]
    fitting = [
        [2, 4, 8, 12, 16],
        [2, 4, 12],
        [2, 4, 8],
        [2, 4, 8, 16],
        [2, 4],
        [2, 4, 8, 12, 16],
        [2],
        [2, 4, 8, 12, 16],
    ]
    wanted = [int(rng.choice(choices)) for choices in fitting]
    assert drawn(ratios, sizes) == wanted
    assert all(type(ratio) is int for ratio in drawn(ratios, sizes))


def test_each_video_begins_anew() -> None:
    """The original's generator goes on from call to call, so its answers depend on history."""
    ratios = Ratios(choices=(2, 4, 8))
    assert drawn(ratios, [1440] * 20) == drawn(ratios, [1440] * 20)
    assert drawn(ratios, [1440] * 20) != drawn(replace(ratios, seed=43), [1440] * 20)
    assert set(drawn(ratios, [1440] * 20)) == {2, 4, 8}


def test_instance_random_draws_once() -> None:
    seen = set()
    for seed in range(20):
        ratios = Ratios(choices=(2, 4, 8), mix="instance-random", seed=seed)
        wanted = int(np.random.default_rng(seed).choice([2, 4, 8]))
        # the draw lasts, also for a window that it does not divide, as in the original
        assert drawn(ratios, [1440, 1440, 12, 8]) == [wanted] * 4
        seen.add(wanted)
    assert seen == {2, 4, 8}


def test_sequence_goes_round_in_the_order_given() -> None:
    assert drawn(Ratios(choices=(8, 2, 4), mix="sequence"), [1440] * 5) == [8, 2, 4, 8, 2]
    # among what fits the first window
    assert drawn(Ratios(choices=(8, 2, 4), mix="sequence"), [12, 12, 12]) == [2, 4, 2]


def test_listed_ratios_are_taken_as_they_stand() -> None:
    ratios = Ratios(choices=(2, 32, 7), mix="listed")
    assert drawn(ratios, [1440] * 5) == [2, 32, 7, 7, 7]
    # neither filtered nor drawn: whoever lists them knows
    assert drawn(ratios, [3, 3, 3]) == [2, 32, 7]
    assert drawn(Ratios(choices=(2, 2, 8), mix="listed"), [4] * 4) == [2, 2, 8, 8]


@pytest.mark.parametrize(
    ("expected", "ratio"),
    # windows of 40 in 120 positions: 80 r + 40 = 200, 360, 680 tokens fit; 10 more are to come
    [(0, 2), (190, 2), (191, 4), (350, 4), (351, 8), (670, 8), (671, 8), (10**6, 8)],
)
@pytest.mark.parametrize("choices", [(2, 4, 8), (8, 2, 4)])
def test_adapt_takes_the_smallest_that_fits(
    choices: tuple[int, ...], expected: int, ratio: int
) -> None:
    ratios = Ratios(choices=choices, mix="adapt-10", positions=120)
    assert drawn(ratios, [40, 40, 8], expected) == [ratio] * 3
    # 60 in 140 leaves the same room, but 8 does not divide it
    within = replace(ratios, positions=140)
    assert drawn(within, [60, 60], expected + 20) == [min(ratio, 4)] * 2


def test_adapt_counts_the_tokens_to_come() -> None:
    for future, ratio in ((0, 2), (1, 4), (160, 4), (161, 8)):
        ratios = Ratios(choices=(2, 4, 8), mix=f"adapt-{future}", positions=120)
        assert drawn(ratios, [40], 200) == [ratio]


@pytest.mark.parametrize("mix", ["step-random", "instance-random", "sequence", "adapt-0"])
def test_a_ratio_must_divide(mix: str) -> None:
    ratios = Ratios(choices=(4, 8), mix=mix)
    with pytest.raises(
        OptionError, match="none of the ratios 4, 8 divides a window of 6"
    ) as raised:
        drawn(ratios, [6])
    assert "\n" not in str(raised.value)
    with pytest.raises(OptionError, match="none of the ratios"):
        drawn(ratios, [2])  # a multiple of no ratio, and shorter than all
    assert drawn(ratios, [12]) == [4]


@pytest.mark.parametrize("mix", ["step-random", "sequence", "listed", "adapt-0"])
def test_a_single_ratio_is_never_questioned(mix: str) -> None:
    assert drawn(Ratios(choices=(7,), mix=mix), [1440, 3, 1]) == [7, 7, 7]


def test_a_single_ratio_costs_no_draw() -> None:
    chooser = Chooser(Ratios(choices=(8,)), 0)
    state = chooser._rng.bit_generator.state
    chooser.ratio(1440)
    assert chooser._rng.bit_generator.state == state


@pytest.mark.parametrize(
    "choices", [(), (0,), (-2,), (2, 0), (True,), (2.0,), (2, 4.5), ("8",), 8, [2, 4], "8", None]
)
def test_ratios_that_cannot_be(choices: object) -> None:
    with pytest.raises(OptionError, match="ratio must be whole numbers from 1") as raised:
        Ratios(choices=choices)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert repr(choices) in str(raised.value)


@pytest.mark.parametrize(
    "mix", ["", "random", "adapt", "adapt-", "adapt-x", "adapt--1", "adapt-<tokens>", "Sequence"]
)
def test_mixes_that_are_unknown(mix: str) -> None:
    with pytest.raises(OptionError, match="is unknown; choose step-random, ") as raised:
        Ratios(choices=(2, 4), mix=mix)
    assert "\n" not in str(raised.value)
    assert repr(mix) in str(raised.value)


def test_known_mixes() -> None:
    for mix in (*MIXES[:-1], "adapt-0", "adapt-1024"):
        assert Ratios(choices=(2, 4), mix=mix).mix == mix


@pytest.mark.parametrize(
    ("ratios", "window", "wrong"),
    [
        (Ratios(choices=(8,)), 1440, None),
        (Ratios(choices=(7,)), 1440, 7),
        (Ratios(choices=(32,)), 1440, None),
        (Ratios(choices=(2880,)), 1440, 2880),
        (Ratios(choices=(2, 4, 7)), 1440, None),  # 2 or 4 is drawn
        (Ratios(choices=(7, 11)), 1440, 7),
        (Ratios(choices=(2, 4, 7), mix="listed"), 1440, 7),
        (Ratios(choices=(2, 4, 8), mix="listed"), 1440, None),
    ],
)
def test_a_window_must_end_with_a_summary(ratios: Ratios, window: int, wrong: int | None) -> None:
    if wrong is None:
        ratios.check_window(window)
        return
    with pytest.raises(OptionError, match=f"ratio {wrong} does not divide") as raised:
        ratios.check_window(window)
    assert "\n" not in str(raised.value)


def test_the_smallest_ratio() -> None:
    assert Ratios(choices=(8, 2, 4)).smallest == 2
