"""`longtake ask` and `longtake chat`: watch a video, answer questions about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.commands.common import reply, tell, together
from longtake.commands.recall import Recalled, Seeing, Wanted, recalled
from longtake.errors import OptionError, PromptError
from longtake.flags import (
    Answering,
    EvidenceFile,
    JsonFlag,
    Questions,
    SparklineFlag,
    StreamFlag,
    Watched,
    spread,
)
from longtake.flags_library import Keeping
from longtake.terminal import draw_sparklines, note

if TYPE_CHECKING:
    from longtake.types import Answer
    from longtake.video.inputs import Opened

LEAVE = ("exit", "quit")
"""What ends a chat, besides the end of input."""


@spread
def ask(
    *,
    video: Watched,
    questions: Questions,
    seeing: Seeing,
    answering: Answering,
    keeping: Keeping,
    stream: StreamFlag = None,
    sparkline: SparklineFlag = None,
    as_json: JsonFlag = False,
    evidence: EvidenceFile = None,
) -> None:
    """Answer each QUESTION about VIDEO."""
    check_asked(questions, one=bool(stream) or evidence is not None)
    if stream and as_json:
        raise OptionError("--stream prints text as it comes and --json one object; choose one")
    wanted = Wanted.asked(video, seeing, answering, keeping)
    picture = None if evidence is None else Picture(evidence, video, questions[0])
    with recalled(wanted, None if picture is None else picture.look) as found:
        if as_json:
            answer = reply_in_json(found, wanted, questions, sparkline=sparkline)
        else:
            answer = reply_to_each(found, wanted, questions, stream=stream, sparkline=sparkline)
        if picture is not None:
            picture.save(answer)


def check_asked(questions: Sequence[str], *, one: bool) -> None:
    """Raise PromptError for an empty question, OptionError for several where only one can be."""
    if not all(question.strip() for question in questions):
        raise PromptError("the question is empty; ask something")
    if one and len(questions) > 1:
        raise OptionError("--stream and --evidence show one answer; ask one question")


class Picture:
    """Saves what an answer rests on; refuses what cannot be saved as soon as that is known."""

    def __init__(self, path: Path, video: str, question: str) -> None:
        from longtake.drawing import check_target

        check_target(path)
        self.path, self.video, self.question = path, video, question

    def look(self, source: Opened) -> None:
        """Take note of the video."""
        from longtake.evidence import saver

        self.save: Callable[[Answer], None] = saver(source, self.video, self.question, self.path)


def reply_in_json(
    found: Recalled, wanted: Wanted, questions: Sequence[str], *, sparkline: bool | None
) -> Answer:
    """Ask all together; print an object for each answer as it ends. The last one."""
    stored = None if found.stored is None else found.stored.name
    about = {"model": found.model, "system": found.system.name, "stored": stored}
    for question, answer in together(found.system, found.memory, questions, wanted.answering):
        asked = {"video": wanted.video, "question": question}
        print(json.dumps(asked | about | asdict(answer)), flush=True)
        draw_sparklines(answer.timeline if sparkline else ())
    return answer


def reply_to_each(
    found: Recalled,
    wanted: Wanted,
    questions: Sequence[str],
    *,
    stream: bool | None,
    sparkline: bool | None,
) -> Answer:
    """Ask and print; several together, each answer as it ends. The last one."""
    system, memory = found.system, found.memory
    if len(questions) == 1:
        only = questions[0]
        return reply(system, memory, only, wanted.answering, stream=stream, sparkline=sparkline)
    for question, answer in together(system, memory, questions, wanted.answering):
        note(f"> {question}")
        tell(answer, sparkline=sparkline)
    return answer


@spread
def chat(
    *,
    video: Watched,
    seeing: Seeing,
    answering: Answering,
    keeping: Keeping,
    stream: StreamFlag = None,
    sparkline: SparklineFlag = None,
) -> None:
    """Answer questions about VIDEO until "exit" or the end of input.

    Questions are read from stdin, one per line; each sees the ones before it and their answers.
    """
    wanted = Wanted.asked(video, seeing, answering, keeping)
    history: list[tuple[str, str]] = []
    with recalled(wanted) as found:
        system, memory = found.system, found.memory
        for question in questions():
            answer = reply(
                system,
                memory,
                question,
                answering,
                stream=stream,
                sparkline=sparkline,
                history=history,
            )
            history.append((question, answer.text))


def questions() -> Iterator[str]:
    """The lines of stdin that ask something, with a prompt on a terminal."""
    person = sys.stdin.isatty()
    while True:
        try:
            line = (input("> ") if person else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            break
        if line in LEAVE:
            return
        if line:
            yield line
    if person:
        print()
