"""Questions answered together are answered as each would be alone; the memory stays as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longtake import api, engine
from longtake.api import load
from longtake.errors import CapacityError, OptionError, PromptError
from longtake.lanes import Together
from longtake.many import Batch
from longtake.parts.cache import GrowingCache
from longtake.parts.dropping import Schedule
from longtake.parts.suffixes import ROOM
from longtake.system import System
from longtake.types import Answer, Frames, Memory, Options
from longtake.video.cards import Card, draw_card
from tests.tiny import noise, tiny

GOLDEN = Path(__file__).parent / "parity" / "golden"
FRAMES = 8
QUESTIONS = (
    "What is in the video?",
    "Why?",
    "How many people are there, what do they wear, where do they go, and who comes last?",
    "Is it day or night?",
    "Who opens the door first?",
)
CARD_QUESTIONS = (
    "What word is on the card?",
    "What is the colour?",
    "There is a card in this video. Which number is written on it?",
    "Which word is on the card?",
    "Tell me the number on the card.",
)
"""What the bundled model can be asked."""
HISTORY = (("What is in the video?", "Noise."), ("Are you sure?", "Yes, quite."))


@cache
def loaded(name: str) -> System:
    """A golden checkpoint, or the bundled model."""
    return load(name if name == "default" else GOLDEN / name, device="cpu")


def dropping(kind: Any, layers: tuple[int, ...]) -> System:
    """VideoChat-Flash whose layers hold different tokens."""
    system = cast(Any, loaded("videochat_flash/ckpt-umt224"))
    return cast(
        System, replace(system, drop=Schedule(kind=kind, layers=layers, ratios=(1, 0.6, 0.2)))
    )


SYSTEMS: dict[str, Callable[[], System]] = {
    "longva": tiny,
    "longva int8": lambda: tiny().variant(kv="int8"),
    "longva fp8": lambda: tiny().variant(kv="fp8"),
    "longva int4": lambda: tiny().variant(kv="int4"),
    "default": lambda: loaded("default"),
    "video_xl": lambda: loaded("video_xl/checkpoint").variant(ratio=8),
    "video_xl int4": lambda: loaded("video_xl/checkpoint").variant(ratio=4, kv="int4"),
    "video_xl two levels": lambda: loaded("video_xl/checkpoint").variant(
        ratio=16, fine=4, budget=300_000
    ),
    "videochat_flash": lambda: loaded("videochat_flash/ckpt-umt224"),
    "videochat_flash iv2": lambda: loaded("videochat_flash/ckpt-iv2"),
    "videochat_flash uniform": lambda: dropping("uniform", (2, 5)),
    "videochat_flash uniform int8": lambda: dropping("uniform", (2, 5)).variant(kv="int8"),
    "videochat_flash attention": lambda: dropping("attention", (2, 5)),
    "onevision": lambda: loaded("llava_onevision/checkpoint-small7-lmms"),
    "onevision hf": lambda: loaded("llava_onevision/checkpoint-real27-hf"),
    "onevision stretched": lambda: loaded("llava_onevision/checkpoint-small7-lmms").variant(
        extend="visual-window:window=40"
    ),
}
SLOW = (
    "longva int4",
    "videochat_flash iv2",
    "videochat_flash uniform int8",
    "onevision hf",
)
ALONE = ("video_xl two levels", "videochat_flash attention")
"""What stays of these memories depends on the question."""


def shown(name: str) -> Frames:
    """Noise; for the bundled model with a card in it."""
    frames = noise(FRAMES, height=120, width=160)
    if name == "default":
        card = draw_card(Card(number=47, word="RIVER", colour="blue"), 160, 120)
        frames.pixels_TCHW[5] = torch.from_numpy(np.array(card)).permute(2, 0, 1)
    return frames


@cache
def watched(name: str) -> tuple[System, Memory]:
    """A system and one memory for all tests."""
    system = SYSTEMS[name]()
    return system, system.watch(shown(name), max_frames=FRAMES)


@dataclass
class Case:
    """Questions with options and histories, and what each is answered alone."""

    questions: tuple[str, ...]
    options: tuple[Options, ...]
    histories: tuple[Any, ...]
    alone: tuple[Answer, ...]


@cache
def case_of(name: str) -> Case:
    """Uneven lengths, an early end, a stop text, samples, a penalty, a history, no evidence."""
    system, memory = watched(name)
    words = CARD_QUESTIONS if name == "default" else QUESTIONS
    first = system.ask(memory, words[0], system.options(max_new_tokens=9))
    stop = first.text[3:5].strip() or "x"
    questions = (*words, words[0], words[0], words[1], words[1])
    options = (
        system.options(max_new_tokens=12),
        system.options(max_new_tokens=1),
        system.options(max_new_tokens=7, repetition_penalty=1.4),
        system.options(max_new_tokens=15, temperature=0.8, top_k=40, top_p=0.95, seed=3),
        system.options(max_new_tokens=5, evidence=False),
        system.options(max_new_tokens=12, stop=(stop,)),
        system.options(max_new_tokens=4),
        system.options(max_new_tokens=10, temperature=1.3, top_p=1.0, top_k=0, seed=8),
        system.options(max_new_tokens=10, temperature=1.3, top_p=1.0, top_k=0, seed=9),
    )
    histories = ((),) * 6 + (HISTORY,) + ((),) * 2
    alone = tuple(
        system.ask(memory, *one) for one in zip(questions, options, histories, strict=True)
    )
    return Case(questions, options, histories, alone)


def same(ours: Answer, alone: Answer) -> None:
    """The same answer, looked for in the same moments."""
    assert (ours.ids, ours.text, ours.finish) == (alone.ids, alone.text, alone.finish)
    places = [(span.start, span.end, span.visual) for span in alone.evidence]
    assert [(span.start, span.end, span.visual) for span in ours.evidence] == places
    # attention is summed in another order
    weights = [span.weight for span in alone.evidence]
    assert [span.weight for span in ours.evidence] == pytest.approx(weights, abs=1e-5)
    for mine, theirs in zip(ours.timeline, alone.timeline, strict=True):
        assert (mine.seconds, mine.end, mine.visual) == (theirs.seconds, theirs.end, theirs.visual)
        assert mine.weights == pytest.approx(theirs.weights, abs=1e-5)
    assert ours.stats.prompt_tokens == alone.stats.prompt_tokens
    assert ours.stats.warnings == alone.stats.warnings


def state(memory: Memory) -> list[Tensor]:
    """All keys and values at rest."""
    cache = cast(GrowingCache, memory.cache)
    assert not cache.busy.locked()
    assert cache.get_seq_length() == memory.length
    return [part.clone() for layer in cache.layers for part in layer.shown()]


def finish(batch: Batch) -> None:
    """Step until nothing is left."""
    while batch.rows:
        batch.step()


def unharmed(memory: Memory, before: list[Tensor]) -> None:
    """Bit for bit."""
    for old, new in zip(before, state(memory), strict=True):
        assert torch.equal(old, new)


# -- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SYSTEMS],
)
def test_together_is_each_alone(name: str) -> None:
    system, memory = watched(name)
    before = state(memory)
    case = case_of(name)
    ours = system.ask_many(memory, case.questions, case.options, case.histories, most=7)
    for one, alone in zip(ours, case.alone, strict=True):
        same(one, alone)
    unharmed(memory, before)
    again = system.ask(memory, case.questions[0], case.options[0])
    assert again.ids == case.alone[0].ids
    assert again.evidence == case.alone[0].evidence
    assert len({answer.ids for answer in ours}) > 3, "one answer to all would prove nothing"


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in SLOW])
def test_without_a_video_many_are_each_alone(name: str) -> None:
    system = SYSTEMS[name]()
    options = system.options(max_new_tokens=6, repetition_penalty=1.3)
    histories = ((), HISTORY, ())
    ours = system.ask_many(system.blank(), QUESTIONS[:3], options, histories)
    for one, question, history in zip(ours, QUESTIONS, histories, strict=False):
        same(one, system.ask(None, question, options, history))
        assert (one.evidence, one.timeline) == ((), ())


def test_without_a_video_positions_are_those_of_a_question_alone() -> None:
    """A stretch for a stated number of tokens is in force without a video, too."""
    system = SYSTEMS["longva"]().variant(extend="visual-window:window=64,target=640")
    options = system.options(max_new_tokens=6)
    (ours,) = system.ask_many(system.blank(), QUESTIONS[:1], options)
    same(ours, system.ask(None, QUESTIONS[0], options))


def test_the_bundled_model_reads_its_card() -> None:
    system, memory = watched("default")
    asked = ("What number is on the card?", "What word is on the card?", "What colour is the card?")
    answers = system.ask_many(memory, asked)
    assert [answer.finish for answer in answers] == ["stop"] * 3
    for question, answer in zip(asked, answers, strict=True):
        same(answer, system.ask(memory, question))
        assert answer.evidence[0].start == 2.5
    assert answers[2].text == "blue"


@pytest.mark.parametrize("name", ["longva", "videochat_flash uniform", ALONE[0]])
def test_questions_may_come_while_others_are_answered(name: str) -> None:
    system, memory = watched(name)
    case = case_of(name)
    asked = iter(zip(case.questions, case.options, case.histories, strict=True))
    with Batch(system, memory, most=3) as batch:
        rows = [batch.add(*next(asked)), batch.add(*next(asked))]
        for steps in itertools.count():
            ended = batch.step()
            assert all(row.done for row in ended)
            if steps % 2 == 0 and (more := next(asked, None)) is not None:
                rows.append(batch.add(*more))
            if not batch.rows:
                break
    for row, alone in zip(rows, case.alone, strict=True):
        same(row.result(), alone)


def test_a_long_question_is_read_in_blocks_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, memory = watched("longva")
    case = case_of("longva")
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", 8)
    sizes: list[int] = []
    run = Together._run

    def counted(self: Together, turns: Any, parts: Any) -> Tensor:
        sizes.append(sum(part.count for part in parts))
        return run(self, turns, parts)

    monkeypatch.setattr(Together, "_run", counted)
    ours = system.ask_many(memory, case.questions, case.options, case.histories, most=5)
    assert max(sizes) == 8
    for one, alone in zip(ours, case.alone, strict=True):
        same(one, alone)


def test_rows_that_end_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end token after three words, and a limit: others go on, and the batch shrinks."""
    system, memory = watched("longva")
    ids = system.ask(memory, QUESTIONS[0], system.options(max_new_tokens=12)).ids
    ending = replace(system, end_ids=frozenset({ids[2]}))
    assert ending.ask(memory, QUESTIONS[0]).ids == ids[:3]
    batch = Batch(ending, memory)
    rows = [batch.add(question, ending.options(max_new_tokens=9)) for question in QUESTIONS]
    lengths = []
    while batch.rows:
        batch.step()
        lane = cast(Together | None, batch._lane)
        lengths.append(0 if lane is None else len(lane.suffixes.lengths))
    assert rows[0].result().finish == "stop"
    assert rows[0].result().ids == ids[:3]
    sizes = [len(row.result().ids) for row in rows]
    assert lengths == [sum(size > step for size in sizes) for step in range(1, max(sizes) + 1)]
    assert len(set(lengths)) > 2
    for question, row in zip(QUESTIONS, rows, strict=True):
        same(row.result(), ending.ask(memory, question, ending.options(max_new_tokens=9)))


