"""Where videos come from: names that look odd, file objects, pipes and addresses."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from longtake.errors import VideoError
from longtake.video.decode import open_video
from tests.video.makers import Clips
from tests.video.reference import decode_all

LISTS = b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n%s\n#EXT-X-ENDLIST\n"


class Pipe(io.RawIOBase):
    """A stream that cannot be rewound."""

    def __init__(self, data: bytes) -> None:
        self._bytes = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:
        return self._bytes.readinto(buffer)


class Handler(BaseHTTPRequestHandler):
    """Serves `/clip.mp4`; other paths misbehave."""

    data = b""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/away":
            self.send_response(302)
            self.send_header("Location", "/clip.mp4")
            self.end_headers()
        elif path == "/trick":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif path in ("/clip.mp4", "/short.mp4", "/list.m3u8"):
            data = LISTS % b"/etc/passwd" if path == "/list.m3u8" else self.data
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if path == "/short.mp4" else data)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server(clips: Clips) -> Iterator[str]:
    Handler.data = clips["b.mp4"].read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def assert_same(clips: Clips, source: object) -> None:
    reference = decode_all(clips["b.mp4"])
    with open_video(source) as video:
        assert video.frames == len(reference.pictures)
        for frames in video.read(range(59, -1, -4), threads=2):
            for index, pixels in zip(frames.index_T.tolist(), frames.pixels_TCHW, strict=True):
                assert np.array_equal(pixels.permute(1, 2, 0).numpy(), reference.pictures[index])


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "http:x.mp4", "100%d.mp4", "  .mp4", "caf\u00e9.mp4", "-x.mp4", "no-ending"]
)
def test_file_names_are_only_names(clips: Clips, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(clips["b.mp4"].read_bytes())
    assert_same(clips, path)
    assert_same(clips, str(path))


def test_a_picture_name_is_no_pattern(clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "100%d.png"
    PIL.Image.fromarray(decode_all(clips["b.mp4"]).pictures[0]).save(path)
    with open_video(path) as video:
        assert video.frames == 1


def test_a_file_that_disappears_is_an_error(clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "here.mp4"
    path.write_bytes(clips["b.mp4"].read_bytes())
    with open_video(path) as video:
        path.unlink()
        with pytest.raises(VideoError, match="no longer there"):
            list(video.read([0]))


def test_a_file_object_is_shared_and_left_open(clips: Clips) -> None:
    with clips["b.mp4"].open("rb") as file:
        file.seek(1000)
        assert_same(clips, file)
        assert not file.closed
    memory = io.BytesIO(clips["b.mp4"].read_bytes())
    assert_same(clips, memory)
    assert not memory.closed


def test_a_pipe_is_spooled_within_the_limit(clips: Clips) -> None:
    data = clips["b.mp4"].read_bytes()
    assert_same(clips, Pipe(data))
    with pytest.raises(VideoError, match="limit_bytes"):
        open_video(Pipe(data), limit_bytes=len(data) - 1)


def test_an_address_is_read_and_redirects_are_followed(clips: Clips, server: str) -> None:
    assert_same(clips, f"{server}/clip.mp4?token=secret")
    assert_same(clips, f"{server}/away")


def test_the_query_of_an_address_is_not_told(server: str) -> None:
    with open_video(f"{server}/clip.mp4?token=secret") as video:
        assert video.name == "clip.mp4"
        assert "secret" not in repr(video)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nothing.mp4", "404"),
        ("/trick", "could not be downloaded|answered"),
        ("/short.mp4", "connection closed after"),
        ("/list.m3u8", "not a video|text file"),
    ],
)
def test_addresses_that_fail_say_why(server: str, path: str, words: str) -> None:
    with pytest.raises(VideoError, match=words) as caught:
        open_video(server + path)
    assert "\n" not in str(caught.value)


def test_an_address_is_read_within_the_limit(server: str) -> None:
    with pytest.raises(VideoError, match="larger than the 1000 bytes"):
        open_video(f"{server}/clip.mp4", limit_bytes=1000)


def test_nobody_at_the_address() -> None:
    with pytest.raises(VideoError, match="could not be downloaded"):
        open_video("http://127.0.0.1:9/clip.mp4")


def test_a_script_from_outside_opens_no_other_file(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content from a file object must not make FFmpeg read what it names; a file here may."""
    script = f"ffconcat version 1.0\nfile {clips['b.ts'].name}\n".encode()
    monkeypatch.chdir(clips.folder)
    with pytest.raises(VideoError):
        open_video(io.BytesIO(script))
    Path("script.ffconcat").write_bytes(script)
    with open_video("script.ffconcat") as video:
        assert video.frames == 60


def test_what_is_no_source_says_so(tmp_path: Path) -> None:
    for source, words in (
        ("ftp://example.org/a.mp4", "not ftp"),
        ("rtsp://example.org/a", "not rtsp"),
        (7, "found int"),
        (io.StringIO("text"), "opened as text"),
        (io.BytesIO(b""), "is empty"),
        (io.BytesIO(b"nothing"), "text file"),
    ):
        with pytest.raises(VideoError, match=words):
            open_video(source)
