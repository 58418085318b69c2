"""Video-MME: 2,700 questions about 900 videos, by length and by kind (arXiv 2405.21075)."""

from __future__ import annotations

from collections.abc import Sequence

from longtake.evaluate.annotations import Row
from longtake.evaluate.tasks import Choices, Example

AXES = {"duration": "duration", "domain": "domain", "category": "sub_category", "task": "task_type"}
"""Axes of the figures, and the fields they are in."""


def open_task(rows: Sequence[Row]) -> Choices:
    """The task of `test-00000-of-00001.parquet`, or the same rows as json."""
    examples = tuple(map(example, rows))
    return Choices(name="video-mme", title="Video-MME", examples=examples)


def example(row: Row) -> Example:
    """One question; its options bring their letters along. Raises AnnotationError."""
    answer = row.text("answer").strip().rstrip(".")
    options = row.texts("options")
    if answer not in "ABCD" or len(answer) != 1:
        raise row.wrong(f"'answer' is {answer!r}, expected one of A to D")
    name = row.text("videoID", "video_id")
    return Example(
        key=row.text("question_id"),
        video=f"{name}.mp4",
        question=row.text("question"),
        options=options,
        answer=answer,
        groups=tuple((axis, row.text(field)) for axis, field in AXES.items()),
        places=("data", "videos", "video"),
        subtitles=f"{name}.srt",
    )
