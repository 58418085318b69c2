"""Charades-STA: find the moment a sentence tells of (arXiv 1705.02101), asked of a language model.

Read as published (`charades_sta_test.txt`, "NAME START END##SENTENCE") and as VideoChat-Flash's
authors list it; answers are read as their script reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from longtake.evaluate.annotations import Row
from longtake.evaluate.intervals import wilson
from longtake.evaluate.prompts import Style
from longtake.evaluate.tasks import ALL, Example, Figure, Scored, stem_of

LINE = re.compile(r"(\S+) +([\d.]+) +([\d.]+) *## *(.+)")
SAMPLE = "a specific example is : 20.8 - 30.0 seconds"
"""Said by some models after their prompt, and taken out before a time is looked for."""
WORDS = ("start", "end", "happen")
"""A sentence with one of these may name a time."""
RANGE = re.compile(r"(\d+\.*\d*)\s*-\s*(\d+\.*\d*)")
NUMBER = re.compile(r"\b(\d+\.\d+\b|\b\d+)\b")
CLOCK = re.compile(r"\b(\d{1,2}:\d{2}:\d{2})\b")
RECALLS = (0.3, 0.5, 0.7)
MEAN = "mIoU"


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """Sentences, each with the moment it tells of."""

    name: str
    title: str
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        """One of them."""
        return self.examples[index]

    def prompt(self, example: Example, style: Style, subtitles: str) -> str:
        """What the model is asked after the video."""
        return style.prompt(example.question, (), subtitles)

    def score(self, example: Example, text: str, style: Style) -> Scored:
        """Overlap of the moment named and the true one, and whether it reaches each threshold."""
        span = read_span(text)
        assert example.span is not None
        overlap = 0.0 if span is None else iou(example.span, span)
        points = {recall(least): float(overlap >= least) for least in RECALLS}
        read = "" if span is None else f"{span[0]:g} - {span[1]:g}"
        return Scored(example=example, read=read, points={**points, MEAN: overlap})

    def figures(self, scored: Sequence[Scored]) -> tuple[Figure, ...]:
        """Mean overlap, then the share of answers at each threshold."""
        if not scored:
            return ()
        count = len(scored)
        mean = 100 * sum(one.points[MEAN] for one in scored) / count
        told = [Figure(axis="", value=ALL, metric=MEAN, score=mean, asked=count)]
        for least in RECALLS:
            right = round(sum(one.points[recall(least)] for one in scored))
            low, high = (100 * end for end in wilson(right, count))
            score = 100 * right / count
            told.append(
                Figure(
                    axis="",
                    value=ALL,
                    metric=recall(least),
                    score=score,
                    asked=count,
                    low=low,
                    high=high,
                )
            )
        return tuple(told)


def recall(least: float) -> str:
    """Name of the share of answers that overlap so much."""
    return f"R1@{least:g}"


def open_task(rows: Sequence[Row]) -> Grounding:
    """The task of `charades_sta_test.txt` or of a json list."""
    examples = tuple(example(row, number) for number, row in enumerate(rows))
    return Grounding(name="charades-sta", title="Charades-STA", examples=examples)


def example(row: Row, number: int) -> Example:
    """One sentence. Raises AnnotationError."""
    if row.has("line"):
        line = LINE.fullmatch(row.text("line").strip())
        if line is None:
            raise row.wrong("expected NAME START END##SENTENCE")
        video, sentence, start, end = f"{line[1]}.mp4", line[4], float(line[2]), float(line[3])
    else:
        video, sentence = row.text("video"), row.text("caption")
        start, end = row.numbers("timestamp", 2)
    if not 0 <= start <= end or end == 0:
        raise row.wrong(f"the moment from {start:g} to {end:g} s is none")
    return Example(
        key=f"{stem_of(video)}-{number}",
        video=video,
        question=sentence,
        span=(start, end),
        places=("Charades_v1_480", "Charades_v1"),
    )


def read_span(text: str) -> tuple[float, float] | None:
    """The first moment an answer names, in seconds, start first; None if it names none.

    "12 - 15" (any "to" counts as a dash), else the first number of each sentence that speaks of a
    start or an end, else the first hh:mm:ss of each.
    """
    words = text.lower().replace(SAMPLE, "").replace("to", "-")
    found = RANGE.search(words)
    if found:
        times = [_number(found[1]), _number(found[2])]
    else:
        sentences = [one for one in re.split(r"[!?\n]", words) if any(w in one for w in WORDS)]
        numbers = [match[0] for one in sentences if (match := NUMBER.search(one))]
        clocks = [match[1] for one in sentences if (match := CLOCK.search(one))]
        times = [float(number) for number in numbers]
        if len(times) < 2:
            times = [_clock(clock) for clock in clocks]
    if len(times) < 2 or None in times:
        return None
    start, end = sorted(time for time in times[:2] if time is not None)
    return start, end


def _number(text: str) -> float | None:
    """A number; None for one with several dots, on which the original's script stops."""
    return float(text) if text.count(".") <= 1 else None


def _clock(text: str) -> float:
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 3600.0 + minutes * 60 + seconds


def iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Seconds in both over seconds from the first start to the last end."""
    both = min(one[1], other[1]) - max(one[0], other[0])
    whole = max(one[1], other[1]) - min(one[0], other[0])
    return max(both, 0.0) / whole if whole > 0 else 0.0
