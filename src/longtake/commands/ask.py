"""`longtake ask` and `longtake chat`: watch a video, answer questions about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.commands.common import reply, tell, together
from longtake.commands.recall import Recalled, Wanted, recalled
from longtake.errors import OptionError, PromptError
from longtake.flags import (
    Answering,
    Condensing,
    EvidenceFile,
    JsonFlag,
    Loading,
    MaxFrames,
    ModelName,
    Part,
    Questions,
    StreamFlag,
    Watched,
    spread,
)
from longtake.flags_library import Keeping
from longtake.terminal import note

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
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    keeping: Keeping,
    stream: StreamFlag = None,
    as_json: JsonFlag = False,
    evidence: EvidenceFile = None,
) -> None:
    """Answer each QUESTION about VIDEO."""
    if not all(question.strip() for question in questions):
        raise PromptError("the question is empty; ask something")
    if len(questions) > 1 and (stream or evidence is not None):
        raise OptionError("--stream and --evidence show one answer; ask one question")
    if stream and as_json:
        raise OptionError("--stream prints text as it comes and --json one object; choose one")
    wanted = Wanted(
        video=video,
        model=model,
        loading=loading,
        condensing=condensing,
        max_frames=max_frames,
        part=part,
        answering=answering,
        library=keeping.opened(),
        save="try" if keeping.save else "no",
    )
    sheet = None if evidence is None else Sheet(evidence)
    with recalled(wanted, None if sheet is None else sheet.look) as found:
        if len(questions) == 1 and not as_json:
            answer = reply(found.system, found.memory, questions[0], answering, stream=stream)
        else:
            answer = reply_to_each(found, video, questions, answering, as_json=as_json)
        if sheet is not None:
            sheet.save(answer)


class Sheet:
    """Saves the moments of an answer; refuses what cannot be saved as soon as that is known."""

    def __init__(self, path: Path) -> None:
        from longtake.evidence import check_target

        check_target(path)
        self.path = path

    def look(self, source: Opened) -> None:
        """Take note of the video."""
        from longtake.evidence import saver

        self.save: Callable[[Answer], None] = saver(source, self.path)


def reply_to_each(
    found: Recalled, video: str, questions: Sequence[str], answering: Answering, *, as_json: bool
) -> Answer:
    """Ask all together; print each answer as it ends, an object or text. The last one."""
    stored = None if found.stored is None else found.stored.name
    about = {"model": found.model, "system": found.system.name, "stored": stored}
    for row in together(found.system, found.memory, questions, answering):
        answer = row.result()
        if as_json:
            asked = {"video": video, "question": row.question}
            print(json.dumps(asked | about | asdict(answer)), flush=True)
        else:
            note(f"> {row.question}")
            tell(answer)
    return answer


@spread
def chat(
    *,
    video: Watched,
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    keeping: Keeping,
    stream: StreamFlag = None,
) -> None:
    """Answer questions about VIDEO until "exit" or the end of input.

    Questions are read from stdin, one per line; each sees the ones before it and their answers.
    """
    wanted = Wanted(
        video=video,
        model=model,
        loading=loading,
        condensing=condensing,
        max_frames=max_frames,
        part=part,
        answering=answering,
        library=keeping.opened(),
        save="try" if keeping.save else "no",
    )
    history: list[tuple[str, str]] = []
    with recalled(wanted) as found:
        system, memory = found.system, found.memory
        for question in questions():
            answer = reply(system, memory, question, answering, stream=stream, history=history)
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
