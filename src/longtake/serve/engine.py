"""The one thread that owns the model: it watches videos and answers questions, by turns.

Questions about one memory are answered side by side, a token of each per step; memories take steps
in turn. While a video is watched, questions get about half of the time: between two chunks of it
as long as the last chunk took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from longtake.errors import LongtakeError
from longtake.serve.faults import Refusal, gone, refusal
from longtake.serve.jobs import Job, Left
from longtake.serve.limits import Limits
from longtake.serve.metrics import Metrics
from longtake.serve.model import Model, Rows
from longtake.serve.queue import Line, Question
from longtake.serve.told import Done, Failed, Text
from longtake.serve.videos import Videos
from longtake.types import Answer

LOG = logging.getLogger("longtake.serve")
IDLE_SECONDS = 0.5
SHORTEST_TURN = 0.02
"""Seconds that questions get between two chunks of a video, at least."""
BROKEN = Refusal(500, "server_error", "watching failed; see the server's log")
FAILED = Refusal(500, "server_error", "the model failed; see the server's log")


class Group:
    """The rows of one memory and who asked them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.asked: dict[int, tuple[Any, Question]] = {}


class Engine:
    """Runs the thread. `stop` ends it."""

    def __init__(
        self, model: Model, videos: Videos, line: Line, limits: Limits, metrics: Metrics
    ) -> None:
        self._model = model
        self._videos = videos
        self._line = line
        self._limits = limits
        self._metrics = metrics
        self._groups: dict[str, Group] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longtake-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Take no new question, give those under way so many seconds, end."""
        self._line.close()
        until = time.monotonic() + seconds
        while self._line.waiting + self._line.answering and time.monotonic() < until:
            self._thread.join(0.05)
        self._ended.set()
        self._videos.leave_all()
        self._thread.join(5.0)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                if self._turn():
                    continue
                video = self._line.next_video()
                if video is not None:
                    self._watch(video)
                    self._line.watched()
                else:
                    self._line.wait(IDLE_SECONDS)
        except Exception as error:
            LOG.critical("the engine thread ends; restart the server", exc_info=error)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Take nobody any more, and let nobody wait."""
        self._line.close()
        self._videos.leave_all()
        for video in tuple(self._groups):
            self._break(video, gone())
        for video in self._line.memories():
            self._tell_all(self._line.take(video, self._line.waiting), gone())

    def _turn(self) -> bool:
        """Let questions in and take a step of each memory; whether there was anything to do."""
        for video in self._line.memories():
            self._let_in(video)
        groups = tuple(self._groups.items())
        for video, group in groups:
            self._step(video, group)
        return bool(groups)

    def _let_in(self, video: str) -> None:
        """Take questions of a memory as far as there is room for rows."""
        busy = sum(len(group.asked) for group in self._groups.values())
        questions = self._line.take(video, self._limits.rows - busy)
        if not questions:
            return
        group = self._groups.get(video)
        try:
            if group is None:
                group = Group(self._model.rows(video, tuple(self._groups)))
        except Refusal as error:
            self._videos.lost(video)
            self._tell_all(questions, error)
        except LongtakeError as error:
            self._tell_all(questions, refusal(error))
        except Exception as error:
            LOG.error("the memory of %s cannot be asked", video, exc_info=error)
            self._tell_all(questions, FAILED)
        else:
            self._groups[video] = group
            if (facts := self._model.facts(video)) is not None:
                self._videos.learn(video, facts)
            for question in questions:
                self._add(group, question)
            if not group.asked:
                del self._groups[video]

    def _add(self, group: Group, question: Question) -> None:
        try:
            options = self._model.options(
                question.options,
                on_text=self._shower(question),
                cancelled=question.left.is_set,
            )
            row = group.rows.add(question.text, options, question.history)
        except LongtakeError as error:
            self._tell_all([question], refusal(error))
        except Exception as error:
            LOG.error("a question about %s cannot be asked", question.video, exc_info=error)
            self._tell_all([question], FAILED)
        else:
            group.asked[id(row)] = (row, question)

    def _shower(self, question: Question) -> Callable[[str], None]:
        """What is called with each piece of an answer's text."""
        begun = False

        def show(text: str) -> None:
            nonlocal begun
            if not begun and text:
                begun = True
                self._metrics.first_seconds.observe(time.monotonic() - question.born)
            if text and question.stream:
                question.tell(Text(text=text))

        return show

    def _step(self, video: str, group: Group) -> None:
        self._metrics.batch.observe(len(group.asked))
        try:
            over = group.rows.step()
        except LongtakeError as error:
            self._break(video, refusal(error))
            return
        except Exception as error:
            LOG.error("a step of %s failed", video, exc_info=error)
            self._break(video, FAILED)
            return
        for row in over:
            _, question = group.asked.pop(id(row))
            if row.error is not None:
                self._tell_all([question], refusal(row.error))
            else:
                self._finish(question, row.answer)
        if not group.asked:
            self._groups.pop(video, None)

    def _finish(self, question: Question, answer: Answer) -> None:
        metrics = self._metrics
        metrics.answers.labels(answer.finish).inc()
        metrics.tokens.inc(len(answer.ids))
        metrics.prompt_tokens.inc(answer.stats.prompt_tokens)
        metrics.answer_seconds.observe(time.monotonic() - question.born)
        self._line.answered()
        question.tell(Done(answer=answer))

    def _break(self, video: str, told: Refusal) -> None:
        """Give up the rows of a memory."""
        group = self._groups.pop(video)
        group.rows.close()
        self._tell_all([question for _, question in group.asked.values()], told)

    def _tell_all(self, questions: Sequence[Question], told: Refusal) -> None:
        self._metrics.answers.labels("failed").inc(len(questions))
        self._line.answered(len(questions))
        for question in questions:
            question.tell(Failed(refusal=told))

    def _watch(self, video: str) -> None:
        job = self._videos.begin(video)
        if job is None:
            return
        last = time.monotonic()

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal last
            job.saw(stage, done, total)
            if threading.current_thread() is not self._thread:
                return  # decoding runs ahead on a thread of its own
            if job.left.is_set():
                raise Left
            took = time.monotonic() - last
            self._share(max(took, SHORTEST_TURN))
            last = time.monotonic()

        outcome, began = "ready", time.monotonic()
        try:
            facts = self._model.watch(job, progress, lambda: tuple(self._groups))
            self._metrics.frames.inc(facts.frames)
            self._metrics.watch_seconds.observe(time.monotonic() - began)
            if not self._videos.ready(job, facts):
                self._model.forget(job.id)
        except (Left, LongtakeError, OSError) as error:
            outcome = self._unwatched(job, error)
        except Exception as error:
            LOG.error("watching %s failed", video, exc_info=error)
            outcome = "failed"
            self._videos.failed(job, BROKEN)
        self._metrics.watches.labels(outcome).inc()

    def _unwatched(self, job: Job, error: Left | LongtakeError | OSError) -> str:
        """Settle a watch that ended early: what it is counted as.

        Whoever leaves takes the video's file along, so leaving can show as any of these.
        """
        if job.left.is_set():
            self._videos.drop(job)
            return "left"
        if not isinstance(error, LongtakeError):
            LOG.error("watching %s failed", job.id, exc_info=error)
        self._videos.failed(job, refusal(error) if isinstance(error, LongtakeError) else BROKEN)
        return "failed"

    def _share(self, seconds: float) -> None:
        """Answer questions for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._turn():
            pass
