"""Where a needle goes in its haystack, what the place is called, how an answer counts.

Each published benchmark has rules of its own, float artefacts included; "clean" is ours. A place is
given in units: what can stand alone in a haystack, a frame or a clip of frames seen together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from longtake.errors import OptionError
from longtake.video.sample import depth_label, haystack_depths, needle_index, uniform

Score = Literal["forced", "generated", "both"]
SCORES: tuple[Score, ...] = ("forced", "generated", "both")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One benchmark's rules."""

    name: str
    frames: Literal["even", "second", "linspace"]
    """Which frames: even over the videos, a shorter haystack taking some of the longest's; every
    second, a shorter one taking the first of them; even over the videos for each length anew."""
    added: bool
    """The needle is shown between two frames; otherwise instead of one."""
    square: bool
    """Pictures are padded to squares in the processor's mean colour, not cut or squashed."""
    repeat: int
    """Times a needle is shown in a row; a tower that sees clips gets at least one whole clip."""
    single: bool
    """Clips are cut into their frames' equal shares, so that a needle may split one."""
    own_words: bool
    """The system's own words stand between the video and the question; otherwise nothing does."""
    opening: str
    """What the answer is made to begin with."""
    question: str = "{question}"
    """What stands around each question."""
    whole_head: bool
    """Teacher-forced answers compete with the head's untrained rows, too."""
    score: Score
    """How an answer counts unless told otherwise."""
    match: Literal["ids", "letters", "option", "words"]
    """Equal ids; equal text but for case and parentheses; the wanted text before the first closing
    parenthesis; the wanted words within what was said."""
    doubled_above: int | None = None
    """A haystack of more frames is half of them, twice."""

    def asked(self, question: str) -> str:
        """A question as it is asked."""
        return self.question.format(question=question)

    @property
    def headline(self) -> Literal["forced", "generated"]:
        """Which of the two ways a picture shows where both are taken."""
        return "forced" if self.score == "forced" else "generated"


CLEAN = Rule(
    name="clean",
    frames="even",
    added=False,
    square=False,
    repeat=1,
    single=False,
    own_words=True,
    opening="",
    whole_head=False,
    score="both",
    match="words",
)
LONGVA = Rule(
    name="longva",
    frames="second",
    added=True,
    square=True,
    repeat=1,
    single=True,
    own_words=False,
    opening="",
    whole_head=True,
    score="forced",
    match="ids",
)
"""V-NIAH (arXiv 2406.16852, section 5.1)."""
VIDEOCHAT_FLASH = Rule(
    name="videochat-flash",
    frames="second",
    added=True,
    square=True,
    repeat=4,
    single=True,
    own_words=False,
    opening="",
    whole_head=True,
    score="forced",
    match="letters",
    doubled_above=7500,
)
"""Single and multi-hop needles of arXiv 2501.00574."""
VIDEO_XL = Rule(
    name="video-xl",
    frames="linspace",
    added=True,
    square=False,
    repeat=1,
    single=True,
    own_words=False,
    opening="Best option:(",
    question="Question: {question}\nAnswer: ",
    whole_head=False,
    score="generated",
    match="option",
)
"""Needles of arXiv 2409.14485."""

RULES = {rule.name: rule for rule in (CLEAN, LONGVA, VIDEOCHAT_FLASH, VIDEO_XL)}


