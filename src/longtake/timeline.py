"""A picture of how a video is cut: what changes in it, and what is kept of each stretch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from longtake.drawing import (
    DIM,
    DIP,
    GROUND,
    INK,
    LINE,
    MARGIN,
    WIDTH,
    Scale,
    check_target,
    draw_axis,
    font,
    pictures,
    save_picture,
    shrunk,
)
from longtake.errors import OptionError
from longtake.survey import Cut, Survey, survey
from longtake.system import System
from longtake.terminal import bars
from longtake.video.decode import Video, open_video
from longtake.video.images import is_image

SHADES = ("#2f5d50", "#3b4a6b")
"""Colours of neighbouring windows."""
MOST_THUMBNAILS = 10
THUMBNAIL = 108
"""Pixels across."""
LEGEND = (
    "line: how much a frame resembles the next   dot: a dip that splits the video   "
    "bar: a window; 1:8 keeps one of eight tokens, a taller bar keeps more"
)
CURVE, BARS = 120, 64
"""Heights of the curve of similarity and of the windows."""


def save_timeline(
    path: str, system: Callable[[], System], max_frames: int | None, target: Path
) -> Survey:
    """Survey a video as a system would read it and save the picture; says what was found.

    The system is made once it is clear that there is something to draw and a place for it.
    """
    check_target(target)
    if is_image(path):
        raise OptionError("--timeline draws a video; a still picture has no time")
    with open_video(path) as video:
        with bars() as progress:
            found = survey(system(), video, max_frames, progress)
        save_picture(draw(video, found), target)
    return found


def draw(video: Video, survey: Survey) -> Image.Image:
    """Thumbnails, similarity of neighbouring frames, and windows, on one axis of time.

    A bar's height is what is kept per visual token (the full height is the finest window's); dips
    that split the video are marked on the curve.
    """
    picture_height = max(1, round(THUMBNAIL * video.height / video.width))
    top = 36 + picture_height + 16
    height = top + CURVE + 24 + BARS + 72
    sheet = Image.new("RGB", (WIDTH, height), GROUND)
    pen = ImageDraw.Draw(sheet)
    scale = Scale(max(survey.duration, survey.seconds[-1], 1e-6))
    draw_title(pen, survey)
    draw_thumbnails(sheet, video, survey, scale)
    draw_curve(pen, survey, scale, top)
    draw_windows(pen, survey, scale, top + CURVE + 24)
    draw_axis(pen, scale, height - 56)
    pen.text((MARGIN, height - 26), LEGEND, fill=DIM, font=font(12))
    return sheet


def draw_title(pen: ImageDraw.ImageDraw, survey: Survey) -> None:
    """One line that sums up."""
    tokens, kept = (sum(getattr(w, name) for w in survey.windows) for name in ("tokens", "kept"))
    words = (
        f"{len(survey.seconds)} frames in {len(survey.windows)} windows: "
        f"{kept:,} of {tokens:,} visual tokens kept ({tokens / max(1, kept):.1f} to 1)"
    )
    pen.text((MARGIN, 8), words, fill=INK, font=font(17))


def draw_thumbnails(sheet: Image.Image, video: Video, survey: Survey, scale: Scale) -> None:
    """The first frame of windows, as many as fit, under a tick."""
    room = (WIDTH - 2 * MARGIN) // (THUMBNAIL + 6)
    chosen = spread(survey.windows, min(room, MOST_THUMBNAILS))
    moments = [window.start_seconds for window in chosen]
    height = max(1, round(THUMBNAIL * video.height / video.width))
    for place, picture in enumerate(pictures(video.read(seconds=moments, chunk=1))):
        left = MARGIN + place * (WIDTH - 2 * MARGIN) // max(1, len(chosen))
        sheet.paste(shrunk(picture, THUMBNAIL, height), (left, 36))
        pen = ImageDraw.Draw(sheet)
        foot = (scale.x(moments[place]), 36 + height + 14)
        pen.line([(left + THUMBNAIL / 2, 36 + height), foot], fill=DIM)


def spread(windows: tuple[Cut, ...], most: int) -> list[Cut]:
    """At most so many windows, evenly chosen."""
    if len(windows) <= most:
        return list(windows)
    return [windows[n * len(windows) // most] for n in range(most)]


def draw_curve(pen: ImageDraw.ImageDraw, survey: Survey, scale: Scale, top: int) -> None:
    """Similarity of each frame to the next; splits are marked."""
    values = survey.similarity
    pen.text((MARGIN, top - 2), "similarity of neighbouring frames", fill=DIM, font=font(12))
    if not values:
        return
    low, high = min(values), max(values)
    reach = max(high - low, 1e-6)
    middle = [(a + b) / 2 for a, b in zip(survey.seconds, survey.seconds[1:], strict=False)]
    points = [
        (scale.x(second), top + 20 + (CURVE - 24) * (high - value) / reach)
        for second, value in zip(middle, values, strict=True)
    ]
    for label, y in ((f"{high:.3f}", top + 20), (f"{low:.3f}", top + CURVE - 4)):
        pen.text((4, y - 7), label, fill=DIM, font=font(12))
    if len(points) > 1:
        pen.line(points, fill=LINE, width=2)
    bar = max(survey.depth) if survey.threshold is None else survey.threshold
    for (left, peak), depth in zip(points, survey.depth, strict=True):
        if depth > bar:
            pen.ellipse((left - 4, peak - 4, left + 4, peak + 4), fill=DIP)


def draw_windows(pen: ImageDraw.ImageDraw, survey: Survey, scale: Scale, top: int) -> None:
    """One bar per window; its ratio on it where there is room."""
    finest = min(window.ratio for window in survey.windows)
    for number, window in enumerate(survey.windows):
        left, right = scale.x(window.start_seconds), scale.x(window.end_seconds)
        tall = max(6.0, BARS * finest / window.ratio)
        box = (left, top + BARS - tall, max(left + 1, right - 1), top + BARS)
        pen.rectangle(box, fill=SHADES[number % 2])
        words = f"1:{window.ratio}"
        if right - left > pen.textlength(words, font(12)) + 6:
            pen.text((left + 4, top + BARS - 16), words, fill=INK, font=font(12))
