"""Everything behind the routes, in one place: who waits, what is kept, the engine thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from longtake.errors import StoreError
from longtake.serve.conversation import Sight, Talk, checked
from longtake.serve.engine import Engine
from longtake.serve.faults import Refusal, refusal
from longtake.serve.files import Files, Work
from longtake.serve.guard import Keys
from longtake.serve.inbox import Inbox
from longtake.serve.jobs import Film, Job
from longtake.serve.limits import Limits
from longtake.serve.media import OWN, Media
from longtake.serve.memories import Memories
from longtake.serve.metrics import Metrics
from longtake.serve.queue import Line, Question
from longtake.serve.stills import Stills
from longtake.serve.told import Done, Failed, Text
from longtake.serve.videos import Videos

LOG = logging.getLogger("longtake.serve")
CAPTIONED = (
    "{} was watched with captions, which a server cannot read again; ask by its id alone while its "
    "memory is there, or send the video"
)


@dataclass(frozen=True, kw_only=True)
class About:
    """What clients may know of the model."""

    model: str
    system: str
    frames: int
    """Frames sampled of a video unless a client says otherwise."""
    created: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a client wants watched."""

    films: tuple[Film, ...]
    sight: Sight
    video: str
    """The id of these films watched so."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of a server, made once; routes ask it, on the event loop."""

    about: About
    limits: Limits
    keys: Keys
    metrics: Metrics
    line: Line
    videos: Videos
    inbox: Inbox
    files: Files
    media: Media
    memories: Memories
    stills: Stills
    engine: Engine

    async def start(self) -> None:
        """Drop files that no video is of, begin to work. The library has been looked at."""
        await asyncio.to_thread(self.files.sweep)
        self.engine.start()

    def closing(self) -> None:
        """Take no more questions and videos; what is being watched is left."""
        self.line.close()
        self.videos.leave_all()

    async def stop(self, seconds: float) -> None:
        """Finish what is under way, end the engine thread."""
        await asyncio.to_thread(self.engine.stop, seconds)
        self.memories.close()
        self.stills.close()
        self.inbox.close()

    async def refresh(self) -> None:
        """Look at the library. Raises Refusal."""
        try:
            await asyncio.to_thread(self.videos.refresh)
        except StoreError as error:
            raise refusal(error) from error

    def playable(self, job: Job) -> bool:
        """Whether there seems to be a file of a video that clients may have."""
        return job.alone and self.files.place(job.films[0]) is not None

    async def path_of(self, job: Job) -> Path | None:
        """The file of a video, if it is still the same and clients may have it."""
        found = await asyncio.to_thread(self.files.whole, job.films[0]) if job.alone else None
        return None if found is None else found[0]

    async def seen(self, urls: Sequence[str], sight: Sight, work: Work) -> Seen:
        """The films behind addresses, and how to watch them; their files stay until `work` is done.

        Raises Refusal.
        """
        jobs = [self.videos.get(url.removeprefix(OWN)) for url in urls if url.startswith(OWN)]
        said = {job.sight for job in jobs}
        if sight == Sight() and len(jobs) == len(urls) and len(said) == 1:
            sight = said.pop()
            if len(jobs) == 1 and self.videos.there(jobs[0].id):
                return Seen(films=jobs[0].films, sight=sight, video=jobs[0].id)
        if spoken := [job for job in jobs if job.captions]:
            raise Refusal(409, "captions_unread", CAPTIONED.format(spoken[0].name))
        own, found = iter(jobs), list[Film]()
        for url in urls:
            if url.startswith(OWN):
                found += [replace(film, mark=None) for film in next(own).films]
            else:
                found.append(await self.media.film(url, work))
        seen = self.as_seen(tuple(found), sight)
        if self.videos.there(seen.video):
            return seen
        fresh = [film if film.mark else await self.media.again(film, work) for film in found]
        return replace(seen, films=tuple(fresh))

    def as_seen(self, films: tuple[Film, ...], sight: Sight) -> Seen:
        """Films, and how to watch them. Raises Refusal."""
        video = self.videos.key(films, checked(sight, self.limits))
        return Seen(films=films, sight=sight, video=video)

    def watched(self, seen: Seen, *, kept: bool) -> Job:
        """The job of films, in the line if it is new. Raises Refusal.

        `kept`: it is watched though nobody should wait for it.
        """
        start = seen.sight.start
        for film in seen.films:
            if not film.still and start is not None and start >= film.seconds:
                told = f"{film.name} lasts {film.seconds:.1f} s, less than start"
                raise Refusal(400, "invalid_value", told, param="start")
        job, new = self.videos.want(seen.films, seen.sight, seen.video)
        if new and job.max_frames is not None and job.max_frames > self.limits.frames:
            self.drop(job)
            told = f"that would be {job.max_frames} frames, at most {self.limits.frames} are taken"
            raise Refusal(400, "too_many_frames", told, param="fps")
        if kept:
            job.kept = True
        if new:
            self._enlist(job)
        return job

    def _enlist(self, job: Job) -> None:
        try:
            self.line.enlist(job.id)
        except Refusal:
            self.drop(job)
            raise

    async def remove(self, job: Job) -> None:
        """Forget a video, and its memory. Raises Refusal if another process asks it now."""
        try:
            await asyncio.to_thread(self.memories.forget, job.id)
        except StoreError as error:
            raise Refusal(409, "video_in_use", str(error)) from error
        self.drop(job)

    def drop(self, job: Job) -> None:
        """Forget a job."""
        if self.videos.drop(job):
            self.line.drop_video(job.id)

    @asynccontextmanager
    async def waiting(self, job: Job) -> AsyncIterator[asyncio.Event]:
        """An event that is set once a job is ready or failed; leaving may end an unwanted job."""
        settled, loop = asyncio.Event(), asyncio.get_running_loop()
        self.videos.wait_for(job, 1)
        try:
            if job.state in ("ready", "failed"):
                settled.set()

            def tell() -> None:
                loop.call_soon_threadsafe(settled.set)

            self.videos.listen(job, tell)
            yield settled
        finally:
            if self.videos.wait_for(job, -1):
                self.drop(job)  # if it is being watched, the engine thread leaves off

    @asynccontextmanager
    async def asking(
        self, video: str, talk: Talk, *, stream: bool
    ) -> AsyncIterator[asyncio.Queue[Text | Done | Failed]]:
        """What becomes of a question about a video that is ready, or NO_VIDEO; leaving gives it up.

        `stream`: pieces of text are told as they are written. Raises Refusal.
        """
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[Text | Done | Failed] = asyncio.Queue()

        def tell(told: Text | Done | Failed) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, told)

        question = Question(
            video=video,
            text=talk.question,
            history=talk.history,
            options=talk.options,
            tell=tell,
            stream=stream,
        )
        self.line.join(question)
        try:
            yield heard
        finally:
            question.left.set()
