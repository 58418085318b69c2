"""Options that stand within a question's text."""

from __future__ import annotations

import re

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