@pytest.mark.parametrize("name", ["longva", "videochat_flash attention"])
def test_each_row_streams_its_own_text(name: str) -> None:
    system, memory = watched(name)
    told: list[list[str]] = [[] for _ in QUESTIONS]
    options = [system.options(max_new_tokens=8, on_text=pieces.append) for pieces in told]
    answers = system.ask_many(memory, QUESTIONS, options)
    for pieces, answer in zip(told, answers, strict=True):
        assert "".join(pieces).strip() == answer.text
        assert len(pieces) > 4


# -- nothing is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["longva", *ALONE])
def test_a_row_can_be_dropped(name: str) -> None:
    """One that is written, one that waits; and one that says so itself, as with `ask`."""
    system, memory = watched(name)
    before = state(memory)
    options = system.options(max_new_tokens=9)
    calls = iter([False, False, True])
    leaving = system.options(max_new_tokens=9, cancelled=lambda: next(calls))
    alone = [system.ask(memory, question, options) for question in QUESTIONS]
    with Batch(system, memory, most=3) as batch:
        rows = [batch.add(q, leaving if n == 1 else options) for n, q in enumerate(QUESTIONS)]
        batch.step()
        batch.step()
        batch.drop(rows[0])
        batch.drop(rows[4])
        assert batch.step()[:2] == [rows[0], rows[4]]
        finish(batch)
        batch.drop(rows[0])  # it is over already
    results = [row.result() for row in rows]
    assert [result.finish for result in results] == [
        "cancelled",
        "cancelled",
        "length",
        "length",
        "cancelled",
    ]
    assert [result.ids for result in results] == [
        alone[0].ids[:2],
        alone[1].ids[:2],
        alone[2].ids,
        alone[3].ids,
        (),
    ]
    unharmed(memory, before)


