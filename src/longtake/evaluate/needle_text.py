"""Needles in text: a number in a long book, among numbers of other cities (LongVA's first stage).

The language model alone reads: no video, no chat around the text. Distractors are put in first, the
needle last, each behind the next end of a sentence (arXiv 2406.16852, section 4.1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtake.engine import memory_errors, prefill, require_room, write
from longtake.errors import CapacityError, LongtakeError, OptionError, StoreError
from longtake.evaluate.header import about
from longtake.evaluate.needle_memory import Bench, likeliest, reads_on
from longtake.evaluate.needle_rules import LONGVA, Depth, Rule, Score, matches
from longtake.evaluate.needle_run import Cell
from longtake.evaluate.needle_scores import single_summary
from longtake.evaluate.results import Results, Row
from longtake.parts.cache import GrowingCache
from longtake.reader import Known, Progress
from longtake.system import System

PREFIX = "This is a very long story book: <book>"
NEEDLE = "\nThe special magic {city} number is: {number}.\n"
QUESTION = (
    "</book>.\n Based on the content of the book, Question: What is the special magic Singapore "
    "number? Answer: The special magic Singapore number is: "
)
CITY = "Singapore"
OTHERS = ("New York", "London", "Paris", "Tokyo", "Beijing", "Berlin")
LARGEST = 10**7
LLAMA_PERIODS = (29889, 869)
"""Where V-NIAH's text script ends a sentence: ids of Llama's tokenizer, whatever the model's is."""


@dataclass(frozen=True, kw_only=True)
class TextTrial:
    """What is to be measured."""

    rule: Rule
    lengths: tuple[int, ...]
    """Tokens of the book, ascending."""
    depths: tuple[Depth, ...]
    numbers: int = 5
    """Needles of each cell, the same for all."""
    distractors: int = 0
    score: Score = "both"
    answer_tokens: int | None = None
    """Most tokens of a generated answer; None: four more than the number has."""
    seed: int = 24242424
    """The original's unless said otherwise."""

    def __post_init__(self) -> None:
        if self.numbers < 1 or self.distractors < 0 or self.seed >= 2**32:
            raise OptionError(
                f"numbers must be 1 or more, distractors 0 or more and a seed below 2^32, got "
                f"{self.numbers}, {self.distractors} and {self.seed}"
            )

    def cells(self) -> list[Cell]:
        """Length by length."""
        return [Cell(frames=n, depth=depth) for n in self.lengths for depth in self.depths]

    def header(
        self, system: System, model: str, sources: Sequence[str], given: Row | None = None
    ) -> Row:
        """What results of this trial depend on; `given`: options of the system."""
        return {
            "what": "needle text",
            "model": model,
            **about(system, given),
            "seed": self.seed,
            "rule": self.rule.name,
            "score": self.score,
            "answer_tokens": self.answer_tokens,
            "frames": list(self.lengths),
            "depths": [[depth.share, depth.label] for depth in self.depths],
            "numbers": self.numbers,
            "distractors": self.distractors,
            "videos": list(sources),
        }


@dataclass(frozen=True, kw_only=True)
class Book:
    """A text with what is put around and into it, as ids."""

    text: Sequence[int]
    prefix: Sequence[int]
    question: Sequence[int]
    distractors: Sequence[Sequence[int]]
    periods: Collection[int]
    """Ids that end a sentence."""

    def prompt(
        self, length: int, depth: float, needle: Sequence[int], draws: Sequence[int]
    ) -> list[int]:
        """The whole prompt; `draws`: where each distractor is put before it moves on."""
        ids = list(self.text[:length])
        for distractor, at in zip(self.distractors, draws, strict=True):
            ids = self._put(ids, distractor, at)
        # the very beginning needs no sentence to end before it
        ids = self._put(ids, needle, int(len(ids) * depth)) if depth else [*needle, *ids]
        return [*self.prefix, *ids, *self.question]

    def _put(self, ids: list[int], new: Sequence[int], at: int) -> list[int]:
        ends = (place + 1 for place in range(at, len(ids)) if ids[place] in self.periods)
        at = next(ends, at)
        return [*ids[:at], *new, *ids[at:]]

    def draws(self, rng: np.random.RandomState, length: int) -> list[int]:
        """One place per distractor, each among what is there by then."""
        places, there = [], min(length, len(self.text))
        for distractor in self.distractors:
            places.append(int(rng.randint(0, there)))
            there += len(distractor)
        return places


