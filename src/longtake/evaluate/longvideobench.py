"""LongVideoBench: questions that refer to moments, with subtitles (arXiv 2407.15754)."""

from __future__ import annotations

from collections.abc import Sequence

from longtake.evaluate.annotations import Row
from longtake.evaluate.prompts import letter_of
from longtake.evaluate.tasks import Choices, Example

NONE = "N/A"
"""An option that is not there, in the tables."""


def open_task(rows: Sequence[Row]) -> Choices:
    """The task of `lvb_val.json` or of the validation table."""
    return Choices(
        name="longvideobench", title="LongVideoBench", examples=tuple(map(example, rows))
    )


def example(row: Row) -> Example:
    """One question. Raises AnnotationError; the test split has no answers and cannot be scored."""
    options = row.texts("candidates") if row.has("candidates") else tabled(row)
    choice = row.number("correct_choice")
    if choice == -1:
        raise row.wrong(
            "'correct_choice' is -1: this is the test split, whose answers are kept back"
        )
    if choice not in range(len(options)):
        raise row.wrong(f"'correct_choice' is {choice:g} of {len(options)} options")
    return Example(
        key=row.text("id"),
        video=row.text("video_path"),
        question=row.text("question"),
        options=options,
        answer=letter_of(int(choice)),
        groups=(
            ("duration", row.text("duration_group")),
            ("category", row.text("question_category")),
        ),
        places=("videos",),
        subtitles=row.text("subtitle_path"),
        duration=row.number("duration"),
        offset=row.number("starting_timestamp_for_subtitles"),
    )


def tabled(row: Row) -> tuple[str, ...]:
    """Options in columns `option0` to `option4`."""
    texts = [row.text(f"option{n}") for n in range(5) if row.has(f"option{n}")]
    options = tuple(text for text in texts if text != NONE)
    if not options:
        raise row.wrong("there are no 'candidates' and no 'option0'")
    return options
