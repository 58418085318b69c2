"""VNBench: needles to find, order and count, each asked four times (arXiv 2406.09367).

The four askings have the options in other orders; a question is right only if all four are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longtake.evaluate.annotations import Row
from longtake.evaluate.tasks import (
    ACCURACY,
    Choices,
    Example,
    Figure,
    Scored,
    accuracy_figures,
    letter_among,
    stem_of,
)

TRIES = 4
ALL_KINDS = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}


@dataclass(frozen=True, kw_only=True)
class Circles(Choices):
    """Questions that are right only if right in every order of their options."""

    def figures(self, scored: Sequence[Scored]) -> tuple[Figure, ...]:
        """Accuracy over questions of which all four askings were answered."""
        return accuracy_figures(whole_circles(scored), self.average)


def whole_circles(scored: Sequence[Scored]) -> list[Scored]:
    """One for each question that was asked four times: right if all were."""
    circles: dict[str, list[Scored]] = {}
    for one in scored:
        circles.setdefault(one.example.unit, []).append(one)
    return [
        Scored(
            example=tries[0].example,
            read=" ".join(one.read for one in tries),
            points={ACCURACY: min(one.points[ACCURACY] for one in tries)},
        )
        for tries in circles.values()
        if len(tries) == TRIES
    ]


def open_task(rows: Sequence[Row]) -> Circles:
    """The task of `VNBench-main-4try.json`. Raises AnnotationError for one with single askings."""
    examples = tuple(map(example, rows))
    counts: dict[str, int] = {}
    for one in examples:
        counts[one.circle] = counts.get(one.circle, 0) + 1
    for row, one in zip(rows, examples, strict=True):
        if counts[one.circle] != TRIES:
            found = counts[one.circle]
            raise row.wrong(f"{one.circle} is asked {found} times, expected {TRIES} (4try)")
    return Circles(name="vnbench", title="VNBench", examples=examples, average="type")


def example(row: Row) -> Example:
    """One asking. Raises AnnotationError."""
    video, kind, options = row.text("video"), row.text("type"), row.texts("options")
    task = ALL_KINDS.get(kind.split("_")[0])
    if task is None:
        raise row.wrong(f"'type' is {kind!r}, expected one that begins with ret, ord or cnt")
    circle = stem_of(video)
    return Example(
        key=f"{circle}_{row.text('try')}",
        video=video,
        question=row.text("question"),
        options=options,
        answer=letter_among(options, row.text("gt")),
        groups=(("task", task), ("type", kind)),
        circle=circle,
    )
