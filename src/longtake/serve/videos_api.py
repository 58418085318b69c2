"""/v1/videos: send, watch, list, show, delete."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from longtake.errors import VideoError
from longtake.serve.chat import until_gone
from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal, shown
from longtake.serve.files import Work
from longtake.serve.form import Form
from longtake.serve.inbox import blocks, size_of
from longtake.serve.jobs import Job
from longtake.serve.service import Seen, Service

FORM_BYTES = 64 * 1024
"""Of a multipart body besides the file."""
FRAME_WIDTH = 1280
TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".ogv": "video/ogg",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""What a browser is told of a file; anything else is bytes, and nothing here is ever a page."""
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def routes(service: Service) -> APIRouter:
    """The routes, for one server."""
    router = APIRouter(prefix="/v1/videos")
    add_list(router, service)
    add_files(router, service)
    return router


def add_list(router: APIRouter, service: Service) -> None:
    """What there is, more of it, less of it."""

    def told(job: Job) -> dict[str, Any]:
        return job.shown(service.line.place(job.id)) | {"playable": service.playable(job)}

    @router.get("")
    async def every() -> Response:
        """All videos, the newest first."""
        await service.refresh()
        return JSONResponse({"object": "list", "data": [told(job) for job in service.videos.all()]})

    @router.post("")
    async def send(request: Request) -> Response:
        """Take a file, or an address in JSON, and watch it."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        with service.files.work() as work:
            if kind == "application/json":
                async with service.inbox.body(request) as body:
                    url, sight = addressed(body)
                    seen = await until_gone(request, service.seen([url], sight, work))
            else:
                seen = await received(service, request, kind, work)
            job = service.watched(seen, kept=True)
        # the same bytes are one video, under the name they came with first
        name = seen.films[0].name
        sent_as = {"sent_as": name if name != job.films[0].name else None}
        return JSONResponse(told(job) | sent_as, 200 if job.state == "ready" else 202)

    @router.get("/{video}")
    async def one(video: str) -> Response:
        """A video, with its progress while it is watched."""
        return JSONResponse(told(service.videos.get(video)))

    @router.delete("/{video}")
    async def remove(video: str) -> Response:
        """Forget a video; one that is being watched stops."""
        await service.remove(service.videos.get(video))
        return JSONResponse({"id": video, "object": "video.deleted", "deleted": True})


def add_files(router: APIRouter, service: Service) -> None:
    """What can be seen of a video."""
    stills = service.stills
    drawn = drawer()

    @router.get("/{video}/content")
    async def content(video: str, request: Request) -> Response:
        """The file itself, or a range of it."""
        path = await service.path_of(service.videos.get(video))
        if path is None:
            raise missing()
        check_range(request.headers.get("range"), size_of(path))
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "private, no-cache"})

    @router.get("/{video}/strip")
    async def strip(video: str, request: Request) -> Response:
        """Frames from beginning to end side by side, as a JPEG."""
        job = service.videos.get(video)
        path = await service.path_of(job)
        if path is None:
            raise missing()
        count = number(request.query_params.get("count", 10), "count") or 0
        height = number(request.query_params.get("height", 90), "height") or 0
        if job.films[0].still or not (1 <= count <= 40 and 16 <= height <= 240):
            told = "a video has strips of 1 to 40 frames, 16 to 240 pixels high"
            raise Refusal(400, "invalid_value", told)
        return await drawn(stills.strip, path, int(count), int(height))

    @router.get("/{video}/frame")
    async def frame(video: str, request: Request) -> Response:
        """The frame on screen at a time, as a JPEG."""
        job = service.videos.get(video)
        path = await service.path_of(job)
        at = number(request.query_params.get("at"), "at") or 0.0
        width = number(request.query_params.get("width", 320), "width") or 0
        if not (0 <= at < 1e9 and 16 <= width <= FRAME_WIDTH):
            told = f"at must be a time, and width 16 to {FRAME_WIDTH}"
            raise Refusal(400, "invalid_value", told)
        if path is None:
            return Response(nearest(job, at), media_type="image/jpeg")
        return await drawn(stills.frame, path, at, int(width))


def drawer() -> Callable[..., Awaitable[Response]]:
    """What draws pictures on threads, two at a time."""
    decoding = asyncio.Semaphore(2)

    async def drawn(draw: Callable[..., bytes], *what: object) -> Response:
        try:
            async with decoding:
                jpeg = await asyncio.to_thread(draw, *what)
        except (VideoError, OSError) as error:
            raise Refusal(404, "frame_missing", "there is no such frame") from error
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    return drawn


async def received(service: Service, request: Request, kind: str, work: Work) -> Seen:
    """A file out of a body, and how it is to be watched. Raises Refusal."""
    limits, said = service.limits, dict(request.query_params)
    with service.inbox.transfer(), service.inbox.arriving() as arrival:
        form = None
        if kind == "multipart/form-data":
            form = Form(request.headers["content-type"], arrival.write)
        more = FORM_BYTES if form else 0
        feed = form.feed if form else arrival.write
        async for block in blocks(request, limits, limits.upload_bytes + more):
            feed(block)
        if form is not None:
            form.close()
            said |= form.fields | {"name": form.name or ""}
        sight = sight_of(said, ("name", "max_frames", "fps", "start", "end", "purpose"))
        kept = service.inbox.keep(arrival, said.get("name", ""), work.pin)
    return service.as_seen((await service.media.looked(kept),), sight)


def addressed(body: bytes) -> tuple[str, Sight]:
    """An address and how to watch what it gives, out of JSON. Raises Refusal."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "invalid_json", "the body is no JSON") from error
    if not isinstance(said, dict) or not isinstance(said.get("url"), str):
        raise Refusal(400, "invalid_value", "give an object with url", param="url")
    return said["url"], sight_of(said, ("url", "max_frames", "fps", "start", "end"))


