"""What a client may send, checked field by field; nothing unknown passes silently.

The names are OpenAI's, and of vLLM where it has more (video_url, mm_processor_kwargs, top_k,
repetition_penalty). Ours are under `longtake`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longtake.serve.faults import Refusal

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
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "json_invalid":
            raise Refusal(400, "invalid_json", f"the body is no JSON: {first['msg']}") from error
        code = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
        told = f"{where or 'the body'}: {first['msg']}"[:500]
        raise Refusal(400, code, told, param=where or None) from error
