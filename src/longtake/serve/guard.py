"""The gate of every request: which host it names, whose page sent it, who it is, what is logged.

A browser sends any page's requests to any address, so a server on loopback is not private by
itself: the Host header must be one of ours (or a foreign name could be pointed here), and a
request that names an Origin must come from our own page.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longtake.serve.faults import Refusal
from longtake.serve.metrics import Metrics

LOG = logging.getLogger("longtake.serve")

OPEN = ("/", "/favicon.ico", "/health")
"""Paths that need no token: they tell nothing of what was watched."""
OPEN_FOLDER = "/web/"
COOKIE = "longtake_session"
SESSION_SECONDS = 12 * 3600
SHORTEST_TOKEN = 16
DRAIN_SECONDS, DRAIN_BYTES = 1.0, 64 << 20
"""Read of a refused body at most."""

HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "media-src 'self' blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""On every response. Nothing of another host is loaded, and no text is ever run or parsed."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Who may come in: everyone, or whoever has the token."""

    token: str | None
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def fits(self, given: str | None) -> bool:
        """Whether an Authorization header holds the token; takes as long for every wrong one."""
        if self.token is None:
            return True
        kind, _, word = (given or "").partition(" ")
        same = hmac.compare_digest(_digest(word.strip()), _digest(self.token))
        return same and kind.lower() == "bearer"

    def cookie(self) -> str:
        """A session for a browser, whose video element cannot send a header."""
        until = str(int(time.time()) + SESSION_SECONDS)
        return f"{until}.{self._sign(until)}"

    def knows(self, cookie: str) -> bool:
        """Whether a session was given out by this server and has not ended."""
        until, _, sign = cookie.partition(".")
        same = hmac.compare_digest(_digest(sign), _digest(self._sign(until)))
        return same and until.isdecimal() and int(until) > time.time()

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()


class Guard:
    """ASGI middleware: checks, headers, one log line and the counters of each request."""

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], keys: Keys, metrics: Metrics
    ) -> None:
        """`hosts`: names and addresses that a Host header may hold; "*" takes all."""
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499
        body = Body(scope, receive)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = dressed(message.get("headers", ()))
                if status >= 400 and not await body.drained():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if (refused := self._refused(scope)) is not None:
                await JSONResponse(refused.body(), refused.status, refused.headers)(
                    scope, body.receive, sending
                )
                return
            await self._app(scope, body.receive, sending)
        finally:
            took = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(took)
            # the path alone: a query or a header may hold what is nobody's business
            path = scope["path"].encode("ascii", "backslashreplace").decode()[:200]
            LOG.info("%s %r %d %.0f ms", scope["method"], path, status, 1000 * took)

    def _refused(self, scope: Scope) -> Refusal | None:
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        host = headers.get("host", "")
        if "*" not in self._hosts and host_name(host) not in self._hosts:
            told = "the Host header names another server; start with --allow-host to take it"
            return Refusal(403, "wrong_host", told)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(403, "wrong_origin", "requests of other sites' pages are not served")
        path = scope["path"]
        if (
            path in OPEN
            or path.startswith(OPEN_FOLDER)
            or self._keys.fits(headers.get("authorization"))
        ):
            return None
        # a cookie comes with every request of a browser, so that it may only read
        if scope["method"] in ("GET", "HEAD") and self._keys.knows(session_of(headers)):
            return None
        told = "this server asks for a token: send the header Authorization: Bearer TOKEN"
        return Refusal(401, "invalid_token", told)


class Body:
    """A request's body, of which it is known whether it was read to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        named = {key for key, _ in scope["headers"]}
        self._receive = receive
        self._over = not named & {b"content-length", b"transfer-encoding"} or b"expect" in named

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._over = True
        return message

    async def drained(self) -> bool:
        """Read on for a moment: a client that still sends would not see why it is refused.

        Whether all of it came.
        """
        count = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._over and count < DRAIN_BYTES:
                    count += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return False
        return self._over


def host_name(host: str) -> str:
    """A Host header without its port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0].lstrip("[")
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def session_of(headers: dict[str, str]) -> str:
    """The session cookie, or nothing."""
    try:
        jar: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""


def dressed(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[Any, Any]]:
    """Headers of a response and those that every response has."""
    said = {key.lower() for key, _ in headers}
    more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
    return [*headers, *(pair for pair in more if pair[0] not in said)]
