"""Where the bytes of a video come from: a path, an http(s) address or a binary file object.

A `Source` can be opened any number of times at once, which is what lets several decoders work on
one video. A path is opened by FFmpeg itself; a file object is shared behind a lock, each opening
with its own position; what cannot be rewound (an address, a pipe) is first spooled to an anonymous
temporary file of bounded size, never into memory.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from longtake.errors import VideoError
from longtake.places import check_file, check_video, is_address

LIMIT_BYTES = 16 << 30
"""Most bytes taken from an address or a pipe unless the caller says otherwise."""

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_DEMUX_FAILURES = 32

# Playlists and concatenation scripts name further files; content from outside must not open any.
_PLAIN_FORMATS = (
    "mov,mp4,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,live_flv,ogg,asf,nut,mxf,ivf,obu,av1,"
    "h264,hevc,vvc,m4v,mjpeg,gif,apng,webp,image2,png_pipe,jpeg_pipe,bmp_pipe,tiff_pipe,webp_pipe,"
    "wtv,rm,dv,y4m,yuv4mpegpipe,gxf,vc1,h263,dirac,wav,mp3,aac,flac"
)


class Source:
    """Something that holds a video and can be opened repeatedly; `close` it when done."""

    def __init__(self, name: str, place: str | IO[bytes], *, owned: bool) -> None:
        self.name = name
        self._place = place
        self._owned = owned
        self._lock = threading.Lock()

    def open(self) -> InputContainer:
        """Open a fresh container at the first packet; raise VideoError if FFmpeg cannot read it."""
        try:
            if isinstance(self._place, str):
                # The prefix keeps a name like "a:b.mp4" from being taken for a protocol, the option
                # one like "100%d.png" for a series of pictures.
                return av.open(
                    f"file:{self._place}",
                    mode="r",
                    metadata_errors="ignore",
                    container_options={"pattern_type": "none"},
                )
            return av.open(
                View(self._place, self._lock),
                mode="r",
                metadata_errors="ignore",
                buffer_size=_BLOCK // 4,
                container_options={"format_whitelist": _PLAIN_FORMATS},
            )
        except (FFmpegError, OSError) as problem:
            raise VideoError(f"{self.name}: {self._diagnose(problem)}") from problem

    def raw(self) -> BinaryIO | View:
        """Return the bytes themselves, with a position of its own; close it."""
        if isinstance(self._place, str):
            return open(self._place, "rb")
        return View(self._place, self._lock)

    def close(self) -> None:
        """Drop the spooled copy, if there is one; a file object of the caller stays open."""
        if self._owned and not isinstance(self._place, str):
            self._place.close()

    def _diagnose(self, problem: Exception) -> str:
        if isinstance(problem, PermissionError):
            return "may not be read (permission denied); change its permissions or owner"
        if isinstance(problem, FileNotFoundError):
            return "is no longer there; put it back or open another"
        with contextlib.closing(self.raw()) as file:
            head = file.read(512)
        if not head:
            return "is empty (0 bytes), expected a video; copy or download it again"
        if head[4:8] in (b"ftyp", b"mdat", b"moov", b"wide", b"free"):
            return (
                "has no readable index (moov box), so its recording or download never finished; "
                "fetch it again or repair it"
            )
        if _looks_like_text(head):
            return "is a text file, expected a video; check that it is the right file"
        return "is not a video FFmpeg can read; check the file or convert it to mp4"


class View:
    """One opening's own position in a file object that several openings share."""

    def __init__(self, file: IO[bytes], lock: threading.Lock) -> None:
        self._file = file
        self._lock = lock
        self._position = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes from this opening's position."""
        with self._lock:
            self._file.seek(self._position)
            data = self._file.read(size) or b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as `io.IOBase.seek` does."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            with self._lock:
                offset += self._file.seek(0, os.SEEK_END)
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def close(self) -> None:
        """Do nothing: the file belongs to the source."""