def book_of(system: System, text: str, trial: TextTrial, numbers: Sequence[int]) -> Book:
    """A text's ids, repeated until they are as many as the longest length."""
    ids = system.tokens(text)
    longest = max(trial.lengths)
    ids = ids * -(-longest // len(ids))
    cities = [OTHERS[n % len(OTHERS)] for n in range(len(numbers))]
    return Book(
        text=ids,
        prefix=system.tokens(PREFIX),
        question=system.tokens(QUESTION),
        distractors=[
            system.tokens(NEEDLE.format(city=city, number=number))
            for city, number in zip(cities, numbers, strict=True)
        ],
        periods=LLAMA_PERIODS if trial.rule == LONGVA else sentence_ends(system, ids),
    )


def sentence_ends(system: System, ids: Sequence[int]) -> frozenset[int]:
    """Which of these ids end a sentence."""
    return frozenset(i for i in set(ids) if system.text([i]).rstrip().endswith((".", "!", "?")))


@dataclass(kw_only=True)
class Reader:
    """Reads one prompt after another; what two begin with in common is read once."""

    bench: Bench
    _cache: GrowingCache | None = field(default=None, init=False)
    _read: list[int] = field(default_factory=list, init=False)

    def read(self, ids: list[int], room: int) -> tuple[Tensor, GrowingCache]:
        """Features [D] of the last id, and the cache behind it. Raises CapacityError."""
        system, cache, shared = self.bench.system, self._cache, 0
        self._cache = None
        if cache is None or not reads_on(system):
            cache = system.new_cache()
        else:
            pairs = zip(ids[:-1], self._read, strict=False)
            shared = next((n for n, (a, b) in enumerate(pairs) if a != b), 0)
        with memory_errors():
            cache.rewind(shared)
            require_room(system.model, len(ids) + room, held=shared)
            cache.reserve(len(ids) + room)
            if reads_on(system):
                embedded = system.model.embed(
                    torch.tensor(ids[shared:], device=system.model.device)
                )
                features_D = prefill(system.model, iter([embedded.detach()]), cache)
            else:
                known = Known(len(ids))
                features = system.remember(iter([tuple(ids)]), cache, known).features_D
                assert features is not None
                features_D = features
        self._cache, self._read = cache, ids
        return features_D, cache


def run_text(
    system: System, text: str, trial: TextTrial, results: Results, progress: Progress
) -> None:
    """Make the rows that are not there yet; draws are those of an uninterrupted run."""
    rng = np.random.RandomState(trial.seed)
    wanted = [int(rng.randint(LARGEST)) for _ in range(trial.numbers)]
    others = [int(rng.randint(LARGEST)) for _ in range(trial.distractors)]
    book = book_of(system, text, trial, others)
    reader = Reader(bench=Bench(system=system, rule=trial.rule))
    total, done = sum(cell.frames for cell in trial.cells()), 0
    for cell in trial.cells():
        draws = [book.draws(rng, cell.frames) for _ in wanted]
        if cell.key not in results.done():
            results.add(text_row(reader, book, cell, list(zip(wanted, draws, strict=True)), trial))
        done += cell.frames
        progress("ask", done, total)


def text_row(
    reader: Reader,
    book: Book,
    cell: Cell,
    needles: Sequence[tuple[int, list[int]]],
    trial: TextTrial,
) -> Row:
    """One cell's row; a failure that concerns it alone becomes its "error"."""
    assert cell.depth is not None
    share, tokens, answers = cell.depth.share, reader.bench.system.tokens, []
    try:
        for number, draws in needles:
            needle = tokens(NEEDLE.format(city=CITY, number=number))
            prompt = book.prompt(cell.frames, share, needle, draws)
            answers.append(text_answer(reader, prompt, str(number), trial))
    except StoreError:
        raise
    except (LongtakeError, MemoryError) as error:
        reason = error if isinstance(error, LongtakeError) else CapacityError("out of memory")
        return {**cell.about(), "error": " ".join(str(reason).split())}
    return {**cell.about(), "asked": len(answers), **single_summary(answers), "answers": answers}


def text_answer(reader: Reader, ids: list[int], wanted: str, trial: TextTrial) -> dict[str, Any]:
    """One number, in the ways that are scored."""
    bench, system, score = reader.bench, reader.bench.system, trial.score
    answer_ids = system.tokens(wanted)
    most = trial.answer_tokens or len(answer_ids) + 4
    told: dict[str, Any] = {"needle": wanted, "about": "number", "wanted": wanted}
    features_D, cache = reader.read(ids, len(answer_ids) + most)
    length = cache.get_seq_length()
    if score in ("forced", "both"):
        found = likeliest(bench, cache, features_D, answer_ids)
        told |= {"forced": found == answer_ids, "predicted": list(found)}
        cache.rewind(length)
    if score in ("generated", "both"):
        options = system.options(max_new_tokens=most, repetition_penalty=1.0)
        out = write(
            system.model, features_D, cache, options, end_ids=system.end_ids, decode=system.text
        )
        said = system.text(out.ids).strip()
        told |= {"generated": matches(bench.rule, said, wanted), "said": said}
        cache.rewind(length)
    return told
