"""Frames of kept videos as JPEGs, for people to look at: one at a time, or a strip of several.

Opening a video reads all its packets, so the last few stay open; pictures made are remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from longtake.errors import VideoError
from longtake.serve.looking import film, frames_at, jpeg, picture
from longtake.video.decode import Video

OPEN = 4
"""Videos kept open."""
REMEMBERED_BYTES = 32 << 20


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
        """Frames of as many equal stretches of the whole video, each cut square. Raises
        VideoError.
        """
        return self._known((path, "strip", count, height), lambda: self._strip(path, count, height))

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            shelves = list(self._open.values())
            self._open.clear()
        for shelf in shelves:
            shelf.stack.close()

    def drop(self, path: Path) -> None:
        """Let go of a file that was removed."""
        with self._lock:
            shelf = self._open.pop(path, None)
            for key in [key for key in self._made if key[0] == path]:
                del self._made[key]
        if shelf is not None:
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
                image = next(frames_at(video, [seconds]), None)
            if image is None:
                told = f"{path.name} has no frame at {seconds:.2f} s; choose another time"
                raise VideoError(told)
        with image:
            shown = image.convert("RGB")
        return jpeg(shown, width)

    def _strip(self, path: Path, count: int, height: int) -> bytes:
        with self._reading(path) as video:
            board = Image.new("RGB", (count * height, height))
            times = [video.duration * (place + 0.5) / count for place in range(count)]
            for place, frame in enumerate(frames_at(video, times)):
                board.paste(ImageOps.fit(frame, (height, height)), (place * height, 0))
        return jpeg(board, board.width)

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
                if path.exists():
                    self._open[path] = shelf
                else:  # it was removed meanwhile
                    old.append(shelf)
                while len(self._open) > OPEN:
                    old.append(self._open.popitem(last=False)[1])
            for one in old:
                one.stack.close()
