"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from longtake.errors import OptionError, PromptError
from longtake.serve.conversation import Talk, talk
from longtake.serve.faults import Refusal, gone, refusal, shown
from longtake.serve.files import Work
from longtake.serve.jobs import NO_VIDEO, Job
from longtake.serve.replies import DONE, Reply, comment, event
from longtake.serve.schema import ChatRequest, ImagePart, parsed
from longtake.serve.service import Seen, Service
from longtake.serve.told import Done, Failed

SIGN_SECONDS = 1.0
"""Between two signs of life of a stream while a video is watched."""
T = TypeVar("T")


def routes(service: Service) -> APIRouter:
    """The route, for one server."""
    router = APIRouter()
    body = {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}

    @router.post("/v1/chat/completions", openapi_extra={"requestBody": body})
    async def complete(request: Request) -> Response:
        """Answer the last message of a conversation about videos and images."""
        asking, job = await begun(request, service)
        if not asking.streams:
            return JSONResponse(await until_gone(request, asking.whole(job)))
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            asking.stream(job), headers=headers, media_type="text/event-stream"
        )

    return router


async def begun(request: Request, service: Service) -> tuple[Asking, Job | None]:
    """A question and the job it waits for, None where it is about no video.

    What was sent is let go with this. Raises Refusal.
    """
    async with service.inbox.body(request) as sent:
        asked = parsed(sent)
        asking = Asking(service, asked)
        if not asking.looks:
            return asking, None
        with service.files.work() as work:
            seen = await until_gone(request, asking.seen(work))
            return asking, service.watched(seen, kept=False)


def checked_talk(asked: ChatRequest, service: Service) -> Talk:
    """What is asked, if this server can be asked it now. Raises Refusal."""
    if asked.model not in ("default", service.about.model):
        told = f"this server has the model {service.about.model}, not {shown(asked.model)}"
        raise Refusal(404, "model_not_found", told, param="model")
    wanted = talk(asked, service.limits)
    if not wanted.question.strip():
        raise Refusal(400, "invalid_value", "the last message has no words", param="messages")
    try:
        service.memories.check(wanted.question, wanted.history, wanted.options)
    except (OptionError, PromptError) as error:
        raise refusal(error) from error
    service.line.check()
    return wanted


class Asking:
    """One question on its way."""

    def __init__(self, service: Service, asked: ChatRequest) -> None:
        """Raises Refusal."""
        self._service = service
        self._wanted = checked_talk(asked, service)
        self._until = asyncio.get_running_loop().time() + service.limits.answer_seconds
        self.streams = asked.stream
        self.looks = bool(self._wanted.media)
        self._counted = asked.stream_options is not None and asked.stream_options.include_usage

    async def seen(self, work: Work) -> Seen:
        """What is asked about, looked at; its addresses are let go. Raises Refusal."""
        urls = [
            part.image_url.url if isinstance(part, ImagePart) else part.video_url.url
            for part in self._wanted.media
        ]
        self._wanted = replace(self._wanted, media=())
        try:
            async with asyncio.timeout_at(self._until):
                return await self._service.seen(urls, self._wanted.sight, work)
        except TimeoutError as error:
            raise self._late() from error

    async def whole(self, job: Job | None) -> dict[str, object]:
        """A chat.completion. Raises Refusal."""
        try:
            async with asyncio.timeout_at(self._until):
                async with aclosing(self._signs(job)) as signs:
                    async for _ in signs:
                        pass
                async with self._service.asking(id_of(job), self._wanted, stream=False) as heard:
                    while not isinstance(told := await heard.get(), Done):
                        if isinstance(told, Failed):
                            raise told.refusal
            return self._reply(job).whole(told.answer)
        except TimeoutError as error:
            raise self._late() from error

    async def stream(self, job: Job | None) -> AsyncIterator[str]:
        """Server-sent events up to [DONE]; what goes wrong on the way is an event as well."""
        reply = self._reply(job)
        try:
            async with asyncio.timeout_at(self._until):
                async with aclosing(self._signs(job)) as signs:
                    async for one in signs:
                        yield comment(one)
                async with self._service.asking(id_of(job), self._wanted, stream=True) as heard:
                    yield reply.begin()
                    while not isinstance(told := await heard.get(), Done):
                        if isinstance(told, Failed):
                            raise told.refusal
                        yield reply.piece(told.text)
            yield reply.end(told.answer)
            if self._counted:
                yield reply.used(told.answer)
            yield DONE
        except TimeoutError:
            yield event(self._late().body())
        except Refusal as error:
            yield event(error.body())

    async def _signs(self, job: Job | None) -> AsyncGenerator[str]:
        """How far a job is, until it is ready. Raises the Refusal of one that came to nothing."""
        if job is None:
            return
        async with self._service.waiting(job) as settled:
            while not settled.is_set():
                yield sign(job, self._service.line.place(job.id))
                with suppress(TimeoutError):
                    await asyncio.wait_for(settled.wait(), SIGN_SECONDS)
            self._ready(job)

    def _reply(self, job: Job | None) -> Reply:
        return Reply(model=self._service.about.model, video=None if job is None else job.id)

    def _ready(self, job: Job) -> None:
        """Raise the Refusal of a job that came to nothing."""
        if job.error is not None:
            raise job.error
        if job.state != "ready":
            raise gone() if self._service.line.closed else deleted()

    def _late(self) -> Refusal:
        seconds = self._service.limits.answer_seconds
        return Refusal(504, "timeout", f"there was no answer within {seconds:.0f} s")


def id_of(job: Job | None) -> str:
    """What a question is about."""
    return NO_VIDEO if job is None else job.id


def deleted() -> Refusal:
    """What is told of a video that went while it was waited for."""
    return Refusal(404, "video_unknown", "the video was deleted before it was watched")


def sign(job: Job, place: int) -> str:
    """How far a job is, in words; a client that wants it reads the stream's comments."""
    if job.state != "watching":
        return f"queued, {place} before it"
    left = job.left_seconds()
    rest = "" if left is None else f", {left:.0f} s left"
    return f"watching {job.part:.0%}{rest}"


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` comes to, unless the client goes away first; then it is cancelled."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "client_gone", "the client went away")
        return task.result()
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Refusal):
                await task


async def disconnected(request: Request) -> None:
    """Return once the client has closed its side. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
