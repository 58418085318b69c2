"""Subtitles are read from both layouts, and those of the sampled frames are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.errors import AnnotationError
from longtake.evaluate.subtitles import (
    Cue,
    all_of,
    clock,
    even_times,
    read_cues,
    shown_around,
    shown_at,
)

SRT = """1
00:00:01,000 --> 00:00:02,500
<font color="white" size=".72c">First</font>
<font color="white" size=".72c">line.</font>

2
00:01:00,000 --> 00:01:03,000
<i>Plain</i> words.

not a subtitle
"""


def test_srt(tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    for text in (SRT, SRT.replace("\n", "\r\n")):
        file.write_bytes(text.encode())
        cues = read_cues(file)
        assert cues == (
            Cue(start=1.0, end=2.5, text="First line."),
            Cue(start=60.0, end=63.0, text="Plain words."),
        )
    assert shown_at(cues, [2.4]) == "First line."
    assert shown_at(cues, [2.5, 59.9]) == ""
    assert shown_at(cues, [61.0, 1.0, 1.5]) == "First line.\nPlain words."
    assert all_of(cues) == "First line.\nPlain words."


def test_json_of_both_kinds_and_an_open_end(tmp_path: Path) -> None:
    file = tmp_path / "a_en.json"
    entries = [
        {"timestamp": [10.0, 12.0], "text": "One."},
        {"start": "00:00:20.500", "end": "00:00:21.000", "line": "Two."},
        {"timestamp": [30.0, None], "text": "Three."},
    ]
    file.write_text(json.dumps(entries))
    assert read_cues(file, duration=40.0, offset=10.0) == (
        Cue(start=0.0, end=2.0, text="One."),
        Cue(start=10.5, end=11.0, text="Two."),
        Cue(start=20.0, end=30.0, text="Three."),
    )
    file.write_text('{"a": 1}')
    with pytest.raises(AnnotationError, match="no list of subtitles"):
        read_cues(file)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"timestamp": 3}, "'timestamp' must hold a start and an end"),
        ({"timestamp": [None, None]}, "'0' is missing, expected a number"),
        ({"timestamp": ["a", "b"]}, "'0' is 'a', expected a number"),
        ({"timestamp": [1.0, "b"]}, "'1' is 'b', expected a number"),
        ({"start": "00:12.5", "end": "00:00:14.0"}, "'start' is '00:12.5', expected hours"),
        ({"start": "00:00:12.5", "end": "::"}, "'end' is '::', expected hours"),
        ({"start": "00:00:12.5"}, "there is no 'end'"),
    ],
)
def test_times_that_are_none_are_said_in_one_line(entry: dict, told: str, tmp_path: Path) -> None:
    file = tmp_path / "a_en.json"
    file.write_text(json.dumps([{"timestamp": [0.0, 1.0]}, entry]))
    with pytest.raises(AnnotationError, match=f"a_en.json: subtitle 2.*{told}"):
        read_cues(file, duration=40.0)


def test_short_subtitles_reach_half_a_second_to_both_sides() -> None:
    cues = (
        Cue(start=10.0, end=10.2, text="short"),
        Cue(start=20.0, end=23.0, text="long"),
    )
    assert shown_around(cues, [10.5]) == "short"
    assert shown_around(cues, [10.7, 23.1]) == ""
    assert shown_around(cues, [22.9, 9.7]) == "short\nlong"


def test_times_of_frames() -> None:
    assert even_times(3.9, 10) == [0.0, 1.0, 2.0]
    assert even_times(100.0, 4) == [0.0, 25.0, 50.0, 75.0]


def test_clock() -> None:
    assert clock("01:02:03,500") == clock("1:2:3.5") == 3723.5
