"""Moments are read from answers as VideoChat-Flash's script reads them, and overlap is measured."""

from __future__ import annotations

import pytest

from longtake.errors import AnnotationError
from longtake.evaluate.annotations import Row
from longtake.evaluate.charades import example, iou, open_task, read_span
from longtake.evaluate.prompts import STYLES

STYLE = STYLES["charades-sta"]["videochat-flash"]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The event happens in the 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("From 5 to 2.5 seconds", (2.5, 5.0)),
        ("1 - 2, or 8 - 9", (1.0, 2.0)),
        ("It starts at 3 seconds\nIt ends at 7.5 seconds", (3.0, 7.5)),
        ("It starts at 3 seconds", None),
        ("The event starts at 00:00:18\nand ends at 00:01:23", (0.0, 0.0)),
        ("no idea", None),
        ("It begins at 3\nuntil 9", None),
        ("A specific example is : 20.8 - 30.0 seconds", None),
        ("at 1.2.3 - 4", (2.3, 4.0)),
        ("", None),
    ],
)
def test_the_first_moment_named_is_taken(text: str, span: tuple[float, float] | None) -> None:
    assert read_span(text) == span


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((0.0, 10.0), (0.0, 10.0), 1.0),
        ((0.0, 10.0), (5.0, 15.0), 1 / 3),
        ((0.0, 1.0), (2.0, 3.0), 0.0),
        ((2.0, 2.0), (2.0, 2.0), 0.0),
    ],
)
def test_overlap(one: tuple[float, float], other: tuple[float, float], share: float) -> None:
    assert iou(one, other) == pytest.approx(share)
    assert iou(other, one) == pytest.approx(share)


def row(line: str) -> Row:
    return Row(values={"line": line}, file="test", where="test: row 1")


def test_figures_are_shares_at_each_threshold_and_the_mean() -> None:
    task = open_task([row(f"V{n} 0.0 10.0##Something.") for n in range(4)])
    said = ("0 - 10", "0 - 6", "0 - 3.5", "nothing")  # overlaps 1, 0.6, 0.35 and none
    scored = [task.score(task.example(n), text, STYLE) for n, text in enumerate(said)]
    figures = {figure.metric: figure.score for figure in task.figures(scored)}
    assert figures == pytest.approx({"mIoU": 48.75, "R1@0.3": 75.0, "R1@0.5": 50.0, "R1@0.7": 25.0})
    assert scored[-1].read == ""


@pytest.mark.parametrize("line", ["V1 5.0 2.0##Backwards.", "V1 5.0##No end.", "a sentence"])
def test_a_line_that_tells_no_moment_is_refused(line: str) -> None:
    with pytest.raises(AnnotationError, match="test: row 1"):
        example(row(line), 0)
