"""The application: routes, errors as OpenAI's objects, the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

from longtake.serve import chat, videos_api
from longtake.serve.faults import Refusal, shown
from longtake.serve.guard import COOKIE, SESSION_SECONDS, Guard
from longtake.serve.service import Service

WEB = Path(__file__).parent / "web"
FILES = {
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("main.js", "api.js", "format.js", "history.js", "player.js", "talk.js", "videos.js"),
        "text/javascript",
    ),
}
"""What the page is made of; nothing else of the disk has an address."""


def create_app(service: Service, hosts: tuple[str, ...]) -> ASGIApp:
    """The server's application. `hosts`: what a Host header may say."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop(service.limits.drain_seconds)

    app = FastAPI(
        title="longtake",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, broken)
    app.include_router(chat.routes(service))
    app.include_router(videos_api.routes(service))
    add_models(app, service)
    add_plain(app, service)
    add_page(app)
    return Guard(app, hosts=hosts, keys=service.keys, metrics=service.metrics)


def add_models(app: FastAPI, service: Service) -> None:
    """The routes that tell of the model."""
    about = service.about
    model = {
        "id": about.model,
        "object": "model",
        "created": about.created,
        "owned_by": "longtake",
        "longtake": {"system": about.system, "frames": about.frames},
    }

    @app.get("/v1/models")
    async def models() -> Response:
        """The model."""
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        """The model, by name."""
        if name not in (about.model, "default"):
            told = f"this server has the model {about.model}, not {shown(name)}"
            raise Refusal(404, "model_not_found", told)
        return JSONResponse(model)

    @app.get("/v1/server")
    async def server() -> Response:
        """What the page needs to know."""
        limits = service.limits
        told = ("upload_bytes", "video_seconds", "frames", "new_tokens")
        return JSONResponse(
            {
                "model": about.model,
                "system": about.system,
                "frames": about.frames,
                "limits": {name: getattr(limits, name) for name in told},
            }
        )


def add_plain(app: FastAPI, service: Service) -> None:
    """The session, and the routes that tell of the server."""

    @app.post("/v1/session")
    async def session() -> Response:
        """A cookie for a browser's player, which cannot send the token."""
        response = Response(status_code=204)
        if service.keys.token is not None:
            response.set_cookie(
                COOKIE,
                service.keys.cookie(),
                max_age=SESSION_SECONDS,
                httponly=True,
                samesite="strict",
                path="/v1/videos",
            )
        return response

    @app.get("/health")
    async def health() -> Response:
        """200 while the engine thread runs and takes questions."""
        fine = service.engine.alive and not service.line.closed
        return JSONResponse({"status": "ok" if fine else "stopping"}, 200 if fine else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters, as Prometheus reads them."""
        return Response(
            service.metrics.text(), headers={"Content-Type": service.metrics.content_type}
        )


def add_page(app: FastAPI) -> None:
    """The page and its files."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html", media_type="text/html", headers=FRESH)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(WEB / "icon.svg", media_type=FILES["icon.svg"])

    @app.get("/web/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in FILES:
            raise Refusal(404, "not_found", "there is no such file")
        return FileResponse(WEB / name, media_type=FILES[name], headers=FRESH)


FRESH = {"Cache-Control": "no-cache"}
"""The page asks each time whether its files have changed."""


async def refused(request: Request, error: Exception) -> Response:
    """A refusal, or what the router found no route for."""
    if isinstance(error, HTTPException):
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "http_error")
        made = Refusal(error.status_code, code, str(error.detail))
        return JSONResponse(made.body(), made.status, dict(error.headers or {}))
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status, error.headers)


async def broken(request: Request, error: Exception) -> Response:
    """What a client is told of a fault of ours; the log has the rest."""
    made = Refusal(500, "server_error", "something went wrong here; see the server's log")
    return JSONResponse(made.body(), 500)
