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


class Metrics:
    """All counters of one server; a registry of its own, so that servers do not share them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter(
            "longtake_http_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=to,
        )
        self.request_seconds = Histogram(
            "longtake_http_seconds",
            "Time until a response ended.",
            ("route",),
            buckets=SECONDS,
            registry=to,
        )
        self.answers = Counter(
            "longtake_answers", "Answers by how they ended.", ("finish",), registry=to
        )
        self.tokens = Counter("longtake_tokens_written", "Tokens of answers.", registry=to)
        self.prompt_tokens = Counter(
            "longtake_tokens_read", "Tokens of prompts, visual ones too.", registry=to
        )
        self.first_seconds = Histogram(
            "longtake_first_token_seconds",
            "From a question to its first token.",
            buckets=SECONDS,
            registry=to,
        )
        self.answer_seconds = Histogram(
            "longtake_answer_seconds",
            "From a question to its whole answer.",
            buckets=SECONDS,
            registry=to,
        )
        self.batch = Histogram(
            "longtake_batch_rows",
            "Questions per step.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=to,
        )
        self.watches = Counter(
            "longtake_watches", "Videos watched, by outcome.", ("outcome",), registry=to
        )
        self.frames = Counter("longtake_frames_watched", "Frames watched.", registry=to)
        self.watch_seconds = Histogram(
            "longtake_watch_seconds", "Time to watch a video.", buckets=SECONDS, registry=to
        )
        self.received = Counter(
            "longtake_received_bytes", "Bytes of uploads and fetched files.", registry=to
        )

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"longtake_{name}", about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
