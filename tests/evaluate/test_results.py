"""Results on disk: resumed after any cut, refused under another header, never half a row."""

from pathlib import Path

import pytest

from longtake.errors import StoreError
from longtake.evaluate.results import Results

HEADER = {"version": "1", "seed": 7, "frames": (4, 8)}
ROWS = [{"key": f"{n}", "right": n, "note": "caf\u00e9"} for n in range(4)]


def written(path: Path) -> bytes:
    with Results(path, HEADER) as results:
        for row in ROWS:
            if row["key"] not in results.done():
                results.add(row)
    return path.read_bytes()


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.jsonl")
    assert whole.count(b"\n") == 1 + len(ROWS)
    for cut in {*range(0, len(whole), 7), *range(len(whole) - 20, len(whole) + 1)}:
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        assert written(path) == whole, cut


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl")
    with Results(tmp_path / "a.jsonl", HEADER) as results:
        assert list(results.rows.values()) == ROWS
        assert results.done() == {"0", "1", "2", "3"}


def test_another_header_is_refused_and_named(tmp_path: Path) -> None:
    before = written(tmp_path / "a.jsonl")
    with pytest.raises(StoreError, match=r"seed was 7, now 8") as told:
        Results(tmp_path / "a.jsonl", HEADER | {"seed": 8})
    assert "\n" not in str(told.value)
    with pytest.raises(StoreError, match=r"model was missing, now"):
        Results(tmp_path / "a.jsonl", HEADER | {"model": "m"})
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_runs_of_earlier_versions_go_on(tmp_path: Path) -> None:
    """Their headers said neither where subtitles stand nor how many weights there are."""
    old = {**HEADER, "subtitles": True, "prompts": {"ask": "?"}}
    new = {**old, "prompts": {"ask": "?", "place": "behind"}, "subtitle_place": "behind"}
    path = tmp_path / "a.jsonl"
    with Results(path, old) as results:
        results.add(ROWS[0])
    with Results(path, new | {"parameters": 5}) as results:
        assert list(results.rows.values()) == ROWS[:1]
    between = {**new, "prompts": {"ask": "?", "place": "between"}, "subtitle_place": "between"}
    with pytest.raises(StoreError, match="prompts was"):
        Results(path, between)


def test_a_run_that_stopped_before_its_first_row_blocks_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Results(path, HEADER):
        pass
    with Results(path, HEADER | {"seed": 8}) as results:
        results.add(ROWS[0])
    with Results(path, HEADER | {"seed": 8}) as results:
        assert list(results.rows.values()) == ROWS[:1]
    with pytest.raises(StoreError, match=r"seed was 8, now 7"):
        Results(path, HEADER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my diary\n", "line 1 is no result"),
        ('{"a": 1}\n', "no results of ours"),
        ("[1]\n", "line 1 is no result"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "other.txt"
    path.write_text(text)
    with pytest.raises(StoreError, match=said):
        Results(path, HEADER)
    assert path.read_text() == text


def test_a_broken_row_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\n", *lines[2:]]))
    with pytest.raises(StoreError, match="line 3 is no result"):
        Results(path, HEADER)


def test_failed_rows_stay_unless_they_are_to_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Results(path, HEADER) as results:
        results.add({"key": "bad", "error": "no memory"})
        results.add({"key": "good", "right": 1})
    with Results(path, HEADER) as results:
        assert results.done() == {"bad", "good"}
    with Results(path, HEADER, retry=True) as results:
        assert results.done() == {"good"}
        results.add({"key": "bad", "right": 2})
    with Results(path, HEADER) as results:
        assert results.rows["bad"] == {"key": "bad", "right": 2}


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with (
        Results(tmp_path / "a.jsonl", HEADER),
        pytest.raises(StoreError, match="written by another run"),
    ):
        Results(tmp_path / "a.jsonl", HEADER)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Results(tmp_path / "file" / "a.jsonl", HEADER)
