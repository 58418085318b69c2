"""How fast this machine decodes a video and fits its frames to a tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter as now

from longtake.video.decode import Video
from longtake.video.pixels import ClipProcessor

ENOUGH = 0.12
"""Seconds that one measurement should take."""
MOST = 64
"""Frames read for it at most."""


@dataclass(frozen=True, kw_only=True)
class FilmRates:
    """Seconds of one thread, but `fit`, which uses as many as torch does."""

    picture: float
    """To decode one picture, wanted or not."""
    frame: float
    """More for one that is wanted: its colours, and its copy."""
    fit: float
    """To resize and crop one frame."""
    normalise: float
    """To turn its bytes into numbers, on the CPU."""


def film_rates(video: Video, processor: ClipProcessor) -> FilmRates:
    """Measure on frames from the middle of a video: some side by side, some far apart.

    Raises VideoError where they cannot be decoded.
    """
    middle = video.frames // 2
    near = _Sample.of(video, range(middle, min(video.frames, middle + MOST)))
    step = max(1, video.frames // MOST)
    far = _Sample.of(video, range(step // 2, video.frames, step))
    # seconds = pictures x + frames y, from two kinds of reading
    spread = near.pictures * far.frames - far.pictures * near.frames
    picture = (near.seconds * far.frames - far.seconds * near.frames) / spread if spread else 0.0
    picture = min(max(picture, 0.0), far.seconds / far.pictures)
    frame = max(0.0, (near.seconds - near.pictures * picture) / near.frames)
    chunk = next(video.read(range(middle, min(video.frames, middle + 4)), chunk=4))
    began = now()
    fitted_TCHW = processor.fit(chunk.pixels_TCHW)
    between = now()
    processor.normalise(fitted_TCHW)
    ended = now()
    return FilmRates(
        picture=picture,
        frame=frame,
        fit=(between - began) / len(chunk),
        normalise=(ended - between) / len(chunk),
    )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One reading."""

    frames: int
    pictures: int
    seconds: float

    @classmethod
    def of(cls, video: Video, indices: Sequence[int]) -> _Sample:
        """Read as many of these as take a while, the first of them to find out how many."""
        few = indices[:2]
        cls._read(video, few)  # opens a decoder
        each = cls._read(video, few) / len(few)
        count = int(min(len(indices), max(2, ENOUGH / max(each, 1e-6))))
        return cls(
            frames=len(indices[:count]),
            pictures=video.decoded(indices[:count]),
            seconds=cls._read(video, indices[:count]),
        )

    @staticmethod
    def _read(video: Video, indices: Sequence[int]) -> float:
        began = now()
        for _ in video.read(list(indices), chunk=4, threads=1):
            pass
        return now() - began
