"""What is told of a field that is wrong: one line, which names it, what it must be, what it was."""

import json
from typing import Any

import pytest

from longtake.serve.faults import Refusal
from longtake.serve.schema import parsed

MESSAGES = [{"role": "user", "content": "What?"}]
TAGS = "messages.0.content.0 must have a type that is one of 'text', 'video_url', 'image_url', "


def part(said: dict[str, Any]) -> dict[str, Any]:
    """A request with this part of a message."""
    return {"messages": [{"role": "user", "content": [said]}]}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"max_tokens": "abc"}, 'max_tokens must be a whole number, got "abc"'),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number, got 1.5"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"temperature": -1}, "temperature must be 0 or more, got -1"),
        ({"temperature": "hot"}, 'temperature must be a number, got "hot"'),
        ({"top_p": 5}, "top_p must be at most 1, got 5"),
        ({"top_p": 0}, "top_p must be above 0, got 0"),
        ({"n": 2}, "n must be 1, got 2"),
        ({"seed": 2**70}, f"seed must be below {2**63}, got {2**70}"),
        ({"stop": 5}, "stop must be a text or a list, got 5"),
        ({"stream": "yes"}, 'stream must be true or false, got "yes"'),
        ({"longtake": {"max_frames": "x"}}, "longtake.max_frames must be a whole number, got"),
        ({"messages": "hi"}, 'messages must be a list, got "hi"'),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content must be a text or"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content is missing"),
        (part({"text": "x"}), "messages.0.content.0 must have a type, such as 'text' or 'video"),
        (part({"type": "True"}), TAGS + 'got "True"'),
        (part({"type": None}), TAGS + "got null"),
        (part({"type": "影" * 41}), TAGS + 'got "' + "影" * 40 + '..."'),
        (part({"type": "text"}), "messages.0.content.0.text is missing"),
        (part({"type": "video_url", "video_url": {}}), "messages.0.content.0.video_url.url is mi"),
        ({"metadata": {"str": 5}}, "metadata.str must be a text, got 5"),
        ({"metadata": {"list[x": 5}}, "metadata.list[x must be a text, got 5"),
        ({"max_tokens": "x" * 1000}, 'max_tokens must be a whole number, got "xxxxx'),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(said: dict[str, Any], told: str) -> None:
    with pytest.raises(Refusal) as raised:
        parsed(json.dumps({"messages": MESSAGES, **said}).encode())
    refusal = raised.value
    assert refusal.message.startswith(told)
    assert len(refusal.message) < 160
    assert (refusal.status, refusal.code) == (400, "invalid_value")
    error = refusal.body()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == refusal.message.split()[0]


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(Refusal, match="tools is not supported here") as raised:
        parsed(json.dumps({"messages": MESSAGES, "tools": []}).encode())
    assert raised.value.code == "unknown_parameter"


def test_a_key_of_the_client_is_named_whatever_it_is() -> None:
    with pytest.raises(Refusal, match=r"^str is not supported here"):
        parsed(json.dumps({"messages": MESSAGES, "str": 5}).encode())
    for key in ("content.strategy", "content.0.text.size", "nonstop.string", "stop.str"):
        with pytest.raises(Refusal) as raised:
            parsed(json.dumps({"messages": MESSAGES, "metadata": {key: 5}}).encode())
        assert raised.value.message.startswith(f"metadata.{key} must be a text")
