"""Who waits for what: questions by memory, and videos to be watched. No tensors, no model.

All of it is used from two sides, the event loop that admits and the engine thread that takes, and
is guarded by one lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from longtake.serve.faults import Refusal, gone

LONGEST_WAIT = 60
"""Most seconds a client is told to wait before it comes back."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One question about one memory, and where to tell what becomes of it."""

    video: str
    """Id of what was watched."""
    text: str
    history: tuple[tuple[str, str], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """Plain fields of the library's Options."""
    tell: Callable[[Any], None]
    """Takes events; called on the engine thread, returns at once."""
    stream: bool = False
    """Whether pieces of text are told as they are written."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the answer any more."""
    born: float = field(default_factory=time.monotonic)


class Line:
    """The waiting line. Full, it refuses; taken from, it gives questions of one memory together."""

    def __init__(self, *, questions: int, videos: int) -> None:
        """`questions`: most waiting or being answered; `videos`: the same of watching."""
        self._most = questions
        self._most_videos = videos
        self._lock = threading.Condition()
        self._waiting: OrderedDict[str, deque[Question]] = OrderedDict()
        self._answering = 0
        self._videos: deque[str] = deque()
        self._watching: str | None = None
        self._pace = 0.5
        """Seconds per answer lately, as the line moves."""
        self._last = 0.0
        self._closed = False

    # -- the side that admits ---------------------------------------------------------------------

    def join(self, question: Question) -> None:
        """Wait for an answer. Raises Refusal when the line is full or closed."""
        with self._lock:
            self._open()
            count = self._count()
            if count >= self._most:
                told = f"{count} questions are waiting already; come back a little later"
                raise Refusal(429, "queue_full", told, retry_after=self._wait(count))
            self._waiting.setdefault(question.video, deque()).append(question)
            self._lock.notify_all()

    def check(self) -> None:
        """Raise the Refusal that a question would meet now; asked before work goes into one."""
        with self._lock:
            self._open()
            if (count := self._count()) >= self._most:
                told = f"{count} questions are waiting already; come back a little later"
                raise Refusal(429, "queue_full", told, retry_after=self._wait(count))

    def enlist(self, video: str) -> None:
        """Wait to be watched. Raises Refusal when too many wait, or the line is closed."""
        with self._lock:
            self._open()
            if len(self._videos) + (self._watching is not None) >= self._most_videos:
                told = f"{len(self._videos)} videos are waiting to be watched; come back later"
                raise Refusal(429, "watching_full", told, retry_after=LONGEST_WAIT)
            self._videos.append(video)
            self._lock.notify_all()

    def close(self) -> None:
        """Take nobody any more."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    # -- the side that takes ----------------------------------------------------------------------

    def memories(self) -> tuple[str, ...]:
        """Ids that questions wait for, the one that has waited longest for its turn first."""
        with self._lock:
            return tuple(self._waiting)

    def take(self, video: str, most: int) -> list[Question]:
        """Up to `most` questions of one memory, oldest first; those who left are dropped.

        The memory goes to the end of the line, so that no other waits for all its questions.
        """
        with self._lock:
            line = self._waiting.get(video, deque())
            taken: list[Question] = []
            while line and len(taken) < most:
                question = line.popleft()
                if not question.left.is_set():
                    taken.append(question)
            if line:
                self._waiting.move_to_end(video)
            else:
                self._waiting.pop(video, None)
            self._answering += len(taken)
            return taken

    def answered(self, count: int = 1) -> None:
        """So many taken questions are done."""
        with self._lock:
            now = time.monotonic()
            self._answering -= count
            if self._last:
                self._pace += 0.1 * (min(now - self._last, 10.0) / count - self._pace)
            self._last = now if self._count() else 0.0

    def next_video(self) -> str | None:
        """The next to be watched, from now on being watched; None if there is none."""
        with self._lock:
            self._watching = self._videos.popleft() if self._videos else None
            return self._watching

    def watched(self) -> None:
        """What was being watched is done."""
        with self._lock:
            self._watching = None

    def drop_video(self, video: str) -> bool:
        """Forget a video that waits to be watched; whether it waited."""
        with self._lock:
            waited = video in self._videos
            if waited:
                self._videos.remove(video)
            return waited

    def wait(self, seconds: float) -> None:
        """Sleep until there may be something to take."""
        with self._lock:
            if not (self._waiting or self._videos or self._closed):
                self._lock.wait(seconds)

    # -- what there is ----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    @property
    def answering(self) -> int:
        """Questions being answered."""
        with self._lock:
            return self._answering

    @property
    def closed(self) -> bool:
        """Whether nobody is taken any more."""
        return self._closed

    @property
    def videos(self) -> int:
        """Videos that wait to be watched or are being watched."""
        with self._lock:
            return len(self._videos) + (self._watching is not None)

    def place(self, video: str) -> int:
        """How many videos are watched before this one; 0 if it does not wait."""
        with self._lock:
            ahead = self._watching is not None
            return self._videos.index(video) + ahead if video in self._videos else 0

    def _count(self) -> int:
        # those who left and were not yet taken make no one wait
        left = sum(q.left.is_set() for line in self._waiting.values() for q in line)
        return sum(map(len, self._waiting.values())) - left + self._answering

    def _wait(self, count: int) -> int:
        return max(1, min(LONGEST_WAIT, math.ceil(self._pace * count / 2)))

    def _open(self) -> None:
        if self._closed:
            raise gone()
