"""What a client gets back: OpenAI's objects, with ours under `longtake`."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from longtake.types import Answer

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}
"""OpenAI's names for how an answer ended."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer on its way to a client."""

    model: str
    video: str | None
    """Id of what was asked about."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A chat.completion."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": FINISH[answer.finish],
        }
        return self._object("chat.completion") | {
            "choices": [choice],
            "usage": usage(answer),
            "longtake": extras(answer, self.video),
        }

    def begin(self) -> str:
        """The first chunk: who speaks."""
        return event(self._chunk({"role": "assistant", "content": ""}, None))

    def piece(self, text: str) -> str:
        """A chunk of text."""
        return event(self._chunk({"content": text}, None))

    def end(self, answer: Answer) -> str:
        """The chunk that says why it ended, and what it rests on."""
        chunk = self._chunk({}, FINISH[answer.finish])
        return event(chunk | {"longtake": extras(answer, self.video)})

    def used(self, answer: Answer) -> str:
        """The chunk that counts tokens."""
        return event(
            self._object("chat.completion.chunk") | {"choices": [], "usage": usage(answer)}
        )

    def _chunk(self, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk") | {"choices": [choice]}

    def _object(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(answer: Answer) -> dict[str, Any]:
    """How many tokens were read and written."""
    read, written = answer.stats.prompt_tokens, len(answer.ids)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"video_tokens": answer.stats.visual_tokens},
    }


def extras(answer: Answer, video: str | None) -> dict[str, Any]:
    """What OpenAI's objects have no place for: all of an answer but its text and ids."""
    rest = {name: value for name, value in asdict(answer).items() if name not in ("text", "ids")}
    return {"video": video, **rest}


def event(thing: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(thing)}\n\n"


def comment(text: str) -> str:
    """A line of a stream that clients skip; it keeps the connection open."""
    return f": {text}\n\n"


DONE = "data: [DONE]\n\n"
"""How OpenAI's streams end."""
