"""Run a generator ahead on a thread, so that decoding and resizing overlap with compute."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

DONE = object()


class ahead(Generic[T]):
    """Iterate `source` on a thread, at most `depth` items ahead.

    An exception of the source is raised at the consumer, in its place. Leaving the `with` block (or
    exhausting it) stops the thread and closes the source; nothing is left running.
    """

    def __init__(self, source: Iterator[T], depth: int = 2) -> None:
        self._source = source
        self._items: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longtake-ahead", daemon=True)
        self._thread.start()

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
            self._put(DONE)
        except BaseException as error:  # noqa: BLE001 - handed over, raised at the consumer
            self._put(error)
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Iterator[T]:
        return self._consume()

    def __exit__(self, *unused: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _consume(self) -> Iterator[T]:
        while True:
            item = self._items.get()
            if item is DONE:
                return
            if isinstance(item, BaseException):
                error, item = item, None  # or the traceback would keep itself alive
                raise error
            yield item  # type: ignore[misc]