def rule_named(name: str) -> Rule:
    """One of RULES. Raises OptionError."""
    if name not in RULES:
        raise OptionError(f"rule {name!r} is unknown; choose {', '.join(RULES)}")
    return RULES[name]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How deep a needle lies."""

    share: float
    """Of the haystack that is before it."""
    label: float
    """Per cent, as the heat map calls it."""


def depths_of(rule: Rule, percents: Sequence[float]) -> list[Depth]:
    """Depths asked for in per cent, under the rule's arithmetic and labels.

    Raises OptionError for one below 0, or above 100 where the rule knows no such place.
    """
    for percent in percents:
        if not (0.0 <= percent <= 100.0):
            raise OptionError(f"a depth must be 0 to 100 per cent, got {percent:g}")
    if rule.name == VIDEO_XL.name:
        return [Depth(share=percent * 0.01, label=percent) for percent in percents]
    shares = [percent / 100 for percent in percents]
    return [Depth(share=share, label=label_of(rule, share)) for share in shares]


def depths_by(rule: Rule, interval: float) -> list[Depth]:
    """Depths 0, interval, 2 * interval, ... as V-NIAH's loop counts them, float artefacts included.

    The last may lie above 1: it is then behind further frames of the haystack. A rule that replaces
    frames has no such place, so that these are left out there. Raises OptionError.
    """
    shares = [share for share in haystack_depths(interval) if rule.added or share <= 1.0]
    return [Depth(share=share, label=label_of(rule, share)) for share in shares]


def label_of(rule: Rule, share: float) -> float:
    """V-NIAH rounds to tens, half to even; else it is the depth itself."""
    return depth_label(share) if rule.frames == "second" else round(share * 100, 6)


def parted(rule: Rule, rows: Sequence[int], depth: Depth, further: int) -> tuple[list[int], ...]:
    """Rows of the haystack before and after the needle.

    `rows`: those of this length; `further`: how many rows there are in all, which a depth above 1
    reaches into where lengths are the first of these rows.
    """
    if not rule.added:
        at = round(depth.share * (len(rows) - 1))
        return list(rows[:at]), list(rows[at + 1 :])
    at = needle_index(depth.share, len(rows))
    if rule.frames == "second":
        return list(range(further))[:at], list(range(further))[at : len(rows)]
    return list(rows[:at]), list(rows[at:])


def spread(rule: Rule, rows: Sequence[int], needles: int) -> list[list[int]]:
    """Rows around the needles of a chain: `needles + 1` groups, the first before all of them.

    VideoChat-Flash: the first needle begins the video and the last ends it, the rest evenly
    between. A rule that replaces frames puts them at the same places, instead of a frame each.
    Raises OptionError if there is no room for them.
    """
    if needles < 2:
        raise OptionError(f"a chain needs 2 needles or more, got {needles}")
    if rule.added:
        step = len(rows) / (needles - 1)
        cuts = [int(n * step) for n in range(needles)]
        between = [list(rows[a:b]) for a, b in pairwise(cuts)]
        return [[], *between, []]
    if len(rows) < needles:
        raise OptionError(f"{needles} needles do not fit {len(rows)} places; use more frames")
    places = uniform(len(rows), needles)
    edges = [-1, *places, len(rows)]
    return [list(rows[a + 1 : b]) for a, b in pairwise(edges)]


def parse_counts(said: str, what: str = "frames") -> list[int]:
    """Numbers as users write them: "64,256,1024", or "200-3000:200". Raises OptionError."""
    counts: list[int] = []
    for part in said.split(","):
        match = re.fullmatch(r"\s*(\d{1,7})\s*(?:-\s*(\d{1,7})\s*:\s*(\d{1,7})\s*)?", part, re.A)
        if match is None:
            raise OptionError(
                f"{what} must be numbers such as 64,256,1024 or 200-3000:200, got {said!r:.60}"
            )
        first, last, step = (None if group is None else int(group) for group in match.groups())
        if last is None or step is None:
            counts.append(first or 0)
        elif step < 1 or last < (first or 0):
            raise OptionError(f"{what} {part.strip()} names no number; use FIRST-LAST:STEP")
        else:
            counts += range(first or 0, last + 1, step)
    if min(counts) < 1 or len(counts) > 1000:
        raise OptionError(f"{what} must be 1 or more, at most 1000 of them, got {said!r:.60}")
    return sorted(set(counts))


def last_of(said: str) -> int:
    """The largest number named: V-NIAH sees so many frames even if its steps stop before."""
    return max(int(number) for part in said.split(",") for number in part.split(":")[0].split("-"))


def parse_percents(said: str) -> list[float]:
    """Depths as users write them: "0,25,50,75,100". Raises OptionError."""
    parts = said.split(",")
    try:
        percents = [float(part) for part in parts]
    except ValueError as error:
        raise OptionError(
            f"depths must be per cent such as 0,25,50,75,100, got {said!r:.60}"
        ) from error
    if not all(map(math.isfinite, percents)) or len(percents) > 1000:
        raise OptionError(f"depths must be per cent such as 0,25,50,75,100, got {said!r:.60}")
    return sorted(set(percents))


def matches(rule: Rule, said: str, wanted: str) -> bool:
    """Whether a text that was written freely counts as right."""
    if rule.match == "option":
        return wanted in said.split(")")[0]
    if rule.match == "letters":
        return bare(said) == wanted.lower()
    if rule.match == "ids":
        return said.strip() == wanted.strip()
    heard, looked_for = words_of(said), words_of(wanted)
    if len(looked_for) == 1 and re.fullmatch("[a-z]", looked_for[0]):
        return heard[:1] == looked_for  # an option's letter: "a" is a word of many sentences
    places = range(len(heard) - len(looked_for) + 1)
    return bool(looked_for) and any(heard[n : n + len(looked_for)] == looked_for for n in places)


def bare(text: str) -> str:
    """In lower case, without parentheses."""
    return text.lower().replace("(", "").replace(")", "")


def words_of(text: str) -> list[str]:
    """Words and numbers, in lower case."""
    return re.findall(r"\w+", text.lower())
