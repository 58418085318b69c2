"""`longtake serve`: answer questions about videos over HTTP, with a page for people."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.commands.recall import Seeing
from longtake.errors import OptionError
from longtake.flags import Condensing, Loading, ModelName, Part, spread
from longtake.flags_serve import Bounds, Listening
from longtake.library import Library
from longtake.terminal import say
from longtake.units import bytes_of

if TYPE_CHECKING:
    from longtake.serve.build import Choices  # they need the extra
    from longtake.serve.limits import Limits
    from longtake.stored import Settings

NEEDED = ("fastapi", "uvicorn", "httpcore", "prometheus_client", "python_multipart")


@spread
def serve(
    *,
    model: ModelName = "default",
    loading: Loading,
    condensing: Condensing,
    listening: Listening,
    bounds: Bounds,
) -> None:
    """Serve a model: an OpenAI-compatible API and a web page, until it is stopped."""
    require_extra()
    from longtake.serve.app import create_app
    from longtake.serve.build import service
    from longtake.serve.run import Place, server

    place = Place(
        host=listening.host,
        port=listening.port,
        token=listening.token(),
        hosts=tuple(listening.allow_host or ()),
    )
    limits = limits_of(bounds)
    with bound(place.host, place.port) as listener:
        log_to_stderr()
        seeing = Seeing(model=model, loading=loading, part=Part(), condensing=condensing)
        system = seeing.system()
        choices = choices_of(bounds, seeing.settings(), place.token)
        parts = service(system, choices, limits)
        running = server(create_app(parts, place.called), place, limits, parts.closing)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {choices.model} at http://{shown}:{port} (Ctrl-C stops)")
        running.run(sockets=[listener])


def limits_of(bounds: Bounds) -> Limits:
    """The server's limits. Raises OptionError."""
    from longtake.serve.limits import Limits

    return Limits(
        upload_bytes=bytes_of(bounds.max_upload, "max_upload"),
        stored_bytes=bytes_of(bounds.max_stored, "max_stored"),
        memory_bytes=bytes_of(bounds.memory, "memory"),
        video_seconds=bounds.max_video,
        waiting=bounds.queue,
        rows=bounds.rows,
        answer_seconds=bounds.timeout,
    )


def choices_of(bounds: Bounds, settings: Settings, token: str | None) -> Choices:
    """Where things are kept, and what the model is called. Raises OptionError."""
    from longtake.serve.build import Choices

    model = settings.model
    return Choices(
        folder=bounds.data or default_folder(),
        library=Library(bounds.library),
        settings=settings,
        model=Path(model).resolve().name if Path(model).is_dir() else model,
        token=token,
        roots=tuple(bounds.allow_root or ()),
        allowed=tuple(bounds.allow_network or ()),
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OptionError, before a model is loaded, if it cannot."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise OptionError(f"cannot listen at {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        listener.close()
        told = (
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another --port"
        )
        raise OptionError(told) from error
    return listener


def require_extra() -> None:
    """Raise OptionError unless the packages of the extra "serve" are there."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise OptionError(
            f"{', '.join(missing)} not installed; pip install -e '.[serve]' in the checkout "
            "brings the server"
        )


def default_folder() -> Path:
    """Where files that come in are kept unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "longtake" / "files"


def log_to_stderr() -> None:
    """One line per request and per fault on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("longtake.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
