"""LVBench: 1,549 questions about hour-long videos, of six kinds (arXiv 2406.08035).

Read as published (a line per video, options within each question) and as VideoChat-Flash's authors
list it (a row per question). Options keep the "(A) " in front that they have in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longtake.evaluate.annotations import Row, brief
from longtake.evaluate.options import options_within
from longtake.evaluate.prompts import letter_of
from longtake.evaluate.tasks import Choices, Example, letter_among


def open_task(rows: Sequence[Row]) -> Choices:
    """The task of `video_info.meta.jsonl`, or of `lvbench_clean.json`, whole or in parts."""
    told = tuple(
        one
        for number, row in enumerate(rows)
        for one in (questions(row) if row.has("qa") else [listed(row, number)])
    )
    return Choices(name="lvbench", title="LVBench", examples=told)


def questions(row: Row) -> Iterator[Example]:
    """The questions of one video. Raises AnnotationError."""
    video, entries = row.text("key"), row.values["qa"]
    if not isinstance(entries, list):
        raise row.wrong(f"'qa' is {brief(entries)}, expected a list")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise row.wrong(f"question {number} is {brief(entry)}, expected an object")
        part = Row(values=entry, file=row.file, where=f"{row.where}, question {number}")
        question, texts, answer = options_within(part)
        yield Example(
            key=part.text("uid"),
            video=f"{video}.mp4",
            question=question,
            options=tuple(f"({letter_of(place)}) {text}" for place, text in enumerate(texts)),
            answer=answer,
            groups=groups(part, row),
            places=("videos", "all_videos"),
        )


def listed(row: Row, number: int) -> Example:
    """One question with its options in a list. Raises AnnotationError."""
    video, options = row.text("video"), row.texts("candidates")
    return Example(
        key=f"{video}-{number}",
        video=video,
        question=row.text("question"),
        options=options,
        answer=letter_among(options, row.text("answer")),
        groups=groups(row, row),
        places=("videos", "all_videos", "frames"),
    )


def groups(row: Row, video: Row) -> tuple[tuple[str, str], ...]:
    """Kinds of the question, which may be several, and the kind of the video."""
    kinds = tuple(("task", kind) for kind in row.texts("question_type"))
    return (*kinds, ("video", video.text("type"))) if video.has("type") else kinds
