"""Answer a question behind a memory: read its ids, write, and say what was looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from longtake.engine import Observer, memory_errors, write
from longtake.errors import OptionError, PromptError
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache
from longtake.parts.text import cut_at_stop
from longtake.parts.writing import Pen
from longtake.types import Answer, Memory, Options, Stats


class Speaker(Protocol):
    """What answering asks of a system."""

    @property
    def model(self) -> LongtakeModel:
        """What reads and writes."""

    @property
    def end_ids(self) -> Collection[int]:
        """Token ids that end an answer."""

    @property
    def penalises_prompt(self) -> bool:
        """Whether the repetition penalty counts the prompt's text."""

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""

    def read(
        self,
        cache: GrowingCache,
        ids: Sequence[int],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Read text behind a memory; features [D] of its last token."""


def published_options(published: Mapping[str, Any], overrides: Mapping[str, Any]) -> Options:
    """Greedy decoding by a generation_config.json, changed by `overrides`."""
    fields = {"repetition_penalty": float(published.get("repetition_penalty") or 1.0)}
    if overrides.get("temperature"):
        fields["top_p"] = float(published.get("top_p") or 1.0)
        fields["top_k"] = int(published.get("top_k") or 0)
    try:
        return Options(**{**fields, **overrides})
    except TypeError as error:
        raise OptionError(f"unknown option ({error}); see longtake.Options") from error


def answer(
    speaker: Speaker,
    memory: Memory,
    ids: Sequence[int],
    options: Options,
    features_D: Tensor | None = None,
) -> Answer:
    """Read the ids that follow the memory and write; both stay in the memory's cache.

    `features_D`: of the memory's last position, for an answer that follows without a word.
    """
    cache = continuable(memory, speaker.model)
    observer = Observer(memory.entries if options.evidence else (), cache.rows_of)
    observe = observer if observer.entries else None
    began = time.perf_counter()
    with memory_errors():
        if ids or features_D is None:
            features_D = speaker.read(cache, ids, observe)
        asked, prompt_tokens = time.perf_counter(), cache.get_seq_length()
        pen = write(
            speaker.model,
            features_D,
            cache,
            options,
            end_ids=speaker.end_ids,
            decode=speaker.text,
            observe=observe,
            penalised=(*memory.ids, *ids) if speaker.penalises_prompt else (),
        )
    stats = replace(
        memory.stats,
        prompt_tokens=prompt_tokens,
        prefill_seconds=asked - began,
        answer_seconds=time.perf_counter() - asked,
    )
    return written(pen, observer, memory, stats)


def written(pen: Pen, observer: Observer, memory: Memory, stats: Stats) -> Answer:
    """What a pen has written behind a memory, and what was looked at meanwhile."""
    return Answer(
        text=cut_at_stop(pen.decode(pen.ids), pen.options.stop)[0].strip(),
        ids=tuple(pen.ids),
        evidence=observer.spans(memory.durations),
        timeline=observer.timeline(memory.durations),
        finish=pen.finish,
        stats=stats,
    )


def beyond_training(window: int | None, tokens: int) -> tuple[str, ...]:
    """A warning if there are more tokens than the checkpoint was trained to read."""
    if window is None or tokens <= window:
        return ()
    trained = f"the {window} this checkpoint was trained to read"
    return (f"{tokens} tokens are more than {trained}; answers may suffer (nothing was cut)",)


def check_device(cache: GrowingCache, model: LongtakeModel) -> None:
    """Raise PromptError if a memory was loaded onto another device than the model."""
    held = cache.layers[0].keys if cache.layers else None
    if held is not None and held.device.type != model.device.type:
        where = f"on {held.device.type}, the model on {model.device.type}"
        raise PromptError(f"this memory is {where}; load it with that device")


def continuable(memory: Memory, model: LongtakeModel) -> GrowingCache:
    """The memory's keys and values. Raises PromptError if they are not all there, or elsewhere."""
    cache = memory.cache
    if not isinstance(cache, GrowingCache) or cache.get_seq_length() < memory.length:
        raise PromptError("this memory has lost its keys and values; watch the video again")
    check_device(cache, model)
    return cache
