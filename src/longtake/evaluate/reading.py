"""How answers are read: the rules of the originals' scorers, their quirks included.

Each takes the answer's text and the question's options and gives a letter, or text that is no
letter where the original would compare that; empty where nothing can be read. Where an original
then guesses at random, nothing is read here: the answer counts as wrong, and the same each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from longtake.evaluate.prompts import letter_of

Reader = Callable[[str, Sequence[str]], str]

LEADS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
"""Taken out before a letter is looked for. The last two are as released: a comma was forgotten
between two phrases, so that neither is ever found alone."""
PUNCTUATION = ';/[]"{}()=+\\_->@`,?!<'
DIGIT_COMMA = re.compile(r"\d,\d")
LOOSE_DOT = re.compile(r"(?!<=\d)\.(?!\d)")
DOT_LETTER = re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE)
ALONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)


def first_letter(text: str, options: Sequence[str]) -> str:
    """The first of A to D anywhere, after the usual phrases (Video-MME)."""
    words = text.strip()
    for lead in LEADS:
        words = words.replace(lead, "")
    found = re.search(r"[ABCD]", words)
    return found[0] if found else ""


def any_letter(text: str, options: Sequence[str]) -> str:
    """The first lone A to E in either case, after punctuation (VideoChat-Flash)."""
    words = text.strip()
    marked = DOT_LETTER.match(words)
    if marked:
        return marked[1].upper()
    words = words.replace("\n", " ").replace("\t", " ").strip()
    words = _without_punctuation(words).strip("'").strip('"').strip(")").strip("(").strip().lower()
    found = ALONE.search(words)
    return found[1].upper() if found else words


def _without_punctuation(text: str) -> str:
    cleaned, numbered = text, DIGIT_COMMA.search(text) is not None
    for mark in PUNCTUATION:
        beside_a_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_a_blank or numbered else " ")
    # the original hands re.UNICODE over as the number of dots to take away
    return LOOSE_DOT.sub("", cleaned, count=int(re.UNICODE))


def before_bracket(text: str, options: Sequence[str]) -> str:
    """The letter before the first closing bracket, or the whole answer (MLVU)."""
    words = text.strip()
    if ")" not in words:
        return words
    place = words.index(")")
    return words[place - 1 : place] if place else ""


def in_brackets(text: str, options: Sequence[str]) -> str:
    """The first letter within brackets, or of the answer (LVBench)."""
    words = text.strip().split(")")[0].strip()
    if "(" in words:
        words = words.split("(")[1].strip()
    return words.split(" ")[0][:1]


def before_dot(text: str, options: Sequence[str]) -> str:
    """A if there is an A before the first dot, else B, C, D (VNBench)."""
    words = text.split(".")[0]
    return next((letter for letter in "ABCD" if letter in words), "")


def brackets_then_dot(text: str, options: Sequence[str]) -> str:
    """`before_dot` of what stands in the first brackets, or of all (Video-XL on VNBench)."""
    found = re.findall(r"\((.*?)\)", text.strip())
    return before_dot(found[0] if found else text.strip(), options)


def last_letter(text: str, options: Sequence[str]) -> str:
    """The letter named last, as (A), else A, else A.; else the option quoted last (LongVideoBench).

    A long answer (more than five words) may quote an option instead of naming its letter.
    """
    words = text
    for mark in ",.!?;:'":
        words = words.strip(mark)
    words = f" {words} "
    letters = [letter_of(place) for place in range(len(options))]
    named, form = [letter for letter in letters if f"({letter})" in words], "({})"
    for found_by in ("{} ", "{}."):
        if not named:  # whichever finds it, the original then looks where it stands alone
            named, form = [let for let in letters if found_by.format(let) in words], " {} "
    if not named and len(words.split()) > 5:
        texts = dict(zip(letters, (option.lower() for option in options), strict=True))
        quoted = [letter for letter in letters if texts[letter] in words.lower()]
        return _latest(quoted, [words.lower().rfind(texts[letter]) for letter in quoted])
    return _latest(named, [words.rfind(form.format(letter)) for letter in named])


def _latest(letters: Sequence[str], places: Sequence[int]) -> str:
    """The letter at the last place, the first of several there; empty for none."""
    return letters[places.index(max(places))] if letters else ""


READERS: Mapping[str, Reader] = {
    "first-letter": first_letter,
    "any-letter": any_letter,
    "before-bracket": before_bracket,
    "in-brackets": in_brackets,
    "before-dot": before_dot,
    "brackets-then-dot": brackets_then_dot,
    "last-letter": last_letter,
}
