"""What a file is, before it is watched; whatever it holds, only plain containers are opened."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from longtake.errors import VideoError
from longtake.serve.faults import Refusal
from longtake.serve.limits import Limits
from longtake.stored import Thumbnail
from longtake.thumbnails import WIDTH, thumbnails_of
from longtake.video.decode import Video, open_video

QUALITY = 80
PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read as pictures: none of them starts another program, as EPS would."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known of a file that can be watched."""

    still: bool
    seconds: float = 0.0
    width: int
    height: int
    frames: int = 1
    thumbnails: tuple[Thumbnail, ...] = ()


def picture(path: Path) -> Image.Image | None:
    """A still picture, not yet decoded; None if the file is none. Animations are videos."""
    try:
        image = Image.open(path, formats=PICTURES)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if image.format != "MPO" and getattr(image, "is_animated", False):
        image.close()
        return None
    return image


@contextmanager
def film(path: Path) -> Iterator[Video]:
    """An opened video. Given as a file object, it can name no other file or address to open."""
    with path.open("rb") as file, open_video(file) as video:
        yield video


def look(path: Path, name: str, limits: Limits) -> Looked:
    """What a file is. Raises Refusal if it cannot be watched, or is larger than allowed."""
    try:
        if (image := picture(path)) is not None:
            with image:
                looked = Looked(still=True, width=image.width, height=image.height)
                within(looked, limits)
                small = Thumbnail(seconds=0.0, jpeg=jpeg(image.convert("RGB"), WIDTH))
            return replace(looked, thumbnails=(small,))
        with film(path) as video:
            looked = Looked(
                still=False,
                seconds=video.duration,
                width=video.width,
                height=video.height,
                frames=video.frames,
            )
            within(looked, limits)
            return replace(looked, thumbnails=thumbnails_of(video))
    except VideoError as error:
        # the library names the file as it is called here; the client knows it by its own name
        told = str(error).replace(path.name, name)
        raise Refusal(400, "video_unusable", told) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Refusal(400, "video_unusable", f"{name}: the picture is damaged") from error


def frames_at(video: Video, seconds: Sequence[float]) -> Iterator[Image.Image]:
    """Frames on screen at these times, in order. Raises VideoError."""
    for frames in video.read(seconds=seconds, chunk=1, threads=1):
        yield Image.fromarray(frames.pixels_TCHW[0].permute(1, 2, 0).numpy())


def jpeg(image: Image.Image, width: int) -> bytes:
    """A picture as a JPEG, so wide at most."""
    out = io.BytesIO()
    image.thumbnail((width, 8 * width), Image.Resampling.BICUBIC)
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def within(looked: Looked, limits: Limits) -> None:
    """Raise Refusal for what is longer or larger than allowed."""
    if looked.seconds > limits.video_seconds:
        told = (
            f"the video lasts {looked.seconds:.0f} s, at most {limits.video_seconds:.0f} are taken"
        )
        raise Refusal(413, "video_too_long", told)
    if looked.width * looked.height > limits.pixels:
        told = f"pictures of {looked.width} x {looked.height} are larger than this server takes"
        raise Refusal(413, "picture_too_large", told)
