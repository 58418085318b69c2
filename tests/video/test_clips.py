"""Frames regrouped into clips: nothing of it depends on the chunks they came in."""

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from longtake.video.clips import in_clips

Chunk = tuple[Tensor, tuple[float, ...]]


def chunks(sizes: Sequence[int]) -> Iterator[Chunk]:
    """Numbered frames of 3 x 2 x 2, a quarter of a second apart."""
    start = 0
    for size in sizes:
        numbers = torch.arange(start, start + size)
        frames_TCHW = numbers[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8).contiguous()
        yield frames_TCHW, tuple((numbers / 4).tolist())
        start += size


def regrouped(sizes: Sequence[int], size: int) -> Chunk:
    """All clips and when each begins."""
    clips = list(in_clips(chunks(sizes), size))
    times = tuple(time for _, seconds in clips for time in seconds)
    assert all(len(pixels) == len(seconds) > 0 for pixels, seconds in clips)
    return torch.cat([pixels for pixels, _ in clips]), times


@pytest.mark.parametrize(
    ("frames", "size", "numbers"),
    [
        (8, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (10, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]),
        (5, 4, [[0, 1, 2, 3], [4, 4, 4, 4]]),
        (1, 4, [[0, 0, 0, 0]]),
        (3, 1, [[0], [1], [2]]),
        (3, 5, [[0, 1, 2, 2, 2]]),
    ],
)
def test_the_last_clip_is_filled_with_its_last_frame(
    frames: int, size: int, numbers: list[list[int]]
) -> None:
    clips_BFCHW, times = regrouped([frames], size)
    assert clips_BFCHW.shape == (len(numbers), size, 3, 2, 2)
    assert clips_BFCHW.dtype == torch.uint8
    assert clips_BFCHW[..., 0, 0, 0].tolist() == numbers
    assert times == tuple(clip[0] / 4 for clip in numbers)


def test_chunks_make_no_difference() -> None:
    draw = random.Random(0)
    for _ in range(300):
        frames, size = draw.randint(1, 40), draw.randint(1, 9)
        sizes: list[int] = []
        while sum(sizes) < frames:
            sizes.append(min(draw.choice([0, 1, 2, 3, 5, 16]), frames - sum(sizes)))
        clips_BFCHW, times = regrouped(sizes, size)
        whole_BFCHW, whole_times = regrouped([frames], size)
        assert torch.equal(clips_BFCHW, whole_BFCHW), (sizes, size)
        assert times == whole_times


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
def test_no_frames_make_no_clips(sizes: list[int]) -> None:
    assert list(in_clips(chunks(sizes), 4)) == []


def test_clips_are_given_as_soon_as_they_are_whole() -> None:
    """Nothing but an unfinished clip waits: a long video is never held."""
    taken: list[int] = []

    def watched() -> Iterator[Chunk]:
        for number, chunk in enumerate(chunks([3] * 8)):
            taken.append(number)
            yield chunk

    given = 0
    for clips_BFCHW, _ in in_clips(watched(), 4):
        given += 4 * len(clips_BFCHW)
        assert 3 * len(taken) - given < 4
    assert given == 24