def sight_of(said: Mapping[str, Any], known: tuple[str, ...]) -> Sight:
    """How to watch, out of plain fields. Raises Refusal."""
    for name in said:
        if name not in known:
            raise Refusal(400, "unknown_parameter", f"{name[:80]!r} is unknown", param=name[:80])
    frames = number(said.get("max_frames"), "max_frames")
    if frames is not None and (frames != int(frames) or frames < 1):
        told = f"max_frames must be a whole number from 1, got {frames:g}"
        raise Refusal(400, "invalid_value", told, param="max_frames")
    rate = number(said.get("fps"), "fps")
    if rate is not None and not 0 < rate <= 1000:
        raise Refusal(400, "invalid_value", "fps must be above 0, at most 1000", param="fps")
    return Sight(
        max_frames=None if frames is None else int(frames),
        fps=rate,
        start=number(said.get("start"), "start"),
        end=number(said.get("end"), "end"),
    )


def number(value: Any, name: str) -> float | None:
    """A finite number, or None where nothing was given. Raises Refusal."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except (ValueError, OverflowError) as error:
        told = f"{name} must be a number, got {shown(value)}"
        raise Refusal(400, "invalid_value", told, param=name) from error
    return found


def nearest(job: Job, seconds: float) -> bytes:
    """The thumbnail nearest to a time, where the file itself cannot be read. Raises Refusal."""
    kept = job.films[0].thumbnails
    if not kept:
        raise missing()
    return min(kept, key=lambda one: abs(one.seconds - seconds)).jpeg


def missing() -> Refusal:
    """What is told where there is no file to look into."""
    return Refusal(404, "file_missing", "the file of this video is not here")


def check_range(said: str | None, size: int) -> None:
    """Raise Refusal for a Range header that asks for nothing there is."""
    if said is None:
        return
    found = RANGE.fullmatch(said.strip().replace(" ", ""))
    if found is None or found[1] + found[2] == "":
        raise Refusal(416, "invalid_range", "one range, as bytes=0-1023, is served")
    first, last = found[1], found[2]
    backwards = first and last and int(first) > int(last)
    if backwards or (first and int(first) >= size) or (not first and int(last) == 0):
        raise Refusal(416, "invalid_range", f"the file has {size} bytes")
