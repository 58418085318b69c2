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
from typing import Protocol

from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal, shown
from longtake.serve.jobs import Facts, Film, Job, Part, job_of
from longtake.stored import Stored

KEPT_FAILURES = 32


class Known(Protocol):
    """What is asked of the library and of the model (longtake.serve.memories.Memories)."""

    def key(self, films: Sequence[Film], frames: int | None, part: Part) -> str:
        """The id of films watched so."""

    def all(self) -> Sequence[Stored]:
        """What the library has of this model. Raises StoreError."""

    def others(self, digest: str) -> bool:
        """Whether the library had something of these bytes by other models when last looked at."""

    def holds(self, video: str) -> bool:
        """Whether a memory is held ready."""

    def has(self, video: str) -> bool:
        """Whether there is a memory, held or in the library."""


class Videos:
    """All jobs by id. Those of the library appear and go with it."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._looked = -1.0
        self._jobs: dict[str, Job] = {}
        self._dropped: set[str] = set()
        """Since the library was last looked at."""
        self._gone: list[Callable[[Job], None]] = []

    def when_gone(self, told: Callable[[Job], None]) -> None:
        """Have `told` called with each job that is forgotten, on any thread, without a lock."""
        self._gone.append(told)

    # -- from the event loop and its helpers ------------------------------------------------------

    def refresh(self) -> None:
        """Look at the library, once a second. Waits for the disk. Raises StoreError."""
        with self._looking:
            if time.monotonic() - self._looked < 1.0:
                return
            with self._lock:
                # what becomes ready, or is dropped, while the library is read is not in the list
                ready = [job for job in self._jobs.values() if job.state == "ready" and job.alone]
                self._dropped.clear()
            found = {stored.key: stored for stored in self._known.all()}
            self._looked = time.monotonic()
            lost = [job for job in ready if job.id not in found and not self._known.holds(job.id)]
            with self._lock:
                lost = [job for job in lost if self._remove(job)]
                for key in found.keys() - self._dropped:
                    if key not in self._jobs or self._jobs[key].state == "failed":
                        self._jobs[key] = job_of(found[key])
        self._tell_gone(lost)

    def key(self, films: tuple[Film, ...], sight: Sight) -> str:
        """The id of films watched so."""
        frames = sight.frames(max(film.seconds for film in films))
        return self._known.key(films, frames, (sight.start, sight.end))

    def there(self, video: str) -> bool:
        """Whether a video is watched, or will be, so that nobody need watch it again."""
        with self._lock:
            job = self._jobs.get(video)
        if job is None or job.state == "failed" or job.left.is_set():
            return False
        return job.state != "ready" or self._known.has(video)

    def want(self, films: tuple[Film, ...], sight: Sight, video: str) -> tuple[Job, bool]:
        """The job of films watched so, by id, and whether it is new and has to be enlisted.

        Raises Refusal if it would be new and is not to be had from these films.
        """
        there = self.there(video)
        with self._lock:
            job = self._jobs.get(video)
            if job is not None and there:
                return job, False
            if any(film.mark is None for film in films):
                raise Refusal(404, "video_unknown", "this video is gone; send it again")
            frames = sight.frames(max(film.seconds for film in films))
            job = Job(id=video, films=films, max_frames=frames, start=sight.start, end=sight.end)
            self._jobs[video] = job
            return job, True

    def get(self, video: str) -> Job:
        """A job by id. Raises Refusal."""
        with self._lock:
            job = self._jobs.get(video)
        if job is None:
            told = f"there is no video {shown(video)} here; list them first"
            raise Refusal(404, "video_unknown", told)
        return job

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.created)

    def uses(self, digest: str) -> bool:
        """Whether any job, or anything in the library, is of a file with these bytes."""
        with self._lock:
            jobs = tuple(self._jobs.values())
        used = any(film.digest == digest for job in jobs for film in job.films)
        return used or self._known.others(digest)

    def listen(self, job: Job, settled: Callable[[], None]) -> None:
        """Call `settled` once the job is ready, failed or dropped; at once if it is."""
        with self._lock:
            if job.state in ("queued", "watching") and self._jobs.get(job.id) is job:
                job.listeners.append(settled)
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

    def drop(self, job: Job) -> bool:
        """Forget a job; false if it was forgotten, or another one took its place."""
        job.left.set()
        with self._lock:
            removed = self._remove(job)
        self._settle(job)
        self._tell_gone([job] if removed else [])
        return removed

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
            old = sorted(failures, key=lambda one: one.created)[:-KEPT_FAILURES]
            old = [one for one in old if self._remove(one)]
        self._settle(job)
        self._tell_gone(old)

    def lost(self, video: str) -> None:
        """The memory of a video is gone; who asks again has it watched again."""
        with self._lock:
            job = self._jobs.get(video)
            lost = [job] if job is not None and job.state == "ready" and self._remove(job) else []
        self._tell_gone(lost)

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

    def _remove(self, job: Job) -> bool:
        """Take a job out, if it is there. To be called with the lock."""
        if self._jobs.get(job.id) is not job:
            return False
        del self._jobs[job.id]
        self._dropped.add(job.id)
        return True

    def _tell_gone(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            for told in self._gone:
                told(job)

    def _settle(self, job: Job) -> None:
        with self._lock:
            told, job.listeners = job.listeners, []
        for settled in told:
            settled()
