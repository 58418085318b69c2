"""What several commands do: open, load, watch with progress, print an answer, tell what differs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from longtake.commands.first import check_model
from longtake.errors import OptionError
from longtake.flags import Answering, Condensing, Loading, Part
from longtake.terminal import bars, busy, draw_sparklines, harmless, moment, note, say, size

if TYPE_CHECKING:
    from longtake.stored import Settings, Stored
    from longtake.system import System
    from longtake.types import Answer, Memory
    from longtake.video.inputs import Opened

TYPED = {field.name for kind in (Loading, Condensing) for field in fields(kind)}
"""What a command line can say of a model and of condensing."""


def loaded(model: str, loading: Loading, condensing: Condensing) -> System:
    """Load a model and set its options; what torch is not needed to refuse is refused first."""
    check_model(model, loading, condensing)
    with busy(f"loading {model}"):
        from longtake.api import load

        return load(model, **asdict(loading)).variant(**condensing.given())


def watch(source: Opened, system: System, max_frames: int | None, part: Part) -> Memory:
    """Watch, with progress and a line that sums up on a terminal."""
    with bars() as progress:
        memory = system.watch(source, max_frames=max_frames, **asdict(part), progress=progress)
    for warning in memory.stats.warnings:
        say(warning, kind="warning")
    note(
        f"watched {memory.stats.frames} frames in {memory.stats.watch_seconds:.1f} s: "
        f"{memory.length} tokens, {size(memory.bytes)}"
    )
    return memory


def reply(
    system: System,
    memory: Memory,
    question: str,
    answering: Answering,
    *,
    stream: bool | None,
    sparkline: bool | None = None,
    history: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Ask and print the answer, as it is written or when it is whole."""
    live = sys.stdout.isatty() if stream is None else stream
    options = system.options(**answering.given(), on_text=printer() if live else None)
    answer = system.ask(memory, question, options, history)
    tell(answer, live=live, sparkline=sparkline)
    return answer


def together(
    system: System, memory: Memory, questions: Sequence[str], answering: Answering
) -> Iterator[tuple[str, Answer]]:
    """Ask several questions in one batch; each with its answer, in order, as soon as it is over."""
    from longtake.many import Batch

    options = system.options(**answering.given())
    if len(questions) == 1:
        yield questions[0], system.ask(memory, questions[0], options)
        return
    with Batch(system, memory) as batch:
        for row in [batch.add(question, options) for question in questions]:
            while not row.done:
                batch.step()
            yield row.question, row.result()


def tell(answer: Answer, *, live: bool = False, sparkline: bool | None = None) -> None:
    """Print an answer and what there is to say of it; `live`: its text has been shown."""
    print("" if live else shown(answer.text), flush=True)
    if answer.finish == "length":
        cut = f"the answer was cut at {len(answer.ids)} tokens; raise --max-new-tokens"
        say(cut, kind="warning")
    if answer.evidence:
        note(f"[looked at {', '.join(moment(span) for span in answer.evidence[:3])}]")
    if sparkline if sparkline is not None else live and sys.stderr.isatty():
        draw_sparklines(answer.timeline)


def printer() -> Callable[[str], None]:
    """A function that prints pieces of text as they come, without the blanks before the first."""
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        text = piece if begun else piece.lstrip()
        begun = begun or bool(text)
        print(shown(text), end="", flush=True)

    return show


def shown(text: str) -> str:
    """An answer as it may be printed: a file gets it as it is, a terminal what cannot harm it."""
    return harmless(text) if sys.stdout.isatty() else text


def otherwise(stored: Stored, asked: Settings) -> str:
    """How a memory was made otherwise than it is asked now, in the words of the command line."""
    made, now = typed(stored.settings), typed(asked)
    words = [word for word in sorted({*made, *now}) if made.get(word) != now.get(word)]
    if not words:
        return (
            f"was made by {stored.system} with another checkpoint, kind of device or version of "
            "longtake; watch the video again"
        )
    told = " and ".join(
        f"with {made[word]}" if word in made else f"without --{word}" for word in words
    )
    return f"was watched {told}; ask without options of the model, or watch the video again"


def check_typed(stored: Stored) -> None:
    """Raise OptionError for a memory whose model was loaded as no command line can."""
    foreign = sorted({*stored.settings.loading, *stored.settings.options} - TYPED)
    if foreign:
        raise OptionError(
            f"{stored.name} was watched from Python with {', '.join(foreign)}, which commands do "
            "not have; ask it from Python, or watch the video again"
        )


def typed(settings: Settings) -> dict[str, str]:
    """Options that shape a memory, by name, as they would be typed."""
    given = {"model": settings.model, **settings.loading, **settings.options}
    return {
        name.replace("_", "-"): flag(name.replace("_", "-"), given[name])
        for name in sorted({"model", *TYPED} - {"device"})
        if given.get(name) not in (None, "auto")
    }


def flag(name: str, value: object) -> str:
    """An option and its value; a list is typed with commas."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"--{name} {shlex.quote(text)}"
