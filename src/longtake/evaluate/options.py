"""Options that stand within a question's text."""

from __future__ import annotations

import re

from longtake.evaluate.annotations import Row
from longtake.evaluate.prompts import letter_of

LINE = re.compile(r"\n\s*\(([A-H])\)\s*")


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and its options, from "What?\\n(A) One\\n(B) Two".

    A question without such lines comes back whole, without options.
    """
    pieces = LINE.split(text)
    letters, options = pieces[1::2], pieces[2::2]
    if letters != [chr(ord("A") + place) for place in range(len(letters))]:
        return text, ()
    return pieces[0].rstrip() if letters else text, tuple(option.strip() for option in options)


def options_within(row: Row) -> tuple[str, tuple[str, ...], str]:
    """A row's question, the options in it and the answer's letter.

    Raises AnnotationError for a row without options, or whose answer is the letter of none.
    """
    question, options = split_options(row.text("question"))
    if not options:
        raise row.wrong("'question' has no lines of options, (A) and so on, and no 'candidates'")
    answer = row.text("answer").strip()
    if answer not in [letter_of(place) for place in range(len(options))]:
        raise row.wrong(f"'answer' is {answer!r:.40}, no letter of its {len(options)} options")
    return question, options, answer
