"""Where a video is cut and what each stretch gets, against the rule written out slowly.

The rule is that of the authors' sibling code (specification of Video-XL, section 3). T frames, D
width.
"""

import math
import random
import statistics
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import OptionError
from longtake.parts.intervals import (
    Intervals,
    cut,
    depths,
    information,
    join_short,
    pieces_of,
    ratios_for,
    similarities,
)


def curve(seed: int, frames: int) -> Tensor:
    """Similarities of a made-up video: calm, with a few dips of any depth, also at its ends."""
    generator = torch.Generator().manual_seed(seed)
    similarity = 1 - 0.05 * torch.rand(frames - 1, generator=generator)
    dips = torch.rand(frames - 1, generator=generator) < 0.15
    return torch.where(dips, 2 * torch.rand(frames - 1, generator=generator) - 1, similarity)


def slow_depths(similarity: Sequence[float]) -> list[float]:
    last = len(similarity) - 1
    found = []
    for i, here in enumerate(similarity):
        left = max(similarity[: i + 1]) if i != 0 else 0.0
        right = max(similarity[i:]) if i != last else 0.0
        found.append((left + right - 2 * here) / 2)
    return found


def slow_cut(similarity: Sequence[float], threshold: float = 1.0, longest: int = 15) -> list[int]:
    frames = len(similarity) + 1
    if frames < 3:
        return []
    depth = slow_depths(similarity)
    bar = statistics.fmean(depth) + threshold * statistics.stdev(depth)
    splits = [i for i, deep in enumerate(depth) if deep > bar]
    if not splits:
        return []
    starts = [0, *splits]
    found = []
    for start, stop in zip(starts, [*splits, frames], strict=True):
        left = stop - start
        while left > 0:
            found.append(min(left, longest))
            left -= longest
    return found


def slow_join(sizes: Sequence[int], similarity: Sequence[float], how: Intervals) -> list[int]:
    """Join the first that is too short and has a neighbour with room, until there is none."""
    frames = iter(range(sum(sizes)))
    groups = [[next(frames) for _ in range(size)] for size in sizes]
    while True:
        for n, group in enumerate(groups):
            beside = []
            for other, alike in ((n - 1, group[0] - 1), (n + 1, group[-1])):
                if 0 <= other < len(groups) and len(groups[other]) + len(group) <= how.longest:
                    beside.append((similarity[alike], other))
            if len(group) < how.shortest and beside:
                other = max(beside)[1]
                first, second = sorted((n, other))
                groups[first : second + 1] = [groups[first] + groups[second]]
                break
        else:
            return [len(group) for group in groups]


def test_similarities_are_cosines_of_neighbours() -> None:
    class_TD = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    wanted = [float(F.cosine_similarity(class_TD[n], class_TD[n + 1], dim=0)) for n in range(6)]
    torch.testing.assert_close(similarities(class_TD), torch.tensor(wanted))
    scaled = similarities(class_TD * torch.arange(1, 8)[:, None])
    torch.testing.assert_close(scaled, torch.tensor(wanted))
    half = similarities(class_TD.bfloat16())
    assert half.dtype == torch.float32
    # bfloat16 rounds the class tokens to 8 bits, not the cosines
    torch.testing.assert_close(half, torch.tensor(wanted), rtol=0, atol=1e-2)


@pytest.mark.parametrize("seed", range(10))
def test_depths_are_those_of_the_loop(seed: int) -> None:
    for frames in (2, 3, 4, 10, 60):
        similarity = curve(seed, frames)
        before = similarity.clone()
        wanted = torch.tensor(slow_depths(similarity.tolist()))
        torch.testing.assert_close(depths(similarity), wanted, rtol=0, atol=1e-6)
        assert torch.equal(similarity, before)  # read, not written


def test_depths_by_hand() -> None:
    # at the ends one side counts 0, and a similarity is part of its own sides
    similarity = torch.tensor([0.9, 0.2, 0.8, 0.7])
    wanted = torch.tensor([(0 + 0.9) / 2 - 0.9, (0.9 + 0.8) / 2 - 0.2, 0.05, (0.9 + 0) / 2 - 0.7])
    torch.testing.assert_close(depths(similarity), wanted)


@pytest.mark.parametrize("seed", range(50))
def test_cut_is_the_rule(seed: int) -> None:
    draw = random.Random(seed)
    similarity = curve(seed, draw.randint(2, 120))
    how = Intervals(threshold=draw.choice([0.5, 1.0, 1.0, 2.0]), longest=draw.choice([15, 15, 4]))
    sizes = cut(similarity, how)
    assert sizes == slow_cut(similarity.tolist(), how.threshold, how.longest)
    assert not sizes or sum(sizes) == len(similarity) + 1
    assert all(1 <= size <= how.longest for size in sizes)


def test_the_random_curves_are_of_all_kinds() -> None:
    """Some are split, some not; some at the first frame, some into pieces of 15."""
    found = [cut(curve(seed, 20 + seed), Intervals()) for seed in range(50)]
    assert [] in found
    assert any(15 in sizes for sizes in found)
    at_once = [curve(seed, 20 + seed) for seed in range(50)]
    deep = [depths(s)[0] > depths(s).mean() + depths(s).std() for s in at_once]
    assert any(deep) and not all(deep)


