"""Numbers about the server in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All counters of one server; a registry of its own, so that servers do not share them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._count("http_requests", "Requests.", "route", "status")
        self.request_seconds = self._time("http_seconds", "Time until a response ended.", "route")
        self.answers = self._count("answers", "Answers by how they ended.", "finish")
        self.tokens = self._count("tokens_written", "Tokens of answers.")
        self.prompt_tokens = self._count("tokens_read", "Tokens of prompts, visual ones too.")
        self.first_seconds = self._time("first_token_seconds", "From question to first token.")
        self.answer_seconds = self._time("answer_seconds", "From question to whole answer.")
        self.batch = Histogram(
            "longtake_batch_rows", "Questions per step.", buckets=ROWS, registry=self.registry
        )
        self.watches = self._count("watches", "Videos watched.", "outcome")
        self.frames = self._count("frames_watched", "Frames watched.")
        self.watch_seconds = self._time("watch_seconds", "Time to watch a video.")
        self.received = self._count("received_bytes", "Bytes of uploads and fetched files.")

    def _count(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"longtake_{name}", about, labels, registry=self.registry)

    def _time(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(f"longtake_{name}", about, labels, buckets=SECONDS, registry=self.registry)

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"longtake_{name}", about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
