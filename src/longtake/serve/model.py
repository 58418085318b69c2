"""What the engine thread asks of the model and of memories."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from longtake.serve.jobs import Facts, Job
from longtake.types import Options


class Rows(Protocol):
    """Questions being answered side by side over one memory (longtake.many.Batch)."""

    @property
    def rows(self) -> Sequence[Any]:
        """Those that are not over."""

    def add(
        self, question: str, options: Options | None, history: Sequence[tuple[str, str]]
    ) -> Any:
        """Take one more; returns its row. Raises LongtakeError."""

    def step(self) -> Sequence[Any]:
        """Take every row on; returns those that are over, each with an answer or an error."""

    def close(self) -> None:
        """Drop all."""


class Model(Protocol):
    """What the thread asks of the model (longtake.serve.memories.Memories)."""

    def options(self, fields: dict[str, Any], **calls: Callable[..., Any]) -> Options:
        """How to answer. Raises OptionError."""

    def rows(self, video: str, busy: Collection[str]) -> Rows:
        """A place to answer questions about a video; `busy` memories stay. Raises LongtakeError."""

    def watch(
        self,
        job: Job,
        progress: Callable[[str, int, int], None],
        busy: Callable[[], Collection[str]],
    ) -> Facts:
        """Watch what a job names, and keep its memory. Raises LongtakeError."""

    def forget(self, video: str) -> None:
        """Drop a memory."""

    def facts(self, video: str) -> Facts | None:
        """What a memory that is held says of itself."""
