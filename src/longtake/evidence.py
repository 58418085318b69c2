"""A picture of what an answer rests on: the weight over time, and the frames of the top moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    fitted,
    font,
    pictures,
    save_picture,
    shrunk,
)
from longtake.errors import OptionError
from longtake.moments import Span, Timeline
from longtake.terminal import moment
from longtake.types import Answer
from longtake.video.decode import Video
from longtake.video.inputs import Opened

MOST_MOMENTS = 5
"""Thumbnails of a video."""
THUMBNAIL, TALL = 216, 150
"""Pixels of the box a thumbnail fits in."""
GAP = 10
CAPTION = 22
LEADERS = 26
"""Height of the lines from thumbnails to their moments."""
CURVE = 150
SHADE = "#33291a"
"""Behind moments that stand out."""
LEGEND = (
    "bar: share of the answer's attention that falls on a stretch of frames   orange: stands out"
)


@dataclass(frozen=True, kw_only=True)
class Band:
    """One video of the picture."""

    name: str
    video: Video
    line: Timeline
    spans: tuple[Span, ...]
    """Its moments, in the order of time."""

    @property
    def scale(self) -> Scale:
        """Its time across the picture."""
        return Scale(self.line.end - self.line.seconds[0], self.line.seconds[0])

    @property
    def thumbnails(self) -> int:
        """Height of its thumbnails with captions and leaders; 0 without moments."""
        if not self.spans:
            return 0
        height = min(TALL, max(1, round(THUMBNAIL * self.video.height / self.video.width)))
        return height + CAPTION + LEADERS

    @property
    def height(self) -> int:
        """All of it."""
        return 26 + self.thumbnails + CURVE + 56


def saver(source: Opened, name: str, question: str, path: Path) -> Callable[[Answer], None]:
    """What saves the picture of an answer; raises OptionError now if that cannot be done."""
    check_target(path)
    if not isinstance(source, Video):
        raise OptionError("--evidence shows moments of a video; a still picture has none")
    return lambda answer: save_picture(drawn([(name, source)], question, answer), path)


def drawn(sources: Sequence[tuple[str, Opened]], question: str, answer: Answer) -> Image.Image:
    """The weight over each video of an answer, one below the other, with its top moments.

    `sources`: what was watched, each with a name, in the order in which it was watched. Raises
    OptionError if no video was looked at.
    """
    bands = [band for line in answer.timeline if (band := band_of(sources, line, answer))]
    if not bands:
        raise OptionError("the answer rests on no moment of a video, so there is nothing to draw")
    height = 68 + sum(band.height for band in bands) + 30
    sheet = Image.new("RGB", (WIDTH, height), GROUND)
    pen, room = ImageDraw.Draw(sheet), WIDTH - 2 * MARGIN
    pen.text((MARGIN, 12), fitted(question, 17, room), fill=INK, font=font(17))
    pen.text((MARGIN, 36), fitted(answer.text or "(no words)", 17, room), fill=DIP, font=font(17))
    highest, top = max(max(band.line.weights) for band in bands), 68
    for band in bands:
        draw_band(sheet, band, top, highest)
        top += band.height
    pen.text((MARGIN, height - 26), LEGEND, fill=DIM, font=font(12))
    return sheet


def band_of(sources: Sequence[tuple[str, Opened]], line: Timeline, answer: Answer) -> Band | None:
    """What is drawn of one video; None of frames in memory, which have no pictures to show."""
    name, video = sources[line.visual]
    if not isinstance(video, Video):
        return None
    mine = [span for span in answer.evidence if span.visual == line.visual][:MOST_MOMENTS]
    spans = tuple(sorted(mine, key=lambda span: span.start))
    return Band(name=name, video=video, line=line, spans=spans)


def draw_band(sheet: Image.Image, band: Band, top: int, highest: float) -> None:
    """Name, thumbnails, bars and axis; `highest`: the weight that fills the height."""
    pen = ImageDraw.Draw(sheet)
    name = fitted(band.name, 13, WIDTH - 2 * MARGIN)
    pen.text((MARGIN, top + 2), name, fill=DIM, font=font(13))
    foot = top + 26 + band.thumbnails
    draw_moments(sheet, band, top + 26, foot)
    draw_bars(pen, band, foot, highest)
    draw_axis(pen, band.scale, foot + CURVE + 18)


def draw_bars(pen: ImageDraw.ImageDraw, band: Band, top: int, highest: float) -> None:
    """A bar for each stretch; those within a moment stand out."""
    line, scale, base = band.line, band.scale, top + CURVE
    for span in band.spans:
        pen.rectangle((scale.x(span.start), top, widened(scale, span)[1], base), fill=SHADE)
    ends = (*line.seconds[1:], line.end)
    for start, end, weight in zip(line.seconds, ends, line.weights, strict=True):
        tall = max(1.0, weight / max(highest, 1e-9) * (CURVE - 4))
        inside = any(share_time(start, end, span) for span in band.spans)
        left, right = scale.x(start), scale.x(end)
        right = max(left + 1, right - 1 if right - left > 3 else right)
        if weight > 0.0:
            pen.rectangle((left, base - tall, right, base), fill=DIP if inside else LINE)
    pen.line([(MARGIN, base), (WIDTH - MARGIN, base)], fill=DIM)
    for words, y in ((percent(highest), top + 4), ("0", base)):
        length = pen.textlength(words, font(12))
        pen.text((MARGIN - 6 - length, y - 7), words, fill=DIM, font=font(12))


def widened(scale: Scale, span: Span) -> tuple[float, float]:
    """Left and right of a span, at least two pixels apart."""
    left = scale.x(span.start)
    return left, max(left + 2, scale.x(span.end))


def percent(share: float) -> str:
    """A share for the axis: 62 %, 0.8 %."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def draw_moments(sheet: Image.Image, band: Band, top: int, foot: int) -> None:
    """A frame of each moment with its time and weight, and a line down to it."""
    if not band.spans:
        return
    pen, scale, bottom = ImageDraw.Draw(sheet), band.scale, foot - LEADERS
    middles = [sum(widened(scale, span)) / 2 for span in band.spans]
    frames = pictures(band.video.read(seconds=[peak(band.line, s) for s in band.spans], chunk=1))
    for span, middle, left, frame in zip(band.spans, middles, placed(middles), frames, strict=True):
        picture = shrunk(frame, THUMBNAIL, TALL)
        sheet.paste(picture, (left + (THUMBNAIL - picture.width) // 2, top))
        words = fitted(moment(span), 13, THUMBNAIL)
        centre = left + THUMBNAIL / 2
        at = (centre - pen.textlength(words, font(13)) / 2, bottom - CAPTION + 3)
        pen.text(at, words, fill=INK, font=font(13))
        pen.line([(centre, bottom), (middle, foot - 4)], fill=DIP)


def placed(middles: Sequence[float]) -> list[int]:
    """Left edges of thumbnails near these rising middles, side by side within the margins."""
    step = THUMBNAIL + GAP
    lefts = [middle - THUMBNAIL / 2 for middle in middles]
    for n in range(len(lefts)):
        least = MARGIN if n == 0 else lefts[n - 1] + step
        lefts[n] = max(lefts[n], least)
    for n in reversed(range(len(lefts))):
        most = WIDTH - MARGIN - THUMBNAIL if n + 1 == len(lefts) else lefts[n + 1] - step
        lefts[n] = min(lefts[n], most)
    return [round(left) for left in lefts]


def share_time(start: float, end: float, span: Span) -> bool:
    """Whether a stretch and a span overlap by more than their rounding to the millisecond."""
    common = min(end, span.end) - max(start, span.start)
    return common > min(2e-3, (end - start) / 2, (span.end - span.start) / 2)


def peak(line: Timeline, span: Span) -> float:
    """Where the heaviest stretch within a span begins; a stretch may begin before its span does."""
    ends = (*line.seconds[1:], line.end)
    inside = [
        (weight, -start)
        for start, end, weight in zip(line.seconds, ends, line.weights, strict=True)
        if share_time(start, end, span)
    ]
    return max(span.start, -max(inside)[1]) if inside else span.start
