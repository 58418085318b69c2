"""From what a client names (an address, a data URL, a file, a video's id) to checked files."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from longtake.serve.faults import Refusal
from longtake.serve.fetch import Fetcher
from longtake.serve.inbox import Inbox, Kept, harmless_name
from longtake.serve.limits import Limits
from longtake.serve.looking import look
from longtake.serve.schema import URL_CHARACTERS
from longtake.serve.videos import Film

V = TypeVar("V")
OWN = "longtake:"
"""Before the id of a video of this server."""
REMEMBERED = 512
DATA_BLOCK = 1 << 20
"""Characters of a data URL decoded at a time; a multiple of four."""


class Media:
    """Turns addresses into films; the same bytes are looked at once."""

    def __init__(
        self, inbox: Inbox, fetcher: Fetcher, limits: Limits, roots: tuple[Path, ...]
    ) -> None:
        """`roots`: folders whose files clients may name."""
        self._inbox = inbox
        self._fetcher = fetcher
        self._limits = limits
        self._roots = tuple(root.resolve() for root in roots)
        self._looking = asyncio.Semaphore(2)
        self._films: OrderedDict[str, Film] = OrderedDict()
        self._addresses: OrderedDict[str, str] = OrderedDict()
        """Digest of what an address gave."""

    async def film(self, url: str) -> Film:
        """The film behind an address. Raises Refusal."""
        scheme = url.partition(":")[0].lower()
        if scheme != "data" and len(url) > URL_CHARACTERS:
            raise Refusal(400, "media_forbidden", "the address is too long")
        if scheme == "data":
            return await self._data(url)
        if scheme == "file":
            return await self._local(url)
        if scheme in ("http", "https"):
            return await self._fetched(url)
        told = f"give an http(s) address, a data URL, a file: URL or {OWN}ID of a video here"
        raise Refusal(400, "media_forbidden", told)

    async def looked(self, kept: Kept) -> Film:
        """A film of a file that came in; what cannot be watched is not kept. Raises Refusal."""
        known = self._films.get(kept.digest)
        if known is not None and Path(known.path).exists():
            return replace(known, name=kept.name)
        try:
            async with self._looking:
                looked = await asyncio.to_thread(look, kept.path, kept.name, self._limits)
        except Refusal:
            if self._inbox.has(kept.path):
                self._inbox.remove(kept.digest)
            raise
        film = Film(
            path=str(kept.path),
            name=kept.name,
            digest=kept.digest,
            still=looked.still,
            seconds=looked.seconds,
            thumbnails=looked.thumbnails,
        )
        remember(self._films, kept.digest, film)
        return film

    def forget(self, film: Film, used: bool) -> None:
        """A video of this film is gone; unless another is of it, so is the file that came in."""
        if used:
            return
        self._films.pop(film.digest, None)
        if self._inbox.has(Path(film.path)):
            self._inbox.remove(film.digest)

    def may_show(self, path: Path) -> bool:
        """Whether a file is there and may be given out."""
        ours = self._inbox.has(path) or any(path.is_relative_to(root) for root in self._roots)
        return ours and path.is_file()

    async def _data(self, url: str) -> Film:
        head, comma, body = url.partition(",")
        kind = head[5:].partition(";")[0].lower()
        if not comma or not head.lower().endswith(";base64"):
            raise Refusal(400, "media_forbidden", "a data URL must be base64")
        if not kind.startswith(("video/", "image/", "application/octet-stream")):
            raise Refusal(400, "media_forbidden", "a data URL must be a video or an image")
        with self._inbox.arriving() as arrival:
            try:
                for start in range(0, len(body), DATA_BLOCK):
                    part = body[start : start + DATA_BLOCK]
                    arrival.write(base64.b64decode(part, validate=True))
            except (binascii.Error, ValueError) as error:
                raise Refusal(400, "media_forbidden", "the data URL is no base64") from error
            suffix = kind.partition("/")[2].removeprefix("x-")
            kept = self._inbox.keep(arrival, f"{kind.partition('/')[0]}.{suffix}")
        return await self.looked(kept)

    async def _local(self, url: str) -> Film:
        forbidden = Refusal(
            403, "media_forbidden", "this server does not give out files of that folder"
        )
        parts = urlsplit(url)
        name = unquote(parts.path)
        if not self._roots or parts.netloc not in ("", "localhost") or "\0" in name:
            raise forbidden
        try:
            path = await asyncio.to_thread(Path(name).resolve)
        except (OSError, RuntimeError, ValueError) as error:
            raise forbidden from error
        if not any(path.is_relative_to(root) for root in self._roots):
            raise forbidden
        shown = harmless_name(path.name)
        if not path.is_file():
            raise Refusal(400, "video_unusable", f"{shown}: there is no such file")
        digest, size = await asyncio.to_thread(digest_of, path)
        return await self.looked(Kept(path=path, name=shown, digest=digest, size=size))

    async def _fetched(self, url: str) -> Film:
        known = self._films.get(self._addresses.get(url, ""))
        if known is not None and Path(known.path).exists():
            return known
        with self._inbox.transfer(), self._inbox.arriving() as arrival:
            name = await self._fetcher.into(url, arrival.write)
            kept = self._inbox.keep(arrival, unquote(name))
        film = await self.looked(kept)
        remember(self._addresses, url, film.digest)
        return film


def remember(known: OrderedDict[str, V], key: str, value: V) -> None:
    """Add to a dictionary of bounded size, in which the oldest goes first."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > REMEMBERED:
        known.popitem(last=False)


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
