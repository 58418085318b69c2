"""What a client is told when it is not served: an HTTP status and OpenAI's error object."""

from __future__ import annotations

import json
from typing import Any

from longtake.errors import (
    CapacityError,
    LongtakeError,
    OptionError,
    PromptError,
    StoreError,
    VideoError,
)

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""OpenAI's name of an error's type, by status; other 4xx are invalid requests, 5xx the server's."""


MOST_SHOWN = 40
"""Letters of a client's text that an error repeats."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not served. `message` is one line, shown to the client as it is."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which to come back; a header of the response."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = 'Bearer realm="longtake"'
        return found

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = KINDS.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": sendable(self.message),
                "type": kind,
                "param": None if self.param is None else sendable(self.param),
                "code": self.code,
            }
        }


def sendable(text: str) -> str:
    """A text that can be sent, whatever a client put into it."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object) -> str:
    """A value as JSON writes it, but for the greater part of a long one, which dots stand for."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, str):
        value = value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}..."
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, default=str)[:60]


STATUS: tuple[tuple[type[LongtakeError], int, str], ...] = (
    (VideoError, 400, "video_unusable"),
    (PromptError, 400, "prompt_unusable"),
    (OptionError, 400, "option_unusable"),
    (CapacityError, 413, "too_large_for_device"),
    (StoreError, 500, "memory_unreadable"),
)


def refusal(error: LongtakeError) -> Refusal:
    """What a client is told of one of the library's errors."""
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            return Refusal(status, code, str(error))
    return Refusal(500, "server_error", "the model could not be used; see the server's log")


def gone() -> Refusal:
    """What is told while the server is being stopped."""
    return Refusal(503, "stopping", "the server is being stopped; try again later", retry_after=5)
