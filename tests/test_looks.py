"""From shares of attention to spans, timelines and pictures."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from longtake.drawing import DIP, GROUND, LINE, fitted, font
from longtake.errors import OptionError
from longtake.evidence import THUMBNAIL, drawn, peak, placed
from longtake.looks import shares_of, spans_of, timelines_of
from longtake.moments import Span, Timeline
from longtake.terminal import BLOCKS, PLAIN, sparkline
from longtake.types import Answer, Entry
from longtake.video.decode import open_video
from tests.clips import write_clip


def entries_of(*seconds: float, visual: int = 0, rows: int = 1) -> list[Entry]:
    """Entries one after another."""
    return [
        Entry(start=rows * n, stop=rows * (n + 1), seconds=second, visual=visual)
        for n, second in enumerate(seconds)
    ]


def line_of(*weights: float, end: float | None = None) -> Timeline:
    """A stretch a second."""
    seconds = tuple(map(float, range(len(weights))))
    return Timeline(seconds=seconds, weights=weights, end=len(weights) if end is None else end)


# -- spans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([0.05, 0.8, 0.05, 0.05, 0.05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [(1, 2, 0.8)]),
        # a sixth of the heaviest still stands out, a little less does not
        ([0.6, 0, 0, 0.101, 0] + [0.01] * 20, [(0, 1, 0.6), (3, 4, 0.101)]),
        ([0.6, 0, 0, 0.099, 0] + [0.01] * 20, [(0, 1, 0.6)]),
        # one frame between is bridged, two are not
        ([0, 0.4, 0.0, 0.4] + [0.0] * 10, [(1, 4, 0.8)]),
        ([0, 0.4, 0.0, 0.0, 0.4] + [0.0] * 10, [(1, 2, 0.4), (4, 5, 0.4)]),
        # where all are alike, all of it is one span
        ([0.25] * 4, [(0, 4, 1.0)]),
        ([0.0] * 4, []),
        ([1.0], [(0, 1, 1.0)]),
    ],
)
def test_what_stands_out(shares: list[float], told: list[tuple[float, float, float]]) -> None:
    entries = entries_of(*map(float, range(len(shares))))
    spans = spans_of(shares, entries, [float(len(shares))])
    assert [(s.start, s.end, pytest.approx(s.weight)) for s in spans] == told


def test_at_most_five_spans_heaviest_first() -> None:
    shares = [0.0] * 40
    for n in range(8):
        shares[5 * n] = 0.05 + n / 100
    spans = spans_of(shares, entries_of(*map(float, range(40))), [40.0])
    assert [span.start for span in spans] == [35.0, 30.0, 25.0, 20.0, 15.0]


def test_stills_give_no_span_but_count_as_looked_at() -> None:
    entries = [*entries_of(0.0, 1.0), Entry(start=2, stop=3, seconds=0.0, visual=1)]
    (span,) = spans_of([0.3, 0.1, 0.6], entries, [2.0, 0.0])
    assert (span.start, span.end, span.weight) == (0.0, 1.0, 0.3)
    (line,) = timelines_of([0.3, 0.1, 0.6], entries, [2.0, 0.0])
    assert line.weights == (0.3, 0.1)


def test_frames_without_rows_share_with_the_one_that_has_them() -> None:
    entries = [
        Entry(start=5, stop=5, seconds=0.0),
        Entry(start=5, stop=5, seconds=1.0),
        Entry(start=5, stop=6, seconds=2.0),
        Entry(start=6, stop=7, seconds=3.0),
        Entry(start=7, stop=7, seconds=4.0),  # nothing of it was kept
        Entry(start=7, stop=7, seconds=0.0, visual=1),  # another video's: no share of the next's
        Entry(start=7, stop=9, seconds=1.0, visual=1),
    ]
    shares = shares_of([0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 4.0], entries)
    assert shares == pytest.approx([1 / 8] * 3 + [1 / 8, 0.0] + [1 / 4] * 2)
    assert shares_of([0.0] * 7, entries) == [0.0] * 7


# -- timelines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 511, 512, 513, 10_000])
def test_a_timeline_is_bounded_and_loses_nothing(frames: int) -> None:
    shares = [1 / 3 / frames] * frames
    shares[frames // 2] += 2 / 3
    entries = entries_of(*(n * 3.6 for n in range(frames)))
    (line,) = timelines_of(shares, entries, [frames * 3.6])
    assert len(line.weights) == len(line.seconds) <= 512
    assert 1.0 - 513e-6 < math.fsum(line.weights) <= 1.0
    assert max(line.weights) > 2 / 3
    assert (line.seconds[0], line.end) == (0.0, round(frames * 3.6, 3))
    assert list(line.seconds) == sorted(line.seconds)
    assert len(json.dumps(asdict(line))) < 12_000


def test_columns_keep_the_highest_and_cover_all() -> None:
    assert line_of(0.1, 0.6, 0.3).columns(3) == (0.1, 0.6, 0.3)
    assert line_of(0.1, 0.6, 0.3).columns(6) == (0.1, 0.1, 0.6, 0.6, 0.3, 0.3)
    assert line_of(*[0.01] * 99, 0.9).columns(10) == (*[0.01] * 9, 0.9)
    assert line_of(1.0, end=0.0).columns(4) == (1.0, 1.0, 1.0, 1.0)[:1] + (0.0,) * 3
    same = Timeline(seconds=(0.0, 0.0, 1.0), weights=(0.5, 0.2, 0.3), end=2.0)
    assert same.columns(2) == (0.5, 0.3)


@pytest.mark.parametrize("width", [1, 5, 12, 20, 80, 300])
@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", BLOCKS), ("ascii", PLAIN)])
def test_a_sparkline_is_as_wide_as_asked(width: int, encoding: str, marks: str) -> None:
    words = sparkline(line_of(*[0.02] * 30, 0.4), width, encoding)
    assert len(words) == width
    bars = words.removeprefix("0:00.0 ").removesuffix(" 0:31.0")
    assert set(bars) <= set(marks)
    assert bars[-1] == marks[-1]
    if width > 30:
        assert bars[0] == marks[0]
        assert words.startswith("0:00.0 ")
        assert words.endswith(" 0:31.0")


def test_a_sparkline_of_nothing_is_low() -> None:
    assert sparkline(line_of(0.0, 0.0), 4, "no such encoding") == PLAIN[0] * 4


# -- pictures -------------------------------------------------------------------------------------


def answer_of(shares: list[float], seconds: float, text: str = "RIVER") -> Answer:
    """An answer about one video, evenly sampled."""
    entries = entries_of(*(seconds * n / len(shares) for n in range(len(shares))))
    return Answer(
        text=text,
        ids=(),
        evidence=spans_of(shares, entries, [seconds]),
        timeline=timelines_of(shares, entries, [seconds]),
    )


def columns_with(sheet: Image.Image, colour: str, row: int) -> list[int]:
    """Pixels of a row that have a colour."""
    wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    return [x for x in range(sheet.width) if sheet.getpixel((x, row)) == wanted]


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ([0.0] * 100 + [1.0] + [0.0] * 155, "RIVER"),
        ([0.5, 0.1, 0.1, 0.3], "a" * 900),
        ([0.25] * 4, ""),
        ([1.0], "one \x1b[2J frame"),
    ],
)
def test_bars_stand_where_the_weight_is(shares: list[float], text: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)
    with open_video(clip) as video:
        answer = answer_of(shares, 2.0, text)
        sheet = drawn([("x" * 400, video)], "What? " * 90, answer)
    assert sheet.width == 1280
    base = sheet.height - 30 - 56  # legend and axis below it
    heaviest = shares.index(max(shares))
    left, right = (56 + 1168 * (heaviest + n) / len(shares) for n in (0, 1))
    high = columns_with(sheet, DIP, base - 140)
    assert high
    assert left - 1 <= min(high) < right
    low = {*columns_with(sheet, DIP, base - 1), *columns_with(sheet, LINE, base - 1)}
    assert low
    assert columns_with(sheet, GROUND, 1) == list(range(1280))


def test_videos_stand_one_below_the_other_and_stills_are_left_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)
    lines = [
        Timeline(seconds=(0.0, 1.0), weights=(0.1, 0.2), end=2.0, visual=0),
        Timeline(seconds=(0.0, 1.0), weights=(0.1, 0.3), end=2.0, visual=2),
    ]
    span = Span(start=1.0, end=2.0, weight=0.3, visual=2)
    answer = Answer(text="", ids=(), evidence=(span,), timeline=tuple(lines))
    with open_video(clip) as video:
        one = drawn([("a", video)], "?", Answer(text="", ids=(), timeline=tuple(lines[:1])))
        sheet = drawn([("a", video), ("b", video), ("c", video)], "?", answer)
    assert sheet.height > 2 * one.height - 120
    with pytest.raises(OptionError, match="no moment of a video"):
        drawn([], "?", Answer(text="", ids=()))


def test_the_thumbnail_is_of_the_heaviest_frame() -> None:
    line = line_of(0.1, 0.2, 0.5, 0.1, 0.1)
    assert peak(line, Span(start=1.0, end=4.0, weight=0.8)) == 2.0
    # a stretch of many frames may begin before the span that lies in it
    assert peak(line_of(0.9, 0.1), Span(start=0.5, end=0.6, weight=0.9)) == 0.5


@pytest.mark.parametrize(
    "middles", [[56.0], [1224.0], [600.0, 601.0, 602.0], [56.0] * 5, [1224.0] * 5, [56.0, 1224.0]]
)
def test_thumbnails_lie_side_by_side_within_the_picture(middles: list[float]) -> None:
    lefts = placed(middles)
    assert lefts[0] >= 56
    assert lefts[-1] + THUMBNAIL <= 1280 - 56
    for one, other in itertools.pairwise(lefts):
        assert other - one >= THUMBNAIL


def test_words_fit_and_show_what_can_be_drawn() -> None:
    assert fitted("When\n does\tit end?", 17, 900) == "When does it end?"
    assert fitted("\u4ec0\u4e48 \x1b[31m caf\u00e9", 17, 900) == "?? ?[31m cafe"
    name = "a" * 300 + "final.mp4"
    short = fitted(name, 13, 400)
    assert short.endswith("final.mp4")
    assert " ... " in short
    assert font(13).getlength(short) <= 400
