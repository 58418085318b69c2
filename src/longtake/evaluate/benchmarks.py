"""The benchmarks that can be run, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from longtake.errors import AnnotationError, OptionError
from longtake.evaluate import charades, longvideobench, lvbench, mlvu, mvbench, video_mme, vnbench
from longtake.evaluate.annotations import Row, read_rows
from longtake.evaluate.tasks import Task

OPENERS: Mapping[str, Callable[[Sequence[Row]], Task]] = {
    "video-mme": video_mme.open_task,
    "mlvu": mlvu.open_task,
    "longvideobench": longvideobench.open_task,
    "lvbench": lvbench.open_task,
    "vnbench": vnbench.open_task,
    "mvbench": mvbench.open_task,
    "charades-sta": charades.open_task,
}


def check_name(name: str) -> None:
    """Raise OptionError unless there is such a benchmark."""
    if name not in OPENERS:
        raise OptionError(f"there is no benchmark {name!r}; choose {', '.join(OPENERS)}")


def open_benchmark(name: str, annotations: Path) -> Task:
    """A benchmark with its annotations. Raises OptionError, AnnotationError."""
    check_name(name)
    task = OPENERS[name](read_rows(annotations))
    seen: set[str] = set()
    for index in range(len(task)):
        key = task.example(index).key
        if key in seen:
            raise AnnotationError(f"{annotations}: {key!r} is there twice; give each file once")
        seen.add(key)
    return task
