"""Running ahead on a thread: order, errors, and nothing left behind."""

import threading
from collections.abc import Iterator

import pytest

from longtake.errors import VideoError
from longtake.video.prefetch import ahead


def running() -> int:
    return sum(thread.name == "longtake-ahead" for thread in threading.enumerate())


def test_order_and_end() -> None:
    with ahead(iter(range(50)), depth=3) as items:
        assert list(items) == list(range(50))
    assert running() == 0


def test_the_source_works_on_another_thread_and_waits() -> None:
    made: list[int] = []
    third = threading.Event()

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(threading.get_ident())
            if number == 2:
                third.set()
            yield number

    with ahead(source(), depth=2) as items:
        assert third.wait(5)  # goes on without being asked ...
        assert next(items) == 0
    assert len(made) < 10  # ... but not far
    assert threading.get_ident() not in made


def test_an_error_arrives_after_what_was_made_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise VideoError("broken here")

    with ahead(source()) as items:
        assert next(items) == 1
        with pytest.raises(VideoError, match="broken here"):
            next(items)
    assert running() == 0


def test_leaving_early_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.set()

    def interrupted() -> None:
        with ahead(source()) as items:
            next(items)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert closed.is_set()
    assert running() == 0