class Stop(KeyboardInterrupt):
    """Ctrl-C."""


@pytest.mark.parametrize("name", ["longva", "longva int8", "videochat_flash uniform", *ALONE])
@pytest.mark.parametrize("place", ["callback", "layer"])
def test_what_breaks_off_leaves_the_memory_as_it_was(name: str, place: str) -> None:
    system, memory = watched(name)
    before, calls = state(memory), itertools.count()
    expected = system.ask(memory, QUESTIONS[2], system.options(max_new_tokens=6))

    def break_off(*args: Any) -> None:
        if next(calls) == 12:
            raise Stop

    on_text = break_off if place == "callback" else None
    layers = cast(Any, system.scaled(memory.target).model.decoder).layers
    hook = layers[1].register_forward_hook(break_off) if place == "layer" else None
    batch = Batch(system, memory)
    rows = [batch.add(q, system.options(max_new_tokens=20, on_text=on_text)) for q in QUESTIONS]
    try:
        with pytest.raises(Stop):
            finish(batch)
    finally:
        if hook is not None:
            hook.remove()
    assert batch.rows == ()
    with pytest.raises(PromptError, match="batch was closed"):
        next(row for row in rows if not row.done).result()
    unharmed(memory, before)
    same(system.ask(memory, QUESTIONS[2], system.options(max_new_tokens=6)), expected)


