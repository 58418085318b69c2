"""A few small pictures of a video, so that a person recognises it in a list."""

from __future__ import annotations

import io

from PIL import Image

from longtake.stored import Thumbnail
from longtake.video.decode import Video

COUNT = 4
WIDTH = 160
"""Pixels across."""
QUALITY = 70


def thumbnails_of(video: Video) -> tuple[Thumbnail, ...]:
    """The frames in the middle of each quarter, as JPEG. Raises VideoError if one is damaged."""
    wanted = [video.duration * (2 * n + 1) / (2 * COUNT) for n in range(COUNT)]
    found = []
    for frames in video.read(seconds=wanted if video.duration else [0.0], chunk=1):
        picture = Image.fromarray(frames.pixels_TCHW[0].permute(1, 2, 0).numpy())
        picture.thumbnail((WIDTH, WIDTH), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=QUALITY)
        found.append(Thumbnail(seconds=float(frames.seconds_T[0]), jpeg=out.getvalue()))
    return tuple(found)