@pytest.mark.parametrize(
    ("similarity", "frames"),
    [
        ([0.5], []),  # two frames: no spread to measure by
        ([], []),  # one frame
        ([0.9] * 9, []),  # a calm video
        # the boundary lies before frame 5 though frames 5 and 6 differ
        ([0.9] * 5 + [0.1] + [0.9] * 4, [5, 6]),
        ([0.9] * 5 + [0.1] + [0.9] * 3 + [0.2] + [0.9] * 6, [5, 4, 8]),
        # depths 0.8 and 0.3: the deviation is that of a sample, 0.309; 0.299 would split twice
        ([0.9] * 4 + [0.1] + [0.9] * 4 + [0.6] + [0.9] * 4, [4, 11]),
        # a dip at once: the interval before it has no frame
        ([-0.9] + [0.9] * 8, [10]),
        ([-0.9] + [0.9] * 20, [15, 7]),
        # 35 frames, and 5 from frame 35
        ([0.9] * 35 + [0.1] + [0.9] * 3, [15, 15, 5, 5]),
        # 30 frames leave no empty piece
        ([0.9] * 30 + [0.1] + [0.9] * 3, [15, 15, 5]),
        # of two depths none is a whole deviation from their mean; of three one may be
        ([-0.9, 0.9], []),
        ([-0.9, 0.9, 0.9], [4]),
    ],
)
def test_cut_by_hand(similarity: list[float], frames: list[int]) -> None:
    assert cut(torch.tensor(similarity), Intervals()) == frames
    assert slow_cut(similarity) == frames


def test_a_higher_threshold_splits_less() -> None:
    similarity = torch.tensor([0.9] * 5 + [0.1] + [0.9] * 5 + [0.55] + [0.9] * 8)
    assert cut(similarity, Intervals(threshold=0.5)) == [5, 6, 10]
    assert cut(similarity, Intervals(threshold=1.5)) == [5, 15, 1]
    assert cut(similarity, Intervals(threshold=50.0)) == []


@pytest.mark.parametrize(
    ("size", "pieces"),
    [(0, []), (1, [1]), (14, [14]), (15, [15]), (16, [15, 1]), (31, [15, 15, 1])],
)
def test_pieces(size: int, pieces: list[int]) -> None:
    assert pieces_of(size, 15) == pieces


@pytest.mark.parametrize(
    ("sizes", "at_edges", "joined"),
    [
        ([4, 4, 4], [0.5, 0.5], [4, 4, 4]),
        # frame 4 is like what precedes it, then like what follows
        ([4, 1, 4], [0.9, 0.1], [5, 4]),
        ([4, 1, 4], [0.1, 0.9], [4, 5]),
        ([4, 1, 2, 3], [0.1, 0.9, 0.5], [4, 3, 3]),
        # at the ends there is one neighbour
        ([1, 4], [0.1], [5]),
        ([4, 1], [0.1], [5]),
        # the better neighbour has no room, then neither
        ([6, 1, 4], [0.9, 0.1], [6, 5]),
        ([6, 1, 6], [0.9, 0.9], [6, 1, 6]),
        # one after another
        ([1, 1, 1, 1], [0.9, 0.5, 0.9], [2, 2]),
    ],
)
def test_short_intervals_join(sizes: list[int], at_edges: list[float], joined: list[int]) -> None:
    similarity = torch.full((sum(sizes) - 1,), 0.7)
    for n, alike in enumerate(at_edges, 1):
        similarity[sum(sizes[:n]) - 1] = alike
    how = Intervals(shortest=2, longest=6)
    assert join_short(sizes, similarity, how) == joined
    assert slow_join(sizes, similarity.tolist(), how) == joined


@pytest.mark.parametrize("seed", range(50))
def test_joining_keeps_every_frame(seed: int) -> None:
    draw = random.Random(seed)
    longest = draw.randint(3, 10)
    how = Intervals(shortest=draw.randint(1, longest), longest=longest)
    sizes = [draw.randint(1, longest) for _ in range(draw.randint(1, 12))]
    similarity = torch.rand(sum(sizes) - 1, generator=torch.Generator().manual_seed(seed))
    joined = join_short(sizes, similarity, how)
    assert sum(joined) == sum(sizes)
    assert joined == slow_join(sizes, similarity.tolist(), how)
    for n, size in enumerate(joined):
        beside = [joined[other] for other in (n - 1, n + 1) if 0 <= other < len(joined)]
        assert size >= how.shortest or all(size + other > longest for other in beside)


def test_cut_joins_what_is_too_short() -> None:
    similarity = torch.tensor([0.9] * 5 + [0.1, 0.2] + [0.9] * 6)
    assert cut(similarity, Intervals(threshold=0.5)) == [5, 1, 8]
    # frame 5 is like frame 4; what differs comes after it
    assert cut(similarity, Intervals(threshold=0.5, shortest=2)) == [6, 8]