def test_a_row_that_fails_takes_no_other_with_it() -> None:
    system, memory = watched("longva")

    def refuse(text: str) -> None:
        raise OptionError("no more")

    options = system.options(max_new_tokens=6)
    with Batch(system, memory) as batch:
        rows = [batch.add(q, options) for q in QUESTIONS[:3]]
        bad = batch.add("Why?", system.options(max_new_tokens=6, on_text=refuse))
        finish(batch)
    with pytest.raises(OptionError, match="no more"):
        bad.result()
    for row, question in zip(rows, QUESTIONS, strict=False):
        same(row.result(), system.ask(memory, question, options))


@pytest.mark.parametrize("steps", [0, 2])
def test_a_callback_that_fails_as_its_row_is_dropped_ends_that_row_alone(steps: int) -> None:
    system, memory = watched("longva")
    alone = system.ask(memory, "Why?", system.options(max_new_tokens=6))

    def refuse(text: str) -> None:
        if bad.dropped:
            raise OptionError("no more")

    with Batch(system, memory) as batch:
        bad = batch.add("What?", system.options(max_new_tokens=6, on_text=refuse))
        good = batch.add("Why?", system.options(max_new_tokens=6))
        for _ in range(steps):
            batch.step()
        batch.drop(bad)
        assert bad in batch.step()
        while batch.rows:
            batch.step()
    assert good.result().ids == alone.ids
    with pytest.raises(OptionError, match="no more"):
        bad.result()


def test_a_memory_answers_one_batch_at_a_time() -> None:
    system, memory = watched("longva")
    batch = Batch(system, memory)
    other = Batch(system, memory)
    row = batch.add("Why?", system.options(max_new_tokens=2))
    with pytest.raises(PromptError, match="another question"):
        system.ask(memory, "Why?")
    with pytest.raises(PromptError, match="another question"):
        other.add("Why?")
    finish(batch)
    same(row.result(), system.ask(memory, "Why?", system.options(max_new_tokens=2)))
    batch.add("Why?")
    batch.close()
    batch.close()
    assert system.ask(memory, "Why?", system.options(max_new_tokens=2)).ids == row.result().ids
    assert batch.step() == []


