"""What came out of a run, as one object: figures, what was left out, published results beside it.

Nothing in it depends on when or how often the run was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longtake.evaluate.plan import Plan
from longtake.evaluate.prompts import Style, letter_of
from longtake.evaluate.published import Published, name_of, published_for
from longtake.evaluate.results import Row
from longtake.evaluate.tasks import Example, Figure, Scored, Task
from longtake.evaluate.whole import save_text


@dataclass(frozen=True, kw_only=True)
class Report:
    """A run's result."""

    task: str
    title: str
    header: Row
    """What was run and how."""
    total: int
    """Questions in the annotations."""
    asked: int
    """Of these, those of the limit whose videos are there."""
    answered: int
    """Of these, those that got an answer; the figures are over them."""
    failed: tuple[Row, ...]
    """Questions that ended in an error, with what it was."""
    missing: tuple[str, ...]
    """Videos that are not there; `missing_questions` are about them."""
    missing_questions: int
    unread: int
    """Answers from which nothing was read; they count as wrong."""
    keyless: int
    """Questions whose published answer is none of their options; they count as wrong."""
    unsubtitled: int
    """Questions asked without subtitles in a run with subtitles."""
    missing_subtitles: tuple[str, ...]
    """Files of subtitles that are not there, in a run with subtitles."""
    incomplete: int
    """Questions of which not every asking was answered; they are left out."""
    figures: tuple[Figure, ...]
    published: tuple[Published, ...]

    @property
    def complete(self) -> bool:
        """Whether every question of the annotations was answered."""
        return self.answered == self.total


def reported(task: Task, plan: Plan, style: Style, header: Row, rows: Mapping[str, Row]) -> Report:
    """Put a run's rows together. `rows`: by key; those of other questions are left aside."""
    asked = [one for showing in plan.showings for one in showing.examples]
    found = [(one, rows[one.key]) for one in asked if one.key in rows]
    answers = [(one, row) for one, row in found if "error" not in row]
    scored = tuple(task.score(one, str(row["text"]), style) for one, row in answers)
    told = {
        "failed": tuple(row for _, row in found if "error" in row),
        "missing": plan.missing_videos,
        "missing_questions": len(plan.missing),
        "unsubtitled": sum(row.get("subtitles") is False for _, row in answers),
        "missing_subtitles": plan.silent,
        "incomplete": _incomplete(asked, scored),
    }
    return _report(task, header, scored, asked=len(asked), told=told)


def rescored(
    task: Task,
    style: Style,
    header: Row,
    text_of: Callable[[Example, int], str | None],
    unsubtitled: int = 0,
) -> Report:
    """Score answers that were recorded elsewhere; a question without one counts as failed."""
    examples = [task.example(index) for index in range(len(task))]
    texts = [(one, text_of(one, row)) for row, one in enumerate(examples)]
    scored = tuple(task.score(one, text, style) for one, text in texts if text is not None)
    left = [{"key": one.key, "error": "no recorded answer"} for one, text in texts if text is None]
    told = {
        "failed": tuple(left),
        "missing": (),
        "missing_questions": 0,
        "unsubtitled": unsubtitled,
        "missing_subtitles": (),
        "incomplete": _incomplete(examples, scored),
    }
    return _report(task, header, scored, asked=len(examples), told=told)


def _report(
    task: Task, header: Row, scored: Sequence[Scored], *, asked: int, told: dict[str, Any]
) -> Report:
    options = [one.example for one in scored if one.example.span is None]
    return Report(
        task=task.name,
        title=task.title,
        header=header,
        total=len(task),
        asked=asked,
        answered=len(scored),
        unread=sum(not readable(one) for one in scored),
        keyless=sum(not one.answer for one in options),
        figures=task.figures(scored),
        published=published_for(
            task.name,
            str(header.get("system")),
            bool(header.get("subtitles")),
            count if isinstance(count := header.get("parameters"), int) else None,
        ),
        **told,
    )


def readable(one: Scored) -> bool:
    """Whether an answer names an option, or a moment."""
    letters = [letter_of(place) for place in range(len(one.example.options))]
    return bool(one.read) if one.example.span is not None else one.read in letters


def _incomplete(asked: Sequence[Example], scored: Sequence[Scored]) -> int:
    """Questions asked in several orders of which some, but not all, were answered."""
    answered = {one.example.key for one in scored}
    sets: dict[str, list[bool]] = {}
    for one in asked:
        sets.setdefault(one.unit, []).append(one.key in answered)
    return sum(any(tries) and not all(tries) for tries in sets.values())


def compared(report: Report) -> list[tuple[Published, str, float, float]]:
    """(published row, name, published score, own score) of every figure that both have."""
    own = {name_of(figure): figure.score for figure in report.figures}
    return [
        (row, name, score, own[name])
        for row in report.published
        for name, score in row.scores.items()
        if name in own
    ]


def save_report(report: Report, path: Path) -> None:
    """Write it as JSON, whole or not at all. Raises StoreError."""
    text = json.dumps(as_object(report), indent=1, ensure_ascii=True, allow_nan=False)
    save_text(f"{text}\n", path)


def as_object(report: Report) -> dict[str, Any]:
    """The report as JSON can say it."""
    pairs = [
        {
            "model": row.model,
            "setting": row.setting,
            "source": row.source,
            "figure": name,
            "published": score,
            "own": own,
        }
        for row, name, score, own in compared(report)
    ]
    return {**asdict(report), "complete": report.complete, "compared": pairs}
