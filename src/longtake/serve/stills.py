"""Frames of kept videos as JPEGs, for people to look at: one at a time, or a strip of several.

Opening a video reads all its packets, so the last few stay open; pictures made are remembered.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from longtake.serve.looking import film, picture
from longtake.video.decode import Video

OPEN = 4
"""Videos kept open."""
REMEMBERED_BYTES = 32 << 20
QUALITY = 80


class Shelf:
    """An open video, until its stack is closed."""

    def __init__(self, path: Path) -> None:
        self.stack = ExitStack()
        self.video: Video = self.stack.enter_context(film(path))


class Stills:
    """Draws frames; called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Shelf] = OrderedDict()
        self._made: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def frame(self, path: Path, seconds: float, width: int) -> bytes:
        """The frame on screen at a time, or the picture itself, so wide at most.

        Raises VideoError.
        """
        return self._known((path, seconds, width), lambda: self._frame(path, seconds, width))

    def strip(self, path: Path, count: int, height: int) -> bytes:
        """Frames of as many equal stretches of the whole video, side by side. Raises VideoError."""
        return self._known((path, "strip", count, height), lambda: self._strip(path, count, height))

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            shelves = list(self._open.values())
            self._open.clear()
        for shelf in shelves:
            shelf.stack.close()

    def _known(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = make()
        with self._lock:
            self._made[key] = made
            while sum(map(len, self._made.values())) > REMEMBERED_BYTES:
                self._made.popitem(last=False)
        return made

    def _frame(self, path: Path, seconds: float, width: int) -> bytes:
        image = picture(path)
        if image is None:
            with self._reading(path) as video:
                image = next(frames_at(video, [seconds]))
        with image:
            shown = image.convert("RGB")
        shown.thumbnail((width, 8 * width), Image.Resampling.BICUBIC)
        return jpeg(shown)

    def _strip(self, path: Path, count: int, height: int) -> bytes:
        with self._reading(path) as video:
            width = max(1, min(4 * height, round(height * video.width / video.height)))
            board = Image.new("RGB", (count * width, height))
            times = [video.duration * (place + 0.5) / count for place in range(count)]
            for place, frame in enumerate(frames_at(video, times)):
                board.paste(frame.resize((width, height)), (place * width, 0))
        return jpeg(board)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[Video]:
        """An open video that nobody else reads from meanwhile."""
        with self._lock:
            shelf = self._open.pop(path, None)
        shelf, old = shelf or Shelf(path), []
        try:
            yield shelf.video
        finally:
            with self._lock:
                old = [self._open.pop(path)] if path in self._open else []
                self._open[path] = shelf
                while len(self._open) > OPEN:
                    old.append(self._open.popitem(last=False)[1])
            for one in old:
                one.stack.close()


def frames_at(video: Video, seconds: Sequence[float]) -> Iterator[Image.Image]:
    """Frames on screen at these times, in order."""
    for frames in video.read(seconds=seconds, chunk=1, threads=1):
        yield Image.fromarray(frames.pixels_TCHW[0].permute(1, 2, 0).numpy())


def jpeg(image: Image.Image) -> bytes:
    """A picture as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
