"""A real server on a free port, with the bundled model and short clips of the session's folder."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from longtake.api import load
from longtake.captions import Caption
from longtake.library import Library
from longtake.serve.app import create_app
from longtake.serve.build import Choices, service
from longtake.serve.limits import Limits
from longtake.serve.run import Place, server
from longtake.serve.service import Service
from longtake.stored import Settings
from longtake.system import System
from longtake.video.cards import Card
from longtake.video.insert import Place as Where
from longtake.video.insert import insert_card
from tests.clips import write_clip

CARD = Card(number=47, word="RIVER", colour="green")


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked to have OpenAI's fields."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"] and "\n" not in error["message"]
        return error


@dataclass
class Running:
    """A server and how to speak to it."""

    service: Service
    port: int
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request; a body that is no bytes is sent as JSON."""
        sent = dict(self.headers) | (headers or {})
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        line = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, body, sent)
            found = line.getresponse()
            headers = {name.lower(): value for name, value in found.getheaders()}
            return Reply(found.status, headers, found.read())
        finally:
            line.close()

    def send(self, path: Path, **fields: object) -> Reply:
        """Upload a file as it is."""
        query = "&".join(f"{name}={value}" for name, value in {"name": path.name, **fields}.items())
        kind = {"Content-Type": "application/octet-stream"}
        return self.ask("POST", f"/v1/videos?{query}", path.read_bytes(), kind)

    def watched(self, path: Path, **fields: object) -> str:
        """Upload, wait until it is watched; its id."""
        sent = self.send(path, **fields)
        assert sent.status in (200, 202), sent.body
        return self.settled(sent.json["id"])

    def settled(self, video: str) -> str:
        """Wait until a video is watched."""
        until = time.monotonic() + 60
        while (state := self.ask("GET", f"/v1/videos/{video}").json["status"]) != "ready":
            assert state in ("queued", "watching") and time.monotonic() < until, state
            time.sleep(0.02)
        return video

    def chat(self, video: str, question: str, **more: Any) -> Reply:
        """Ask about a video of this server."""
        return self.ask(
            "POST", "/v1/chat/completions", question_about(f"longtake:{video}", question, **more)
        )


def question_about(url: str, question: str, **more: Any) -> dict[str, Any]:
    """A request's body."""
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": parts}], **more}


@cache
def bundled() -> System:
    """The bundled model, loaded once for all servers; nothing changes it."""
    return load("default", device="cpu")


def files_in(folder: Path) -> list[str]:
    """What a server's folder holds besides its lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def card_clip(folder: Path, name: str = "card.mp4", card: Card = CARD) -> Path:
    """Six seconds of colours with a card in the middle."""
    plain = write_clip(folder / f"plain-{name}", 30, size=160)
    return insert_card(plain, folder / name, card, Where(at_seconds=3.0, seconds=1.0))


@contextmanager
def running(
    folder: Path,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    limits: Limits | None = None,
    **more: Any,
) -> Iterator[Running]:
    """A server, stopped at the end."""
    limits = limits or Limits(drain_seconds=2.0)
    system = bundled()
    choices = Choices(
        folder=folder / "files",
        library=Library(folder / "library"),
        settings=Settings(),
        token=token,
        **more,
    )
    parts = service(system, choices, limits)
    place = Place(port=0, token=token, hosts=hosts)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    made = server(create_app(parts, place.called), place, limits, parts.closing)
    thread = threading.Thread(target=lambda: asyncio.run(made.serve(sockets=[listener])))
    thread.start()
    try:
        until = time.monotonic() + 30
        while not made.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        yield Running(parts, listener.getsockname()[1], token)
    finally:
        made.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that happens on another thread."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def data_url(path: Path) -> str:
    """A video as an address that holds it."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def watch_elsewhere(
    folder: Path, path: Path, captions: Sequence[Caption] = (), **settings: Any
) -> str:
    """Watch as the command line or a script does; the memory's key."""
    system, wanted = bundled(), Settings(**settings)
    frames = settings.get("max_frames")
    memory = system.watch(path, max_frames=8 if frames == "auto" else frames, captions=captions)
    return Library(folder).save(memory, system=system, source=path, settings=wanted).key