def find_source(
    source: str | os.PathLike[str] | BinaryIO, *, limit_bytes: int = LIMIT_BYTES
) -> Source:
    """Turn a path, an http(s) address or a binary file object into a `Source`.

    A file object is read from its first byte and left open. `limit_bytes` bounds what an address
    or a pipe may deliver. Raises VideoError when nothing can be read there.
    """
    if isinstance(source, str) and is_address(source):
        check_video(source)
        return _download(source, limit_bytes)
    if isinstance(source, (str, os.PathLike)):
        return _on_disk(Path(source))
    if not hasattr(source, "read"):
        found = type(source).__name__
        raise VideoError(f"expected a path, an http(s) address or a binary file, found {found}")
    name = Path(str(getattr(source, "name", "video"))).name
    if not isinstance(source.read(0), bytes):
        raise VideoError(f'{name}: is opened as text; open it with mode "rb"')
    if source.seekable():
        return Source(name, source, owned=False)
    return _spool(name, source, limit_bytes)


def pick_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the video stream to read: the default one, cover pictures aside.

    The other streams are told to deliver nothing. Raises VideoError when there is none.
    """
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    default = av.stream.Disposition.default
    streams = [s for s in container.streams.video if not s.disposition & cover]
    # FFmpeg renders plain text as a video of a terminal; nobody means that.
    if not streams or container.format.name == "tty":
        kinds = sorted({s.type for s in container.streams if s not in streams})
        found = "text" if container.format.name == "tty" else " and ".join(kinds) or "no stream"
        raise VideoError(f"{name}: holds no video (found: {found}); give a file with pictures")
    chosen = max(streams, key=lambda s: bool(s.disposition & default))
    if chosen.codec_context is None:
        raise VideoError(f"{name}: its codec is unknown to FFmpeg; convert it to H.264 mp4")
    if hasattr(chosen, "discard"):  # PyAV 18; before, the packets are read and thrown away
        for other in container.streams:
            if other is not chosen:
                other.discard = av.stream.Discard.all
    return chosen


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a stream in decode order from the present position to the end.

    A read error is stepped over, as players do; a run of them ends the stream.
    """
    failures = 0
    packets = container.demux(stream)
    while failures < _DEMUX_FAILURES:
        try:
            packet = next(packets, None)
        except FFmpegError:
            failures += 1
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        failures = 0
        # An empty packet says nothing, and a decoder would take it for the end of the stream.
        if packet.size:
            yield packet


def _on_disk(path: Path) -> Source:
    check_file(path)
    return Source(path.name, str(path), owned=False)


def _download(address: str, limit_bytes: int) -> Source:
    parts = urllib.parse.urlsplit(address)
    # Without the query, which may hold a secret.
    name = Path(urllib.parse.unquote(parts.path)).name or parts.netloc
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,  # a redirect to another kind of address is an error
    ):
        opener.add_handler(handler())
    request = urllib.request.Request(address, headers={"User-Agent": "longtake"})
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            stated = int(response.headers.get("Content-Length") or 0)
            if stated > limit_bytes:
                raise _too_large(name, limit_bytes)
            return _spool(name, response, limit_bytes, stated)
    except urllib.error.HTTPError as problem:
        problem.close()
        reason = f"{problem.code} {problem.reason}"
        raise VideoError(f"{name}: the server answered {reason}; check the address") from problem
    except VideoError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as problem:
        raise VideoError(f"{name}: could not be downloaded ({problem}); try again") from problem


def _spool(name: str, stream: IO[bytes], limit_bytes: int, stated: int = 0) -> Source:
    with contextlib.ExitStack() as on_error:
        file = on_error.enter_context(tempfile.TemporaryFile(prefix="longtake-"))
        size = 0
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > limit_bytes:
                raise _too_large(name, limit_bytes)
            file.write(block)
        if size < stated:
            message = f"{name}: the connection closed after {size} of {stated} bytes; try again"
            raise VideoError(message)
        on_error.pop_all()
    return Source(name, file, owned=True)


def _too_large(name: str, limit_bytes: int) -> VideoError:
    return VideoError(
        f"{name}: is larger than the {limit_bytes} bytes allowed; raise limit_bytes or save it to a"
        " file first"
    )


def _looks_like_text(head: bytes) -> bool:
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return control == 0
