"""`longtake ask` and `longtake chat`: watch a video, answer questions about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from longtake.commands.common import loaded, opened, reply, tell, together, watch
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
    VideoFile,
    spread,
)
from longtake.terminal import note

LEAVE = ("exit", "quit")
"""What ends a chat, besides the end of input."""


@spread
def ask(
    *,
    video: VideoFile,
    questions: Questions,
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    stream: StreamFlag = None,
    as_json: JsonFlag = False,
    evidence: EvidenceFile = None,
) -> None:
    """Answer each QUESTION about VIDEO."""
    if not all(question.strip() for question in questions):
        raise PromptError("the question is empty; ask something")
    if len(questions) > 1 and (stream or evidence is not None):
        raise OptionError("--stream and --evidence show one answer; ask one question")
    from longtake.evidence import saver

    if stream and as_json:
        raise OptionError("--stream prints text as it comes and --json one object; choose one")
    with opened(video, answering) as source:
        save_sheet = saver(source, evidence) if evidence is not None else None
        memory = watch(source, system := loaded(model, loading, condensing), max_frames, part)
        if len(questions) == 1 and not as_json:
            answer = reply(system, memory, questions[0], answering, stream=stream)
        else:
            for row in together(system, memory, questions, answering):
                answer = row.result()
                if as_json:
                    about = {"video": video, "question": row.question, "model": model}
                    print(json.dumps(about | {"system": system.name} | asdict(answer)), flush=True)
                else:
                    note(f"> {row.question}")
                    tell(answer)
        if save_sheet is not None:
            save_sheet(answer)


@spread
def chat(
    *,
    video: VideoFile,
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    stream: StreamFlag = None,
) -> None:
    """Answer questions about VIDEO until "exit" or the end of input.

    Questions are read from stdin, one per line; each sees the ones before it and their answers.
    """
    history: list[tuple[str, str]] = []
    with opened(video, answering) as source:
        memory = watch(source, system := loaded(model, loading, condensing), max_frames, part)
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
