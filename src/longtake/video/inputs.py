"""What can be watched: files and URLs, opened videos, frames in memory, still images."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longtake.errors import OptionError, VideoError
from longtake.types import Frames
from longtake.video.decode import Video, open_video
from longtake.video.images import is_image, open_image

Source = str | os.PathLike[str] | BinaryIO | Video | Frames | Tensor | Image.Image
"""A path, URL or binary file, an opened video, frames in memory, or an image: PIL's, or a uint8
tensor [3, H, W]."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Frames in memory behind the part of `Video` that watching uses."""

    held: Frames
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.held)

    @property
    def fps(self) -> float:
        """Average frame rate; 0 of a single frame."""
        seconds_T = self.held.seconds_T
        span = float(seconds_T[-1] - seconds_T[0])
        return (self.frames - 1) / span if span > 0.0 else 0.0

    @property
    def seconds_T(self) -> Tensor:
        """Presentation time of every frame from the first one, float64."""
        return self.held.seconds_T - self.held.seconds_T[0]

    @property
    def duration(self) -> float:
        """Seconds to the end of the last frame, which lasts as long as the one before it."""
        return last_end(self.seconds_T.tolist())

    def read(self, indices: Sequence[int], *, chunk: int = 16) -> Iterator[Frames]:
        """The frames at these indices, `chunk` at a time, timed from the first frame."""
        for start in range(0, len(indices), chunk):
            part = list(indices[start : start + chunk])
            yield Frames(
                pixels_TCHW=self.held.pixels_TCHW[part],
                seconds_T=self.seconds_T[part],
                index_T=self.held.index_T[part],
            )

    def close(self) -> None:
        """Nothing to give back."""


Opened = Video | Held | Tensor
"""A video to sample from, or a still image uint8 [3, H, W]."""


def times_of(video: Video | Held, indices: Sequence[int]) -> tuple[float, ...]:
    """When frames are shown, in seconds from the video's start."""
    return tuple(video.seconds_T[list(indices)].tolist())


def last_end(seconds: Sequence[float]) -> float:
    """When the last frame ends, if it lasts as long as the one before; 0 for fewer than two."""
    return 0.0 if len(seconds) < 2 else 2 * seconds[-1] - seconds[-2]


def is_still(source: Source | Opened) -> bool:
    """Whether a source is a still image; decodes nothing."""
    if isinstance(source, Tensor | Image.Image):
        return True
    return isinstance(source, str | os.PathLike) and is_image(source)


def open_source(source: Source | Opened) -> Opened:
    """A video to sample from, or a still image. Raises VideoError, OptionError."""
    if isinstance(source, Frames):
        if not len(source):
            raise VideoError("there are 0 frames; give at least one")
        return Held(held=source)
    if isinstance(source, Opened):
        return source
    if isinstance(source, Image.Image):
        return torch.from_numpy(np.array(source.convert("RGB"))).permute(2, 0, 1)
    if not isinstance(source, str | os.PathLike) and callable(getattr(source, "read", None)):
        return open_video(source)
    if not isinstance(source, str | os.PathLike):
        raise OptionError(
            f"cannot watch a {type(source).__name__}; give a path, Video, Frames or image tensor"
        )
    if is_image(source):
        return open_image(source)
    return open_video(source)


@contextmanager
def opened_video(source: Source | Opened) -> Iterator[Source | Opened]:
    """`opened_source`, but still images, which are large when decoded, stay as they are."""
    if is_still(source):
        yield source
        return
    with opened_source(source) as opened:
        yield opened


@contextmanager
def opened_source(source: Source | Opened) -> Iterator[Opened]:
    """`open_source` for a `with` statement, which closes what it opened."""
    opened = open_source(source)
    try:
        yield opened
    finally:
        if not isinstance(opened, Tensor) and opened is not source:
            opened.close()
