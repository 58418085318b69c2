"""What a client may send, checked field by field; nothing unknown passes silently.

The names are OpenAI's, and of vLLM where it has more (video_url, mm_processor_kwargs, top_k,
repetition_penalty). Ours are under `longtake`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from longtake.serve.faults import Refusal, shown

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31)]
URL_CHARACTERS = 8192
"""Longest address; data URLs are bounded by the body."""


class Strict(BaseModel):
    """No conversions, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(Strict):
    """Words."""

    type: Literal["text"]
    text: str


class VideoAddress(Strict):
    """Where a video is, and how to sample it."""

    url: str = Field(min_length=1)
    fps: Number | None = Field(default=None, gt=0, le=1000)
    max_frames: Count | None = None
    video_start: Number | None = None
    video_end: Number | None = None


class VideoPart(Strict):
    """A video, as vLLM defines it."""

    type: Literal["video_url"]
    video_url: VideoAddress
    uuid: str | None = None


class ImageAddress(Strict):
    """Where a picture is."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """A picture, as OpenAI defines it."""

    type: Literal["image_url"]
    image_url: ImageAddress
    uuid: str | None = None


Part = Annotated[TextPart | VideoPart | ImagePart, Field(discriminator="type")]
Media = VideoPart | ImagePart


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: None = None
    longtake: Any = None
    """What an answer carried may come back with it; it is not read."""


class StreamOptions(Strict):
    """What a stream holds besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Sampling(Strict):
    """How frames are sampled (mm_processor_kwargs, media_io_kwargs.video)."""

    fps: Number | None = Field(default=None, gt=0, le=1000)
    num_frames: Count | None = None
    max_frames: Count | None = None
    do_sample_frames: Literal[True] | None = None


class MediaOptions(Strict):
    """vLLM's media_io_kwargs."""

    video: Sampling | None = None


class Extension(Strict):
    """Our own options."""

    max_frames: Count | None = None
    start: Number | None = None
    end: Number | None = None
    evidence: bool = True


class TextFormat(Strict):
    """The only response format there is."""

    type: Literal["text"]


class ChatRequest(Strict):
    """POST /v1/chat/completions."""

    model: str = "default"
    messages: list[Message] = Field(min_length=1)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Number | None = Field(default=None, ge=0, le=100)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31)
    repetition_penalty: Number | None = Field(default=None, gt=0, le=100)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    response_format: TextFormat | None = None
    mm_processor_kwargs: Sampling | None = None
    media_io_kwargs: MediaOptions | None = None
    longtake: Extension = Extension()


def parsed(body: bytes) -> ChatRequest:
    """A request from its bytes. Raises Refusal that names the first field that is wrong."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        told, where = first_of(error.errors(include_url=False))
        if told[0]["type"] == "json_invalid":
            said = f"the body is no JSON: {told[0]['msg']}"
            raise Refusal(400, "invalid_json", said) from error
        known = told[0]["type"] != "extra_forbidden"
        code = "invalid_value" if known else "unknown_parameter"
        line = f"{where[:200] or 'the body'} {why(told)}"
        raise Refusal(400, code, line, param=where or None) from error


def first_of(errors: Sequence[ErrorDetails]) -> tuple[list[ErrorDetails], str]:
    """What is wrong with the first field that is wrong, and its name.

    Of a field that may be of several types, what is wrong within the one that it seems to be.
    """
    names = [field_of(one["loc"]) for one in errors]
    inside = [name for name in names if name.startswith(f"{names[0]}.")]
    where = inside[0] if inside else names[0]
    return [one for one, name in zip(errors, names, strict=True) if name == where], where


def field_of(loc: Sequence[int | str]) -> str:
    """A field's name, as the client wrote it.

    Without what pydantic adds where several types are taken: the type of `stop` and of a message's
    `content`, and the kind of each of its parts.
    """
    match tuple(loc):
        case ("stop", _, *rest):
            named: tuple[int | str, ...] = ("stop", *rest)
        case ("messages", number, "content", _, part, _, *rest):
            named = ("messages", number, "content", part, *rest)
        case ("messages", number, "content", _, *rest):
            named = ("messages", number, "content", *rest)
        case other:
            named = other
    return ".".join(map(str, named))


WRONG = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than_equal": "must be {ge:.19g} or more",
    "greater_than": "must be above {gt:.19g}",
    "less_than_equal": "must be at most {le:.19g}",
    "less_than": "must be below {lt:.19g}",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must have a type that is one of {expected_tags}",
    "union_tag_not_found": "must have a type, such as 'text' or 'video_url'",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "missing": "is missing",
    "extra_forbidden": "is not supported here",
}
"""What is said of a field, by pydantic's name of what is wrong with it."""
UNSHOWN = (
    "missing",
    "extra_forbidden",
    "string_too_short",
    "too_short",
    "union_tag_not_found",
)


def why(told: Sequence[ErrorDetails]) -> str:
    """What is wrong with a field, and what it was, in a line."""
    kind = told[0]["type"]
    if kind not in WRONG:
        return f"cannot be used: {told[0]['msg']}"[:300]
    ways = [WRONG[one["type"]].format(**one.get("ctx", {})) for one in told if one["type"] in WRONG]
    ways[0] = ways[0].replace("False", "false").replace("True", "true")  # as JSON has them
    line = " or ".join([ways[0], *(way.removeprefix("must be ") for way in ways[1:])])
    found = told[0]["input"]
    if kind == "union_tag_invalid":
        return f"{line}, got {shown(found['type'])}"
    return line if kind in UNSHOWN else f"{line}, got {shown(found)}"
