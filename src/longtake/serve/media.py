"""From what a client names (an address, a data URL, a file, a video's id) to checked files."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from longtake.errors import VideoError
from longtake.serve.faults import Refusal
from longtake.serve.fetch import Fetcher
from longtake.serve.files import Files, Work, remember
from longtake.serve.inbox import Inbox, Kept, harmless_name, media_too_large
from longtake.serve.jobs import Film, mark_of
from longtake.serve.limits import Limits
from longtake.serve.looking import look
from longtake.serve.schema import URL_CHARACTERS

OWN = "longtake:"
"""Before the id of a video of this server."""
DATA_BLOCK = 1 << 20
"""Characters of a data URL decoded at a time; a multiple of four."""


class Media:
    """Turns addresses into films; the same bytes are looked at once."""

    def __init__(self, inbox: Inbox, files: Files, fetcher: Fetcher, limits: Limits) -> None:
        self._inbox = inbox
        self._files = files
        self._fetcher = fetcher
        self._limits = limits
        self._looking = asyncio.Semaphore(2)
        self._films: OrderedDict[str, Film] = OrderedDict()
        """What was seen of files, by their digests."""
        self._addresses: OrderedDict[str, str] = OrderedDict()
        """Digest of what an address gave."""

    async def film(self, url: str, work: Work) -> Film:
        """The film behind an address, whose file stays until `work` is done. Raises Refusal."""
        scheme = url.partition(":")[0].lower()
        if scheme != "data" and len(url) > URL_CHARACTERS:
            raise Refusal(400, "media_forbidden", "the address is too long")
        if scheme == "data":
            return await self._data(url, work)
        if scheme == "file":
            return await self._local(url)
        if scheme in ("http", "https"):
            return await self._fetched(url, work)
        told = f"give an http(s) address, a data URL, a file: URL or {OWN}ID of a video here"
        raise Refusal(400, "media_forbidden", told)

    async def looked(self, kept: Kept) -> Film:
        """A film of a file that is there, looked at once. Raises Refusal."""
        seen = self._films.get(kept.digest)
        try:
            mark = kept.mark or mark_of(kept.path)
        except OSError as error:
            raise Refusal(400, "video_unusable", f"{kept.name}: it is gone") from error
        if seen is not None:
            return replace(seen, path=str(kept.path), name=kept.name, mark=mark)
        async with self._looking:
            looked = await asyncio.to_thread(look, kept.path, kept.name, self._limits)
        film = Film(
            path=str(kept.path),
            name=kept.name,
            digest=kept.digest,
            still=looked.still,
            seconds=looked.seconds,
            thumbnails=looked.thumbnails,
            mark=mark,
        )
        remember(self._films, kept.digest, film)
        return film

    async def again(self, film: Film, work: Work) -> Film:
        """A film that may be watched once more: its file is the same, and may be read.

        Raises Refusal.
        """
        work.pin(film.digest)
        whole = await asyncio.to_thread(self._files.whole, film)
        if whole is None:
            told = f"the file of {film.name} is not here, or not for clients; send it again"
            raise Refusal(403, "media_forbidden", told)
        return replace(film, path=str(whole[0]), mark=whole[1])

    async def _data(self, url: str, work: Work) -> Film:
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
            kept = self._inbox.keep(arrival, f"{kind.partition('/')[0]}.{suffix}", work.pin)
        return await self.looked(kept)

    async def _local(self, url: str) -> Film:
        forbidden = Refusal(
            403, "media_forbidden", "this server does not give out files of that folder"
        )
        try:
            parts = urlsplit(url)
            name = unquote(parts.path)
            if not self._files.roots or parts.netloc not in ("", "localhost") or "\0" in name:
                raise forbidden
            path = await asyncio.to_thread(Path(name).resolve)
        except (OSError, RuntimeError, ValueError) as error:
            raise forbidden from error
        if not any(path.is_relative_to(root) for root in self._files.roots):
            raise forbidden
        shown = harmless_name(path.name)
        try:
            if not path.is_file():
                raise Refusal(400, "video_unusable", f"{shown}: there is no such file")
            if path.stat().st_size > self._limits.upload_bytes:
                raise media_too_large(self._limits.upload_bytes)
            digest, mark = await asyncio.to_thread(self._files.digest, path)
        except (VideoError, OSError) as error:
            raise Refusal(400, "video_unusable", f"{shown}: it cannot be read") from error
        return await self.looked(Kept(path=path, name=shown, digest=digest, mark=mark))

    async def _fetched(self, url: str, work: Work) -> Film:
        known = self._films.get(self._addresses.get(url, ""))
        if known is not None:
            work.pin(known.digest)
            if (path := self._inbox.find(known.digest)) is not None:
                return await self.looked(Kept(path=path, name=known.name, digest=known.digest))
        with self._inbox.transfer(), self._inbox.arriving() as arrival:
            name = await self._fetcher.into(url, arrival.write)
            kept = self._inbox.keep(arrival, unquote(name), work.pin)
        film = await self.looked(kept)
        remember(self._addresses, url, film.digest)
        return film