@pytest.mark.parametrize(
    "options",
    [
        {"shortest": 0},
        {"shortest": 16},
        {"longest": 0},
        {"longest": -1, "shortest": -1},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"average": 0},
        {"average": -8},
    ],
)
def test_intervals_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(OptionError) as raised:
        Intervals(**options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_information_by_hand() -> None:
    similarity = torch.tensor([0.9, 0.5, 1.0, 0.8])
    # the first frame counts like the newest, 0.5
    torch.testing.assert_close(information(similarity, [2, 3]), [0.5 + 0.1, 0.5 + 0.0 + 0.2])
    torch.testing.assert_close(information(similarity, [5]), [1.3])
    # rounding may make a cosine larger than 1; that brings nothing, and takes nothing away
    assert information(torch.tensor([1.0000001, 1.0]), [1, 2]) == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(10))
def test_information_is_shared_out(seed: int) -> None:
    similarity = curve(seed, 40)
    sizes = cut(similarity, Intervals()) or [10] * 4
    worth = information(similarity, sizes)
    novelty = [1 - s for s in similarity.tolist()]
    assert len(worth) == len(sizes)
    assert math.isclose(sum(worth), sum(novelty) + max(novelty), rel_tol=1e-5)
    assert all(value >= 0 for value in worth)


CHOICES = (2, 4, 8, 16)


def problem(seed: int) -> tuple[list[int], list[float], int]:
    """Sizes of intervals in tokens, what each brings, and a budget that the largest ratio fits."""
    draw = random.Random(seed)
    sizes = [144 * draw.randint(1, 15) for _ in range(draw.randint(1, 12))]
    worth = [draw.choice([0.0, draw.random(), 10 * draw.random()]) for _ in sizes]
    return sizes, worth, draw.randint(sum(sizes) // 16, sum(sizes) // 2 + 50)


def summaries(sizes: Sequence[int], ratios: Sequence[int]) -> int:
    return sum(size // ratio for size, ratio in zip(sizes, ratios, strict=True))


@pytest.mark.parametrize("seed", range(50))
def test_ratios_spend_the_budget_and_no_more(seed: int) -> None:
    sizes, worth, budget = problem(seed)
    ratios = ratios_for(sizes, worth, CHOICES, budget)
    assert len(ratios) == len(sizes)
    assert set(ratios) <= set(CHOICES)
    total = summaries(sizes, ratios)
    assert total <= budget
    for size, ratio in zip(sizes, ratios, strict=True):
        # no interval could have had the next smaller ratio as well
        assert ratio == 2 or total + size // (ratio // 2) - size // ratio > budget
    assert ratios == ratios_for(sizes, worth, CHOICES, budget)
    assert ratios == ratios_for(tuple(sizes), tuple(worth), (16, 2, 8, 4, 4), budget)


@pytest.mark.parametrize("seed", range(50))
def test_more_worth_never_gets_a_larger_ratio(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [1440] * draw.randint(2, 8)
    worth = [float(draw.randint(0, 5)) for _ in sizes]  # ties among them
    budget = draw.randint(sum(sizes) // 16, sum(sizes) // 2)
    ratios = ratios_for(sizes, worth, CHOICES, budget)
    ranked = sorted(range(len(sizes)), key=lambda n: (-worth[n], n))
    # the earlier one first where the worth is equal
    assert [ratios[n] for n in ranked] == sorted(ratios)


@pytest.mark.parametrize(
    ("worth", "budget", "ratios"),
    [
        # 144 tokens each: 18 summaries at ratio 8, 36 at 4, 72 at 2
        ([3.0, 1.0], 36, [8, 8]),
        ([3.0, 1.0], 53, [8, 8]),
        ([3.0, 1.0], 54, [4, 8]),
        ([3.0, 1.0], 72, [4, 4]),
        ([3.0, 1.0], 90, [2, 8]),  # 3 / 36 a summary is still more than 1 / 18
        ([1.5, 1.0], 90, [4, 4]),
        ([1.0, 3.0], 90, [8, 2]),
        ([1.0, 1.0], 54, [4, 8]),
        ([0.0, 0.0], 143, [2, 4]),
        ([0.0, 9.0], 144, [2, 2]),
        ([0.0, 9.0], 10**6, [2, 2]),
    ],
)
def test_ratios_by_hand(worth: list[float], budget: int, ratios: list[int]) -> None:
    assert ratios_for([144, 144], worth, (2, 4, 8), budget) == ratios


def test_one_choice_leaves_none() -> None:
    assert ratios_for([1440, 144], [1.0, 2.0], (8,), 10**6) == [8, 8]


def test_a_budget_below_the_largest_ratio_is_refused() -> None:
    assert ratios_for([144, 144], [1.0, 2.0], (2, 8), 36) == [8, 8]
    with pytest.raises(OptionError, match="ratio 8, the largest allowed, makes 36") as raised:
        ratios_for([144, 144], [1.0, 2.0], (2, 8), 35)
    assert "\n" not in str(raised.value)
