"""How many worker processes the tests take."""

import os

import pytest
import torch

from tests.conftest import num_workers, pytest_xdist_auto_num_workers


@pytest.mark.parametrize(
    ("cores", "free_gib", "workers"),
    [
        (1, 64, 0),  # a lone worker would only add its start
        (2, 64, 2),
        (3, 64, 3),
        (64, 64, 4),
        (8, 6, 3),
        (8, 3, 0),
        (8, 1, 0),
    ],
)
def test_workers_fit_cores_and_memory(cores: int, free_gib: int, workers: int) -> None:
    assert num_workers(cores, free_gib * 2**30) == workers


def test_only_the_cores_of_this_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 2**40})())
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for cores in ({5}, {0, 3}, {0, 1, 7}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: cores, raising=False)
        assert pytest_xdist_auto_num_workers() == (len(cores) if len(cores) > 1 else 0)
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "7")
    assert pytest_xdist_auto_num_workers() == 7


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1",
    reason="in one process torch may have every core",
)
def test_a_worker_keeps_to_one_thread() -> None:
    assert torch.get_num_threads() == 1
