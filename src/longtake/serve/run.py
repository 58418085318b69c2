"""Run the application: where it listens, who may come, how long a header may take, how it stops."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from longtake.errors import OptionError
from longtake.serve.guard import SHORTEST_TOKEN
from longtake.serve.limits import Limits

LOG = logging.getLogger("longtake.serve")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the server listens, and who may come."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    hosts: tuple[str, ...] = ()
    """More names that clients may call it by."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port must be 0 to 65535, got {self.port}")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise OptionError(f"the token is too short to be secret; use {SHORTEST_TOKEN} letters")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise OptionError("the token must be printable ASCII, or no header can hold it")
        if self.token is None and not is_loopback(self.host):
            raise OptionError(
                f"{self.host} can be reached from other machines, so a token is needed: "
                "put one into a file and give --token-file, or set LONGTAKE_TOKEN"
            )

    @property
    def called(self) -> tuple[str, ...]:
        """What a Host header may say. With a token, a foreign page cannot ask anything anyway."""
        if self.token is not None and not self.hosts:
            return ("*",)
        return ("localhost", "127.0.0.1", "::1", self.host, *self.hosts)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request headers do not come."""

    header_seconds: float = 10.0
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._follow()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs while a header is not whole."""
        super().data_received(data)
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._stop()
        super().connection_lost(exc)

    def _follow(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self.timer is None:
            self.timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        self.timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, told when to stop taking questions, and leaving without a signal of its own."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or Ctrl-C: finish what is under way; the second time, leave at once."""
        if not self.should_exit:
            LOG.info("%s: stopping; again to stop at once", signal.Signals(sig).name)
            self.should_exit = True
        else:
            self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new before waiting for what is under way."""
        self._stopping()
        await super().shutdown(sockets)


def server(app: ASGIApp, place: Place, limits: Limits, stopping: Callable[[], None]) -> Server:
    """A server that `run()` starts; `stopping` is called when it is asked to end."""
    timed = type("Timed", (TimedProtocol,), {"header_seconds": limits.header_seconds})
    config = uvicorn.Config(
        app,
        host=place.host,
        port=place.port,
        http=timed,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Server(config, stopping)
