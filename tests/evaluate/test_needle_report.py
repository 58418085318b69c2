"""Tables of needles: what is an average of what, and which rates have an interval."""

from typing import Any

import pytest

from longtake.evaluate.intervals import percent
from longtake.evaluate.needle_report import main_table, mean_score, report
from longtake.evaluate.needle_scores import chain_summary, single_summary

HEADER = {"what": "needle single", "rule": "clean"}


def cell(frames: int, share: float, marks: str) -> dict[str, Any]:
    """A row with an answer per mark, or one that failed for none."""
    told = {"key": f"{frames}/{share}", "frames": frames, "depth": 100 * share, "share": share}
    if not marks:
        return {**told, "error": "out of memory"}
    answers = [{"about": "answer", "generated": mark == "+"} for mark in marks]
    return {**told, "asked": len(answers), **single_summary(answers), "answers": answers}


ROWS = [cell(8, 0, "++++"), cell(8, 0.5, "+---"), cell(8, 1, ""), cell(64, 0, ""), cell(64, 1, "")]


@pytest.mark.parametrize(
    ("fresh", "all_of_eight"),
    [(True, f"{percent(5, 8)}, 2 of 3 cells"), (False, "62.5, 2 of 3 cells")],
)
def test_the_same_needles_at_each_depth_have_no_common_interval(
    fresh: bool, all_of_eight: str
) -> None:
    header = {**HEADER, "fresh": fresh}
    assert main_table(header, ROWS, "generated") == [
        ["depth", "8 frames", "64 frames"],
        ["0 %", percent(4, 4), "failed"],
        ["50 %", percent(1, 4), ""],
        ["100 %", "failed", "failed"],
        ["all", all_of_eight, "-, 0 of 2 cells"],
    ]
    text = report(header, ROWS)
    assert mean_score(ROWS, "generated") == 0.625
    assert "62.5 on average over 2 of 5 cells" in text
    assert "3 cells failed and are in no average" in text
    assert ("together they have no interval" in text) is not fresh
    assert main_table(header, ROWS[:2], "generated")[-1] == ["all", all_of_eight.split(", ")[0]]


def test_chains_stand_by_length() -> None:
    """A length that failed and was made again is the last of the file."""
    answers = [{"about": name, "generated": True} for name in ("caption", "answer")]
    rows = [{"key": str(n), "frames": n, **chain_summary(answers)} for n in (256, 64, 1024)]
    table = main_table({"what": "needle multihop"}, rows, "generated")
    assert [line[0] for line in table] == ["frames", "64", "256", "1024"]
