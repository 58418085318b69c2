"""Splice a card into a real clip by decoding it and encoding it anew with the card between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from longtake.errors import OptionError, VideoError
from longtake.video.cards import Card, Look, draw_card

TICKS = 90_000
"""Time base of what is written, per second; divides all usual frame rates."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a card is spliced in."""

    at_seconds: float
    """Time in the source before which the card is shown."""
    seconds: float = 2.0
    """How long it is shown; the rest of the clip moves back by as much."""

    def __post_init__(self) -> None:
        if not (self.at_seconds >= 0.0 and 0.0 < self.seconds < float("inf")):
            raise OptionError(
                f"a card at {self.at_seconds} s for {self.seconds} s; both must be finite, "
                "the first 0 or more, the second more than 0"
            )


def insert_card(
    source: Path, target: Path, card: Card, place: Place, look: Look | None = None
) -> Path:
    """Write `source` with the card spliced in to `target` (H.264, no sound); returns `target`.

    Written aside and renamed, so that `target` is never half a video. Raises VideoError if the
    source cannot be read or ends before the place; OptionError if both paths are one file.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise OptionError(f"{target} is the source itself; write the new clip elsewhere")
    aside = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        _write(source, aside, card, place, look)
        os.replace(aside, target)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(f"{source} cannot be re-encoded ({error}); expected a video") from error
    finally:
        aside.unlink(missing_ok=True)
    return target


def _write(source: Path, aside: Path, card: Card, place: Place, look: Look | None) -> None:
    with av.open(os.fspath(source)) as reader, av.open(os.fspath(aside), "w") as writer:
        stream = reader.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        # H.264 with 4:2:0 colour needs even sides
        width, height = stream.width // 2 * 2, stream.height // 2 * 2
        out = writer.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        out.width, out.height, out.pix_fmt = width, height, "yuv420p"
        out.codec_context.time_base = Fraction(1, TICKS)
        picture = _frame(draw_card(card, width, height, look))
        shown = False
        for frame, is_card in _spliced(reader.decode(stream), picture, rate, place):
            shown = shown or is_card
            writer.mux(out.encode(frame.reformat(width, height, "yuv420p")))
        if not shown:
            raise VideoError(f"{source} ends before {place.at_seconds} s; choose an earlier place")
        writer.mux(out.encode(None))


def _frame(picture: Image.Image) -> VideoFrame:
    return VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")


def _spliced(
    frames: Iterator[VideoFrame], picture: VideoFrame, rate: Fraction, place: Place
) -> Iterator[tuple[VideoFrame, bool]]:
    """The clip's frames with the card's between them, times in order; true marks the card's."""
    count = max(1, round(place.seconds * rate))
    shift, start, last = Fraction(0), None, Fraction(-1)
    for frame in frames:
        own = Fraction(frame.pts or 0) * (frame.time_base or Fraction(1, TICKS))
        start = own if start is None else start
        time = own - start
        if not shift and time >= Fraction(place.at_seconds).limit_denominator(TICKS):
            shift = count / rate
            for index in range(count):
                yield _timed(picture, time + index / rate), True
        if time <= last:
            continue  # a damaged clip repeats a time; players would stumble over it
        last = time
        yield _timed(frame, time + shift), False


def _timed(frame: VideoFrame, seconds: Fraction) -> VideoFrame:
    frame.time_base = Fraction(1, TICKS)
    frame.pts = round(seconds * TICKS)
    return frame
