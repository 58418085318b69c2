"""Answers are read as the originals' scorers read them; every row was run through the original."""

from __future__ import annotations

import pytest

from longtake.evaluate.reading import READERS

OPTIONS = ("A cat sits", "two dogs", "a man, B", "Zebra")
TABLE = [
    ("first-letter", "The best answer is B.", "B"),
    ("first-letter", "Answer: C", "A"),
    ("first-letter", "I think it is d", ""),
    ("first-letter", "(D) Zebra", "D"),
    ("any-letter", "b. two dogs", "B"),
    ("any-letter", "The answer is (C)", "C"),
    ("any-letter", "a dog, or E", "A"),
    ("any-letter", "E", "E"),
    ("any-letter", "[D]", "D"),
    ("any-letter", "Zebra", "zebra"),
    ("any-letter", "It costs 1,000. B?", "B"),
    ("before-bracket", "(B) two dogs", "B"),
    ("before-bracket", "B", "B"),
    ("before-bracket", "B.", "B."),
    ("before-bracket", ")", ""),
    ("in-brackets", "(C) a man", "C"),
    ("in-brackets", "It is (B", "B"),
    ("in-brackets", "D. Zebra", "D"),
    ("in-brackets", "", ""),
    ("before-dot", "D", "D"),
    ("before-dot", "C. A cat", "C"),
    ("before-dot", "Bad idea: C", "B"),
    ("before-dot", "none", ""),
    ("brackets-then-dot", "The answer is (D) Zebra", "D"),
    ("brackets-then-dot", "D", "D"),
    ("last-letter", "(A) or (C)", "C"),
    ("last-letter", "B and then C I say", "C"),
    ("last-letter", "(A) or (B)? (A) it is", "A"),
    ("last-letter", "A.", "A"),
    ("last-letter", "I would say that it shows two dogs of course", "B"),
    ("last-letter", "dogs", ""),
]


@pytest.mark.parametrize(("reader", "text", "letter"), TABLE)
def test_answers_are_read_as_the_original_reads_them(reader: str, text: str, letter: str) -> None:
    assert READERS[reader](text, OPTIONS) == letter


def test_every_reader_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == set(READERS)
