"""What holds for every test, and how `make test` shares the cores.

One worker process each, one torch thread per worker.
"""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

MOST_WORKERS = 4
"""Each worker pays for its own imports and its own loaded models; more of them gain little."""
WORKER_BYTES = 2 * 2**30
"""What one worker may hold at its largest."""


def num_workers(cores: int, free_bytes: int) -> int:
    """Workers for `-n auto`; 0, all tests in this process, where a second would have no room."""
    workers = min(cores, free_bytes // WORKER_BYTES, MOST_WORKERS)
    return workers if workers > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Count the cores this process may use: xdist counts those of the whole machine."""
    if asked := os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return int(asked)
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return num_workers(cores, psutil.virtual_memory().available)


def pytest_configure(config: pytest.Config) -> None:
    """Leave the other cores to the other workers; torch reads this when it is imported."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find and keep nothing in the user's own library."""
    monkeypatch.setenv("LONGTAKE_LIBRARY", "off")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have started processes heed Ctrl-C, even where a shell runs the tests in the background.

    Such a shell makes them ignore it, and what ignores a signal has its children ignore it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
