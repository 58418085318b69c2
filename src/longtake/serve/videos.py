"""Videos of the server: what is being watched and what has been. No tensors, no model.

What has been watched is in the library (longtake.library), which this mirrors; a video's id is its
key there, made of its bytes, of how it is sampled and of the model, so that the same file sent
twice is watched once. Several videos watched together have no place in a library: they stay in
memory as long as there is room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal
from longtake.stored import Stored, Thumbnail

State = Literal["queued", "watching", "ready", "failed"]
Part = tuple[float | None, float | None]
"""Seconds of a video between which it is watched."""
KEPT_FAILURES = 32


class Left(Exception):  # noqa: N818 - no error: its client went
    """Nobody wants the video any more."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A file that is watched."""

    path: str
    name: str
    digest: str
    """SHA-256 of its bytes."""
    still: bool
    seconds: float
    thumbnails: tuple[Thumbnail, ...] = ()
    """A few moments of it."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What watching found; all of it is known once a video is ready."""

    frames: int = 0
    tokens: int = 0
    bytes: int = 0
    watch_seconds: float | None = None
    """None until the memory has been opened."""
    warnings: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False)
class Job:
    """A video on its way from a file to a memory. Fields are changed under the lock of `Videos`."""

    id: str
    films: tuple[Film, ...]
    max_frames: int | None
    start: float | None
    end: float | None
    created: float = field(default_factory=time.time)
    state: State = "queued"
    facts: Facts = Facts()
    error: Refusal | None = None
    kept: bool = False
    """It was asked for by itself, not by a question; it is watched even if nobody waits."""
    waiters: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    part: float = 0.0
    """Share that has been watched."""
    whole: int = 0
    """Films watched in full."""
    last: int = 0

    @property
    def alone(self) -> bool:
        """Whether it is one video, which a library keeps."""
        return len(self.films) == 1

    @property
    def name(self) -> str:
        """What people call it."""
        more = len(self.films) - 1
        return self.films[0].name + (f" and {more} more" if more else "")

    def saw(self, stage: str, done: int, total: int) -> None:
        """Take note of progress."""
        if stage != "encode":
            return
        if done < self.last:
            self.whole += 1  # the next film has begun
        self.last = done
        self.part = min(1.0, (self.whole + done / max(total, 1)) / len(self.films))

    def left_seconds(self) -> float | None:
        """Seconds until it is watched, if the rest takes as long as what is behind."""
        if self.state != "watching" or not self.part:
            return None
        return (time.monotonic() - self.began) * (1 - self.part) / self.part

    def shown(self, place: int) -> dict[str, Any]:
        """The object a client sees; `place`: how many are watched before it."""
        left = self.left_seconds()
        return {
            "id": self.id,
            "object": "video",
            "name": self.name,
            "created": int(self.created),
            "status": self.state,
            "place": place,
            "progress": round(self.part, 4) if self.state == "watching" and self.part else None,
            "eta_seconds": None if left is None else round(left, 1),
            "duration": self.films[0].seconds,
            "still": self.films[0].still,
            "files": len(self.films),
            "max_frames": self.max_frames,
            "start": self.start,
            "end": self.end,
            "error": None if self.error is None else self.error.body()["error"],
        } | asdict(self.facts)


class Known(Protocol):
    """What is asked of the library and of the model (longtake.serve.memories.Memories)."""

    def key(self, films: Sequence[Film], frames: int | None, part: Part) -> str:
        """The id of films watched so."""

    def all(self) -> Sequence[Stored]:
        """What the library has of this model. Raises StoreError."""


