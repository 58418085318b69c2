"""Several questions about one memory, read and answered together.

All rows share the memory's keys and values (`parts/shared.py`); a row that ends makes room for one
that waits, so questions may come at any time. Where a memory depends on the question (`lanes.py`)
the same interface answers one after another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from longtake.answering import continuable, written
from longtake.engine import Observer, memory_errors
from longtake.errors import LongtakeError, OptionError, PromptError
from longtake.lanes import Alone, Host, Lane, Row, Together
from longtake.parts.chat import Turn
from longtake.parts.writing import Pen
from longtake.types import Answer, Memory, Options

ROWS = 16
"""Questions that are answered at a time; others wait."""


class Batch:
    """Questions about one memory, a step at a time. One thread drives it.

        with Batch(system, memory) as batch:
            rows = [batch.add(question) for question in questions]
            while batch.rows:
                for row in batch.step():
                    print(row.question, row.answer)

    The memory is taken when a question is added and given back, as it was, when none is left.
    """

    def __init__(self, system: Host, memory: Memory, most: int = ROWS) -> None:
        """`most`: rows at a time. Raises PromptError for a memory that cannot be asked."""
        if type(most) is not int or most < 1:
            raise OptionError(f"rows at a time must be a whole number from 1, got {most!r}")
        self.memory, self.most = memory, most
        self._asks, self._system = system, system.scaled(memory.target)
        self._cache = continuable(memory, system.model)
        self._waiting: deque[Row] = deque()
        self._inside: list[Row] = []
        self._lane: Lane | None = None
        self._held = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those that are not over, in the order in which they came."""
        return (*self._inside, *self._waiting)

    def add(
        self, question: str, options: Options | None = None, history: Sequence[Turn] = ()
    ) -> Row:
        """Add a question; it joins at the next step, or when there is room.

        Raises PromptError for a question that cannot be asked, or a memory that is busy.
        """
        ids = self._asks.asked(self.memory, question, history)
        options = options or self._asks.options()
        observed = self.memory.entries if options.evidence else ()
        row = Row(
            question=question,
            ids=ids,
            pen=Pen(
                options=options,
                end_ids=self._system.end_ids,
                decode=self._system.text,
                penalised=(*self.memory.ids, *ids) if self._system.penalises_prompt else (),
            ),
            observer=Observer(observed, self._cache.rows_of),
            pending=list(ids),
        )
        self._take()
        self._waiting.append(row)
        return row

    def drop(self, row: Row) -> None:
        """Leave a row as it is; the next step ends it. Of a row that is over, nothing."""
        row.dropped = True

    def step(self) -> list[Row]:
        """Take every row on: by a token, or by a part of its question; returns those that end."""
        with self._or_nothing():
            ended = self._without_dropped()
            self._let_in()
            with memory_errors(), torch.no_grad():
                if self._lane is not None and self._inside:
                    rows, features_RD = self._lane.forward(self._inside)
                    ended += self._written(rows, self._system.model.logits(features_RD))
            if not self.rows:
                self.close()
            return ended

    def close(self) -> None:
        """Give the memory back; rows that are not over are dropped and have no answer."""
        self._waiting.clear()
        self._inside.clear()
        self._lane = None
        if self._held:
            self._cache.rewind(self.memory.length)
            self._held = False
            self._cache.busy.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """After anything that breaks off a step, no row can go on: give the memory back."""
        whole = False
        try:
            yield
            whole = True
        finally:
            if not whole:
                self.close()

    def _take(self) -> None:
        """Take the memory. Raises PromptError while it answers elsewhere."""
        if self._lane is not None:
            return
        if not self._cache.busy.acquire(blocking=False):
            raise PromptError("this memory is answering another question; wait, or watch again")
        self._held = True
        with self._or_nothing():
            self._cache.rewind(self.memory.length)  # whoever used it last may have left something
            kind = Together if self._cache.shareable else Alone
            self._lane = kind(self._system, self.memory, self._cache)

    def _let_in(self) -> None:
        """Give waiting rows the room there is."""
        lane = self._lane
        most = self.most if lane is None or lane.most is None else min(self.most, lane.most)
        while lane is not None and self._waiting and len(self._inside) < most:
            row = self._waiting.popleft()
            row.began = time.perf_counter()
            lane.enter(row)
            self._inside.append(row)

    def _without_dropped(self) -> list[Row]:
        """End the rows that were dropped."""
        dropped = [row for row in self.rows if row.dropped]
        for row in dropped:
            try:
                row.pen.give_up()
            except LongtakeError as error:
                self._fail(row, error)
            else:
                self._end(row)
        return dropped

    def _written(self, rows: Sequence[Row], logits_RV: Tensor) -> list[Row]:
        """Write a token of each row that has been read; those that end."""
        for row in rows:
            row.read = row.read or time.perf_counter()
        return [
            row for row, logits in zip(rows, logits_RV, strict=True) if self._write(row, logits)
        ]

    def _write(self, row: Row, logits_V: Tensor) -> bool:
        """Write a row's next token; whether that was the last."""
        try:
            token = row.pen.take(logits_V)
        except LongtakeError as error:
            self._fail(row, error)
            return True
        if token is None:
            self._end(row)
            return True
        row.pending.append(token)
        return False

    def _end(self, row: Row) -> None:
        """A row is over: its answer, as it is."""
        lane, now = self._lane, time.perf_counter()
        memory = self.memory if lane is None else lane.memory_of(row)
        stats = replace(
            memory.stats,
            prompt_tokens=memory.length + len(row.ids),
            prefill_seconds=max(0.0, row.read - row.began),
            answer_seconds=now - row.read if row.read else 0.0,
        )
        row.answer = written(row.pen, row.observer, memory, stats)
        self._leave(row)

    def _fail(self, row: Row, error: LongtakeError) -> None:
        """A row is over without an answer."""
        row.error = error
        self._leave(row)

    def _leave(self, row: Row) -> None:
        if row in self._waiting:
            self._waiting.remove(row)
            return
        self._inside.remove(row)
        if self._lane is not None:
            self._lane.leave(row)


def answer_together(
    system: Host,
    memory: Memory,
    asked: Sequence[tuple[str, Options, Sequence[Turn]]],
    most: int = ROWS,
) -> list[Answer]:
    """Answers to questions with their options and histories, in order; raises a row's error."""
    with Batch(system, memory, most) as batch:
        rows = [batch.add(*one) for one in asked]
        while batch.rows:
            batch.step()
    return [row.result() for row in rows]


def lined_up(
    questions: Sequence[str],
    options: Options | Sequence[Options],
    histories: Sequence[Sequence[Turn]] | None = None,
) -> list[tuple[str, Options, Sequence[Turn]]]:
    """Each question with its options and history. Raises OptionError if there are not as many."""
    if isinstance(questions, str):
        raise OptionError("questions must be several texts; ask one by System.ask")
    chosen = [options] * len(questions) if isinstance(options, Options) else list(options)
    earlier = [()] * len(questions) if histories is None else list(histories)
    for name, given in (("options", chosen), ("histories", earlier)):
        if len(given) != len(questions):
            raise OptionError(f"{len(questions)} questions, but {len(given)} {name}; give as many")
    return list(zip(questions, chosen, earlier, strict=True))
