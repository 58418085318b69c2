"""MLVU: seven kinds of multiple choice about long videos; M-Avg is their mean (arXiv 2406.04264).

Read as published (a json file per kind, options in `candidates`) and as in lmms-eval's copy (one
table, options within the question).
"""

from __future__ import annotations

from collections.abc import Sequence

from longtake.evaluate.annotations import Row
from longtake.evaluate.options import options_within
from longtake.evaluate.tasks import Choices, Example, letter_among, stem_of


def open_task(rows: Sequence[Row]) -> Choices:
    """The task of the folder of seven json files, or of one table."""
    examples = tuple(example(row, number) for number, row in enumerate(rows))
    return Choices(name="mlvu", title="MLVU", examples=examples, average="task")


def example(row: Row, number: int) -> Example:
    """One question. Raises AnnotationError.

    In two rows as published the answer is none of the options: those are never right, as in the
    original.
    """
    kind = row.text("question_type", "task_type")
    video = row.text("video", "video_name")
    if row.has("candidates"):
        question, options = row.text("question"), row.texts("candidates")
        answer = letter_among(options, row.text("answer"))
    else:
        question, options, answer = options_within(row)
    key = row.text("question_id") if row.has("question_id") else f"{kind}-{stem_of(video)}-{number}"
    return Example(
        key=key,
        video=video,
        question=question,
        options=options,
        answer=answer,
        groups=(("task", kind),),
        places=(row.file, f"video/{row.file}", f"MLVU/video/{row.file}", "video"),
    )
