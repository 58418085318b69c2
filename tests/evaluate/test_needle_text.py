"""Numbers in text: prompts like a slow twin's, resumed draws, a model that reads them."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import tiny

from longtake.errors import OptionError
from longtake.evaluate.annotations import read_texts
from longtake.evaluate.needle_report import main_table
from longtake.evaluate.needle_rules import CLEAN, LONGVA, depths_of
from longtake.evaluate.needle_text import Book, TextTrial, run_text, sentence_ends
from longtake.evaluate.results import Results

BOOK = "The cat sat on the mat. It was warm! Who knows why? Nobody said a word. "


def trial(**changes: object) -> TextTrial:
    depths = tuple(depths_of(CLEAN, [0, 50, 100]))
    made = TextTrial(rule=CLEAN, lengths=(30, 50), depths=depths, numbers=2, distractors=2, seed=3)
    return replace(made, **changes)


def made(trial: TextTrial, path: Path) -> list[dict]:
    system = tiny()
    with ExitStack() as stack:
        results = stack.enter_context(Results(path, trial.header(system, "tiny", [])))
        run_text(system, BOOK, trial, results, lambda *told: None)
        return list(results.rows.values())


def test_a_grid_and_what_it_says(tmp_path: Path) -> None:
    rows = made(trial(), tmp_path / "r.jsonl")
    assert [row["key"] for row in rows] == [f"{n}/{d}" for n in (30, 50) for d in (0.0, 0.5, 1.0)]
    assert all(row["asked"] == 2 and "error" not in row for row in rows)
    assert len({one["wanted"] for row in rows for one in row["answers"]}) == 2
    table = main_table({"what": "needle text"}, rows, "forced")
    assert [line[0] for line in table] == ["depth", "0 %", "50 %", "100 %", "all"]


def test_one_cell_alone_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    """What is shared of two prompts is read once; that changes nothing either."""
    whole = tmp_path / "whole.jsonl"
    made(trial(), whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(lines[:4]))
    made(trial(), part)
    assert part.read_bytes() == whole.read_bytes()


def test_places_are_behind_the_next_end_of_a_sentence() -> None:
    book = Book(text=[1, 9, 2, 3, 9, 4], prefix=[7], question=[8], distractors=[[50]], periods={9})
    assert book.prompt(6, 0.0, [60], [0]) == [7, 60, 1, 9, 50, 2, 3, 9, 4, 8]
    assert book.prompt(6, 0.5, [60], [5]) == [7, 1, 9, 2, 3, 9, 60, 50, 4, 8]
    assert book.prompt(6, 1.0, [60], [4]) == [7, 1, 9, 2, 3, 9, 50, 4, 60, 8]
    assert book.prompt(2, 0.5, [60], [1]) == [7, 1, 9, 60, 50, 8]
    drawn = book.draws(np.random.RandomState(1), 4)
    assert len(drawn) == 1 and 0 <= drawn[0] < 4


def test_sentences_end_where_the_models_own_tokens_say() -> None:
    system = tiny()
    ids = system.tokens(BOOK)
    ends = sentence_ends(system, ids)
    assert {system.text([i]).strip()[-1] for i in ends} <= {".", "!", "?"}
    assert sum(i in ends for i in ids) == 4


def test_a_written_answer_is_as_long_as_it_may_be(tmp_path: Path) -> None:
    """As many tokens as are asked for; unless said otherwise, four more than the number's."""
    said = {}
    for most in (1, 3, None):
        rows = made(trial(score="generated", answer_tokens=most), tmp_path / f"{most}.jsonl")
        said[most] = [one["said"] for row in rows for one in row["answers"]]
    for short, longer, longest in zip(*said.values(), strict=True):
        assert longest.startswith(longer) and longer.startswith(short)
    assert said[1] != said[3] != said[None]


def test_what_cannot_be_measured() -> None:
    with pytest.raises(OptionError, match="numbers must be 1 or more"):
        trial(numbers=0)
    with pytest.raises(OptionError, match="2\\^32"):
        trial(seed=2**32)


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, said in (("empty.txt", "are empty"), ("bytes.txt", "no text"), ("x", "no text")):
        with pytest.raises(OptionError, match=said):
            read_texts([str(tmp_path / name)])
    (tmp_path / "a.txt").write_text("A.")
    (tmp_path / "b.txt").write_text("B.")
    assert read_texts([str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]) == "B.A."


def test_the_originals_rule_takes_llamas_periods_and_the_whole_head(tmp_path: Path) -> None:
    rows = made(trial(rule=LONGVA, score="forced"), tmp_path / "r.jsonl")
    assert [row["depth"] for row in rows][:3] == [0.0, 50.0, 100.0]
    header = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["header"]
    assert header["rule"] == "longva"
