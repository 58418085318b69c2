"""Numbers and tables as people read them."""

from pathlib import Path

import pytest

from longtake.costs import Comparison, compare, dropping_stages, whole_stages
from longtake.inspect import Cost, ModelReport, VideoReport
from longtake.parts.dropping import Schedule
from longtake.sizes import FLASH_7B_448, LONGVA_7B
from longtake.terminal import (
    clock,
    comparison_text,
    harmless,
    model_text,
    moment,
    say,
    size,
    table,
    video_text,
    work,
)
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
    ("flops", "told"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (1500, "1.50 kFLOP"),
        (9_996_000, "10.0 MFLOP"),
        (99_960_000_000, "100 GFLOP"),
        (999_600_000_000, "1.00 TFLOP"),
        (434_970_000_000_000_000, "435 PFLOP"),
        (4_349_700_000_000_000_000, "4,350 PFLOP"),
    ],
)
def test_work(flops: float, told: str) -> None:
    assert work(flops) == told


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
        comparison=comparison(),
    )
    told, below = model_text(report).split("\n\n", 2)[1:]
    assert told.splitlines()[-1].strip() == last
    assert below == comparison_text(comparison())


def comparison() -> Comparison:
    """VideoChat-Flash beside LongVA."""
    drop = Schedule(layers=(4, 18), ratios=(1, 0.75, 0.25))
    stages = dropping_stages(FLASH_7B_448, 511, drop)
    return compare(511, "flash", stages, "LongVA-7B", whole_stages(LONGVA_7B, 511))


def test_stages_stand_above_those_of_another() -> None:
    assert comparison_text(comparison()).splitlines() == [
        "511 frames",
        "",
        "flash           tokens per frame   tokens     memory     compute",
        "  tower                   785.53  401,408              352 TFLOP",
        "  merge                    16.03    8,192              913 GFLOP",
        "  projector                16.03    8,192              271 GFLOP",
        "  layers 0-3               16.03    8,192   64.0 MiB  17.2 TFLOP",
        "  layers 4-17              12.02    6,144  168.0 MiB  43.9 TFLOP",
        "  layers 18-27              4.01    2,048   40.0 MiB  9.85 TFLOP",
        "total                                      272.0 MiB   424 TFLOP",
        "",
        "LongVA-7B       tokens per frame   tokens     memory     compute",
        "  tower                      576  294,336              187 TFLOP",
        "  projector                  576  294,336             9.72 TFLOP",
        "  pool                       144   73,584             1.05 GFLOP",
        "  layers 0-27                144   73,584    3.9 GiB  2.05 PFLOP",
        "total                                        3.9 GiB  2.24 PFLOP",
        "",
        "LongVA-7B takes 5.30 times the compute, 28.9 times the language model's,",
        "and 14.8 times the memory",
    ]
