"""Videos of the server: what is being watched and what has been. No tensors, no model.

A video's id is made of its bytes, of how it is sampled and of the model that watches it, so the
same file sent twice is watched once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal

State = Literal["queued", "watching", "ready", "failed"]
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


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What watching found; all of it is known once a video is ready."""

    frames: int = 0
    tokens: int = 0
    bytes: int = 0
    watch_seconds: float = 0.0
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


class Videos:
    """All jobs by id; those that are ready or to be kept are in a folder, a JSON file each."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """`fingerprint` of the model: what another has watched is not shown."""
        self._folder = folder
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._stopped = False
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("vid_*.json")):
            if (job := self._read(path)) is not None:
                self._jobs[job.id] = job

    # -- from the event loop ----------------------------------------------------------------------

    def want(self, films: tuple[Film, ...], sight: Sight) -> tuple[Job, bool]:
        """The job of these films watched so, and whether it is new and has to be enlisted."""
        frames = sight.frames(max(film.seconds for film in films))
        said = {
            "model": self._fingerprint,
            "films": [film.digest for film in films],
            "sight": [frames, sight.start, sight.end],
        }
        name = f"vid_{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]}"
        with self._lock:
            job = self._jobs.get(name)
            if job is not None and job.state != "failed" and not job.left.is_set():
                return job, False
            job = Job(id=name, films=films, max_frames=frames, start=sight.start, end=sight.end)
            self._jobs[name] = job
            return job, True

    def keep(self, job: Job) -> None:
        """Watch a job though nobody waits for it; a server that stops takes it up again."""
        with self._lock:
            if not job.kept:
                job.kept = True
                self._write(job)

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
        """Call `settled` once the job is ready or failed; at once if it is."""
        with self._lock:
            if job.state in ("queued", "watching"):
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
        """Forget a job; what is written of it stays if it is to be taken up after a stop."""
        job.left.set()
        with self._lock:
            if self._jobs.get(job.id) is job:
                del self._jobs[job.id]
                if not (self._stopped and job.kept):
                    self._path(job.id).unlink(missing_ok=True)
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
        """A job is done; written down before anyone is told. False if it was dropped meanwhile."""
        with self._lock:
            there = self._jobs.get(job.id) is job
            if there:
                job.facts, job.part, job.state = facts, 1.0, "ready"
                self._write(job)
        self._settle(job)
        return there

    def failed(self, job: Job, error: Refusal) -> None:
        """A job has come to nothing; the latest failures are remembered."""
        with self._lock:
            job.state, job.error = "failed", error
            self._path(job.id).unlink(missing_ok=True)
            failures = [one for one in self._jobs.values() if one.state == "failed"]
            for old in sorted(failures, key=lambda one: one.created)[:-KEPT_FAILURES]:
                del self._jobs[old.id]
        self._settle(job)

    def leave_all(self) -> None:
        """Nobody waits for anything any more: the server stops."""
        self._stopped = True
        for job in self.all():
            if job.state in ("queued", "watching"):
                job.left.set()

    def _settle(self, job: Job) -> None:
        with self._lock:
            told = self._listeners.pop(job.id, [])
        for settled in told:
            settled()

    # -- on disk ----------------------------------------------------------------------------------

    def _path(self, video: str) -> Path:
        return self._folder / f"{video}.json"

    def _write(self, job: Job) -> None:
        kept = {
            "id": job.id,
            "model": self._fingerprint,
            "films": [asdict(film) for film in job.films],
            "max_frames": job.max_frames,
            "start": job.start,
            "end": job.end,
            "created": job.created,
            "facts": asdict(job.facts) if job.state == "ready" else None,
        }
        with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
            json.dump(kept, file)
        os.replace(file.name, self._path(job.id))

    def _read(self, path: Path) -> Job | None:
        """A job as it was left; None for another model's, or a file that is not whole."""
        try:
            kept = json.loads(path.read_bytes())
            if kept["model"] != self._fingerprint:
                return None
            facts = None
            if kept["facts"] is not None:
                facts = Facts(**{**kept["facts"], "warnings": tuple(kept["facts"]["warnings"])})
            return Job(
                id=kept["id"],
                films=tuple(Film(**film) for film in kept["films"]),
                max_frames=kept["max_frames"],
                start=kept["start"],
                end=kept["end"],
                created=kept["created"],
                state="queued" if facts is None else "ready",
                facts=facts or Facts(),
                kept=True,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