class Videos:
    """All jobs by id. Those of the library appear and go with it."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._looked = -1.0
        self._jobs: dict[str, Job] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    # -- from the event loop and its helpers ------------------------------------------------------

    def refresh(self) -> None:
        """Look at the library, once a second. Waits for the disk. Raises StoreError."""
        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        found = {stored.key: stored for stored in self._known.all()}
        with self._lock:
            for job in tuple(self._jobs.values()):
                if job.state == "ready" and job.alone and job.id not in found:
                    del self._jobs[job.id]
            for key, stored in found.items():
                if key not in self._jobs or self._jobs[key].state == "failed":
                    self._jobs[key] = job_of(stored)

    def want(self, films: tuple[Film, ...], sight: Sight) -> tuple[Job, bool]:
        """The job of these films watched so, and whether it is new and has to be enlisted."""
        frames = sight.frames(max(film.seconds for film in films))
        name = self._known.key(films, frames, (sight.start, sight.end))
        with self._lock:
            job = self._jobs.get(name)
            if job is not None and job.state != "failed" and not job.left.is_set():
                return job, False
            job = Job(id=name, films=films, max_frames=frames, start=sight.start, end=sight.end)
            self._jobs[name] = job
            return job, True

    def get(self, video: str) -> Job:
        """A job by id. Raises Refusal."""
        with self._lock:
            job = self._jobs.get(video)
        if job is None:
            raise Refusal(404, "video_unknown", "there is no such video here; list them first")
        return job

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.created)

    def uses(self, digest: str) -> bool:
        """Whether any job is of a file with these bytes."""
        with self._lock:
            return any(film.digest == digest for job in self._jobs.values() for film in job.films)

    def listen(self, job: Job, settled: Callable[[], None]) -> None:
        """Call `settled` once the job is ready, failed or dropped; at once if it is."""
        with self._lock:
            if job.state in ("queued", "watching") and self._jobs.get(job.id) is job:
                self._listeners.setdefault(job.id, []).append(settled)
                return
        settled()

    def wait_for(self, job: Job, count: int) -> bool:
        """One more (1) or fewer (-1) waits for a job; whether nobody wants it any more."""
        with self._lock:
            job.waiters += count
            unwanted = not job.waiters and not job.kept and job.state in ("queued", "watching")
            if unwanted:
                job.left.set()
            return unwanted

    def drop(self, job: Job) -> None:
        """Forget a job."""
        job.left.set()
        with self._lock:
            if self._jobs.get(job.id) is job:
                del self._jobs[job.id]
        self._settle(job)

    # -- from the engine thread -------------------------------------------------------------------

    def begin(self, video: str) -> Job | None:
        """A job that is watched from now on; None if nobody wants it any more."""
        with self._lock:
            job = self._jobs.get(video)
            if job is None or job.left.is_set() or job.state != "queued":
                return None
            job.state, job.began = "watching", time.monotonic()
            return job

    def ready(self, job: Job, facts: Facts) -> bool:
        """A job is done. False if it was dropped meanwhile."""
        with self._lock:
            there = self._jobs.get(job.id) is job
            if there:
                job.facts, job.part, job.state = facts, 1.0, "ready"
        self._settle(job)
        return there

    def failed(self, job: Job, error: Refusal) -> None:
        """A job has come to nothing; the latest failures are remembered."""
        with self._lock:
            job.state, job.error = "failed", error
            failures = [one for one in self._jobs.values() if one.state == "failed"]
            for old in sorted(failures, key=lambda one: one.created)[:-KEPT_FAILURES]:
                del self._jobs[old.id]
        self._settle(job)

    def lost(self, video: str) -> None:
        """The memory of a video is gone; who asks again has it watched again."""
        with self._lock:
            self._jobs.pop(video, None)

    def learn(self, video: str, facts: Facts) -> None:
        """More is known of a video, now that its memory was opened."""
        with self._lock:
            if video in self._jobs:
                self._jobs[video].facts = facts

    def leave_all(self) -> None:
        """Nobody waits for anything any more: the server stops."""
        for job in self.all():
            if job.state in ("queued", "watching"):
                job.left.set()

    def _settle(self, job: Job) -> None:
        with self._lock:
            told = self._listeners.pop(job.id, [])
        for settled in told:
            settled()


def job_of(stored: Stored) -> Job:
    """A video of the library."""
    film = Film(
        path=stored.video.place,
        name=stored.video.name,
        digest=stored.video.digest,
        still=not stored.seconds,
        seconds=stored.seconds,
        thumbnails=stored.thumbnails,
    )
    return Job(
        id=stored.key,
        films=(film,),
        max_frames=stored.settings.max_frames,
        start=stored.settings.start,
        end=stored.settings.end,
        created=stored.created.timestamp(),
        state="ready",
        facts=Facts(frames=stored.frames, tokens=stored.tokens, bytes=stored.bytes),
        kept=True,
    )