# -- nothing is copied ----------------------------------------------------------------------------


class Fresh(TorchDispatchMode):
    """Bytes of tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            part.untyped_storage().data_ptr()
            for part in tree_leaves((args, kwargs))
            if isinstance(part, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for part in tree_leaves(out):
            if isinstance(part, Tensor) and part.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, part.untyped_storage().nbytes())
        return out


def held(value: Any) -> Iterator[Tensor]:
    """Tensors that an object of ours holds, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from held(part)
    elif isinstance(value, dict):
        yield from held(list(value.values()))


def test_no_question_copies_the_memory() -> None:
    """What is held besides the memory grows by the questions' tokens; no copy passes by either."""
    system = tiny()
    memory = system.watch(noise(160), max_frames=160)
    layer = memory.bytes // len(cast(GrowingCache, memory.cache).layers)
    largest, kept = [], []
    for count in (1, 8):
        batch = Batch(system, memory)
        # evidence wants a number for each key, head and row, which is no copy but as large here
        options = system.options(max_new_tokens=4, evidence=False)
        for _ in range(count):
            batch.add("Why?", options)
        with Fresh() as fresh:
            batch.step()
            batch.step()
        lane = cast(Together, batch._lane)
        past = lane.cache.layers[0].shown()
        own = cast(GrowingCache, memory.cache).layers[0]
        assert [part.data_ptr() for part in past] == [
            cast(Tensor, part).data_ptr() for part in (own.key_buffer, own.value_buffer)
        ]
        kept.append(sum(part.nbytes for part in held(vars(lane.suffixes))))
        largest.append(fresh.largest)
        batch.close()
    assert kept == [memory.bytes // memory.length * ROOM * count for count in (1, 8)]
    assert largest[1] < layer, "eight copies of a layer's keys are four times as many bytes"


def test_suffixes_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    system, memory = watched("longva")
    before = state(memory)
    few = type("Memory", (), {"available": 60 * 1024})
    monkeypatch.setattr("psutil.virtual_memory", lambda: few)
    with pytest.raises(CapacityError, match=r"5 questions of up to .* tokens need"):
        system.ask_many(memory, QUESTIONS)
    monkeypatch.undo()
    unharmed(memory, before)


# -- mistakes -------------------------------------------------------------------------------------


def test_mistakes_are_one_clear_line() -> None:
    system, memory = watched("longva")
    assert system.ask_many(memory, ()) == []
    with pytest.raises(OptionError, match="several texts"):
        system.ask_many(memory, "What?")
    with pytest.raises(OptionError, match="2 questions, but 1 options"):
        system.ask_many(memory, ("What?", "Why?"), [system.options()])
    with pytest.raises(OptionError, match="2 questions, but 3 histories"):
        system.ask_many(memory, ("What?", "Why?"), histories=[()] * 3)
    with pytest.raises(OptionError, match="from 1"):
        system.ask_many(memory, ("What?",), most=0)
    with pytest.raises(PromptError, match="empty"):
        system.ask_many(memory, ("What?", "  "))
    with pytest.raises(PromptError, match="another checkpoint"):
        Batch(system, replace(memory, fingerprint="0")).add("Why?")
    with pytest.raises(PromptError, match="without a memory"):
        system.ask_many(None, ("What?",))
    assert not cast(GrowingCache, memory.cache).busy.locked()


def test_the_public_function_is_the_same() -> None:
    system, memory = watched("longva")
    answers = api.ask_many(memory, QUESTIONS, model=system, max_new_tokens=5)
    again = api.ask_many(
        shown("longva"), QUESTIONS, model=system, max_frames=FRAMES, max_new_tokens=5
    )
    for question, one, two in zip(QUESTIONS, answers, again, strict=True):
        same(one, system.ask(memory, question, system.options(max_new_tokens=5)))
        same(two, one)
