"""What a benchmark is: questions about videos, how each is scored, how scores are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Protocol

from longtake.evaluate.intervals import wilson
from longtake.evaluate.prompts import Style, letter_of
from longtake.evaluate.reading import READERS

ACCURACY = "accuracy"
ALL = "overall"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question of a benchmark."""

    key: str
    """Names it among the benchmark's."""
    video: str
    """The video's file, as the annotations name it."""
    question: str
    options: tuple[str, ...] = ()
    answer: str = ""
    """Letter of the right option; empty where the annotations hold none."""
    span: tuple[float, float] | None = None
    """The moment to find, in seconds."""
    groups: tuple[tuple[str, str], ...] = ()
    """(axis, value) pairs that scores are told by; an axis may occur more than once."""
    circle: str = ""
    """Examples with the same circle are one question, its options in other orders."""
    places: tuple[str, ...] = ()
    """Folders in which the published archive has the video."""
    start: float | None = None
    """Only this part of the video belongs to the question, in seconds."""
    end: float | None = None
    rate: int = 1
    """Frames a second of the video, where it is a folder of frames."""
    subtitles: str = ""
    """Its file of subtitles."""
    duration: float = 0.0
    """Seconds, where the annotations say."""
    offset: float = 0.0
    """Where the video begins in the time of its subtitles."""

    @property
    def unit(self) -> str:
        """What counts as one question."""
        return self.circle or self.key

    @property
    def stem(self) -> str:
        """The video's name without folders and ending."""
        return stem_of(self.video)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer and what it is worth."""

    example: Example
    read: str
    """What was read from the answer: a letter, a span; empty if nothing."""
    points: Mapping[str, float]
    """Of each metric, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a result."""

    axis: str
    """What it is told by; empty for all."""
    value: str
    """Which of them; "overall" for all."""
    metric: str
    score: float
    """0 to 100."""
    asked: int
    """Questions it is the mean of."""
    low: float | None = None
    """95 % interval, where it is a share of right answers."""
    high: float | None = None


class Task(Protocol):
    """A benchmark with its annotations."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def title(self) -> str:
        """As published."""

    def __len__(self) -> int:
        """Number of its examples."""

    def example(self, index: int) -> Example:
        """One of them."""

    def prompt(self, example: Example, style: Style, subtitles: str) -> str:
        """What the model is asked after the video."""

    def score(self, example: Example, text: str, style: Style) -> Scored:
        """What an answer is worth."""

    def figures(self, scored: Sequence[Scored]) -> tuple[Figure, ...]:
        """The published figures, the headline first; nothing for no answers."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Questions with lettered options."""

    name: str
    title: str
    examples: tuple[Example, ...]
    average: str = ""
    """Axis whose values count alike in the headline; empty: every question does."""

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        """One of them."""
        return self.examples[index]

    def prompt(self, example: Example, style: Style, subtitles: str) -> str:
        """What the model is asked after the video."""
        return style.prompt(example.question, example.options, subtitles)

    def score(self, example: Example, text: str, style: Style) -> Scored:
        """1 for the right letter; a question whose answer is none of its options is never right."""
        read = READERS[style.read](text, example.options)
        right = bool(example.answer) and read == example.answer
        return Scored(example=example, read=read, points={ACCURACY: float(right)})

    def figures(self, scored: Sequence[Scored]) -> tuple[Figure, ...]:
        """Accuracy over all, then by each axis."""
        return accuracy_figures(scored, self.average)


def accuracy_figures(units: Sequence[Scored], average: str) -> tuple[Figure, ...]:
    """Share of right answers over all, then by each axis.

    `average`: the headline is the mean of the shares of this axis.
    """
    told = [
        share(axis, value, chosen)
        for axis in axes_of(units)
        for value, chosen in by_value(units, axis)
    ]
    parts = [figure.score for figure in told if average and figure.axis == average]
    if not units:
        return ()
    if not parts:
        return (share("", ALL, units), *told)
    mean = sum(parts) / len(parts)
    head = Figure(
        axis="", value=f"mean by {average}", metric=ACCURACY, score=mean, asked=len(units)
    )
    return (head, share("", ALL, units), *told)


def share(axis: str, value: str, chosen: Sequence[Scored]) -> Figure:
    """Right answers among those chosen, with the interval."""
    right = round(sum(scored.points[ACCURACY] for scored in chosen))
    low, high = wilson(right, len(chosen))
    return Figure(
        axis=axis,
        value=value,
        metric=ACCURACY,
        score=100 * right / len(chosen),
        asked=len(chosen),
        low=100 * low,
        high=100 * high,
    )


def axes_of(scored: Sequence[Scored]) -> list[str]:
    """Axes in the order of their first mention."""
    return list(dict.fromkeys(axis for one in scored for axis, _ in one.example.groups))


def by_value(scored: Sequence[Scored], axis: str) -> list[tuple[str, list[Scored]]]:
    """Those of each value of an axis, values in order; one may be in several."""
    pairs = [(value, one) for one in scored for name, value in one.example.groups if name == axis]
    pairs.sort(key=lambda pair: ordinal(pair[0]))
    grouped = groupby(pairs, key=lambda pair: pair[0])
    return [(value, [one for _, one in members]) for value, members in grouped]


def ordinal(value: str) -> tuple[float, str]:
    """Numbers by size, lengths of video from short to long, all else by name."""
    lengths = {"short": 0.0, "medium": 1.0, "long": 2.0}
    if value.isdecimal():
        return float(value), ""
    return lengths.get(value, float("inf")), value


def letter_among(options: Sequence[str], answer: str) -> str:
    """Letter of the option that is the answer, the first if it is there twice; empty if none is."""
    return letter_of(options.index(answer)) if answer in options else ""


def stem_of(video: str) -> str:
    """A video's name without folders and ending."""
    name = PurePosixPath(video.replace("\\", "/"))
    return name.stem if name.suffix else name.name
