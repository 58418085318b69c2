"""Numbers and tables as people read them."""

from pathlib import Path

import pytest

from longtake.inspect import Cost, ModelReport, VideoReport
from longtake.terminal import clock, harmless, model_text, moment, say, size, table, video_text
from longtake.types import Span


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0:00.0"),
        (7.46, "0:07.5"),
        (59.96, "1:00.0"),
        (723.0, "12:03.0"),
        (3599.97, "1:00:00.0"),
        (3723.4, "1:02:03.4"),
        (90000.0, "25:00:00.0"),
    ],
)
def test_clock(seconds: float, told: str) -> None:
    assert clock(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (71 * 2**20, "71.0 MiB"),
        (2**30, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_size(count: int, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(
    ("start", "end", "weight", "told"),
    [
        (12.0, 15.0, 0.62, "0:12.0-0:15.0 (62 %)"),
        (63.5, 63.5, 0.08, "1:03.5 (8 %)"),
        (0.0, 0.2, 0.004, "0:00.0-0:00.2 (under 1 %)"),
    ],
)
def test_moment(start: float, end: float, weight: float, told: str) -> None:
    assert moment(Span(start=start, end=end, weight=weight)) == told


def test_table_aligns_and_leaves_no_blanks_at_the_end() -> None:
    rows = [("frames", "memory"), ("8", "a"), ("2,048", "")]
    assert table(rows, "><") == "frames  memory\n     8  a\n 2,048"


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert harmless("a\x1b[2Jb\x08\x9bc\r\n\td\u00e9 \u4e2d") == "a?[2Jb??c?\n\td\u00e9 \u4e2d"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a name\nwith a break", kind="error")
    assert capsys.readouterr().err == "longtake: error: a name with a break\n"


def test_a_video_of_variable_rate_says_so() -> None:
    report = VideoReport(
        name="a.mp4",
        codec="h264",
        width=1080,
        height=1920,
        rotation=90,
        frames=301,
        duration=10.0,
        fps=30.125,
        variable_rate=True,
        warnings=("breaks off",),
    )
    assert video_text(report).splitlines() == [
        "file     a.mp4",
        "picture  1080 x 1920, h264",
        "turned   90 degrees counter-clockwise",
        "length   0:10.0",
        "frames   301 variable rate, average 30.125 per second",
        "warning  breaks off",
    ]


@pytest.mark.parametrize(
    ("window", "last"),
    [
        (None, "2,048  295,000  295,000  15.8 GiB"),
        (224000, "2,048  295,000  295,000  15.8 GiB  no"),
    ],
)
def test_costs_are_told_against_the_window_where_there_is_one(
    window: int | None, last: str
) -> None:
    report = ModelReport(
        path=Path("model"),
        system="longva",
        parameters=10,
        weight_bytes=20,
        dtype="bfloat16",
        picture=(336, 336),
        frames=32,
        window=window,
        costs=(
            Cost(
                frames=2048,
                tokens=295000,
                kept=295000,
                cache_bytes=17 * 10**9,
                fits=window is None,
            ),
        ),
    )
    assert model_text(report).splitlines()[-1].strip() == last
