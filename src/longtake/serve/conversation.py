"""From a client's messages to what a system asks for: visuals, a question, what came before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from longtake.serve.faults import Refusal
from longtake.serve.limits import Limits
from longtake.serve.schema import ChatRequest, Media, Message, Sampling, TextPart, VideoPart


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How a video is to be sampled."""

    max_frames: int | None = None
    """Frames; None is as many as the model takes by itself."""
    fps: float | None = None
    """Frames per second instead."""
    start: float | None = None
    """Seconds."""
    end: float | None = None
    """Seconds."""

    def frames(self, seconds: float) -> int | None:
        """Frames of a video that lasts so long; None leaves it to the model."""
        if self.max_frames is not None or self.fps is None:
            return self.max_frames
        end = seconds if self.end is None else min(self.end, seconds)
        return max(1, round(max(0.0, end - max(0.0, self.start or 0.0)) * self.fps))


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation that can be asked."""

    media: tuple[Media, ...]
    """Videos and pictures, in order; they stand before all words."""
    question: str
    history: tuple[tuple[str, str], ...]
    """Earlier questions and their answers."""
    sight: Sight
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the library's Options."""


def talk(request: ChatRequest, limits: Limits) -> Talk:
    """The conversation of a request. Raises Refusal."""
    if len(request.messages) > limits.messages:
        told = f"{len(request.messages)} messages, at most {limits.messages} are taken"
        raise Refusal(400, "too_many_messages", told, param="messages")
    lead, turns, media = sorted_messages(request.messages)
    if len(media) > limits.media:
        told = f"{len(media)} videos and images, at most {limits.media} are taken"
        raise Refusal(400, "too_many_media", told, param="messages")
    turns[0] = f"{lead}\n\n{turns[0]}" if lead else turns[0]
    letters = sum(map(len, turns))
    if letters > limits.words:
        told = f"{letters} characters of text, at most {limits.words} are taken"
        raise Refusal(413, "text_too_long", told, param="messages")
    *earlier, question = turns
    history = tuple(zip(earlier[::2], earlier[1::2], strict=True))
    return Talk(
        media=media,
        question=question,
        history=history,
        sight=sight_of(request, media, limits),
        options=options_of(request, limits),
    )


def sorted_messages(messages: list[Message]) -> tuple[str, list[str], tuple[Media, ...]]:
    """Instructions, the texts of user and assistant by turns, and the visuals. Raises Refusal."""
    lead: list[str] = []
    turns: list[str] = []
    media: tuple[Media, ...] = ()
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        text, seen = content_of(message)
        if message.role in ("system", "developer"):
            if turns or seen:
                told = "instructions come first, and hold text only"
                raise Refusal(400, "invalid_value", told, param=where)
            lead.append(text)
            continue
        expected = "assistant" if len(turns) % 2 else "user"
        if message.role != expected:
            told = f"{where}: expected a message of the {expected}, got one of the {message.role}"
            raise Refusal(400, "invalid_value", told, param=where)
        if seen and turns and seen != media:
            told = f"{where}: put videos and images into the first message of the user"
            raise Refusal(400, "invalid_value", told, param=where)
        media = media or seen
        turns.append(text)
    if len(turns) % 2 == 0:
        raise Refusal(400, "invalid_value", "the last message must be the user's", param="messages")
    return "\n\n".join(lead), turns, media


def content_of(message: Message) -> tuple[str, tuple[Media, ...]]:
    """A message's words, joined by newlines, and its visuals."""
    if isinstance(message.content, str):
        return message.content, ()
    words = [part.text for part in message.content if isinstance(part, TextPart)]
    seen = tuple(part for part in message.content if not isinstance(part, TextPart))
    return "\n".join(words), seen


def sight_of(request: ChatRequest, media: tuple[Media, ...], limits: Limits) -> Sight:
    """How the request wants videos sampled; what stands nearest to the video counts."""
    own = [part.video_url for part in media if isinstance(part, VideoPart)]
    said = {(one.fps, one.max_frames, one.video_start, one.video_end) for one in own}
    if len(said) > 1:
        raise Refusal(
            400, "invalid_value", "all videos of a request are sampled alike", param="messages"
        )
    near = own[0] if own else None
    asked = [request.mm_processor_kwargs, request.media_io_kwargs and request.media_io_kwargs.video]
    sampling = [one for one in asked if isinstance(one, Sampling)]
    frames = [near.max_frames] if near else []
    frames += [request.longtake.max_frames]
    frames += [count for one in sampling for count in (one.max_frames, one.num_frames)]
    rates = [near.fps] if near else []
    rates += [one.fps for one in sampling]
    sight = Sight(
        max_frames=first(frames),
        fps=first(rates),
        start=first([near.video_start if near else None, request.longtake.start]),
        end=first([near.video_end if near else None, request.longtake.end]),
    )
    return checked(sight, limits)


def checked(sight: Sight, limits: Limits) -> Sight:
    """The same, if it is within bounds. Raises Refusal."""
    if sight.max_frames is not None and sight.max_frames > limits.frames:
        told = f"max_frames is {sight.max_frames}, at most {limits.frames} are taken"
        raise Refusal(400, "too_many_frames", told, param="max_frames")
    start, end = sight.start or 0.0, sight.end
    if start < 0 or (end is not None and end <= start):
        told = f"the part from {start:g} to {'the end' if end is None else f'{end:g}'} s is none"
        raise Refusal(400, "invalid_value", told, param="start")
    return sight


def options_of(request: ChatRequest, limits: Limits) -> dict[str, Any]:
    """How to answer, as fields of Options; what is not said stays as published. Raises Refusal."""
    asked = request.max_completion_tokens or request.max_tokens
    if asked is not None and asked > limits.new_tokens:
        told = f"{asked} tokens are asked for, at most {limits.new_tokens} are written"
        raise Refusal(400, "invalid_value", told, param="max_tokens")
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stop) > 16 or not all(stop):
        raise Refusal(400, "invalid_value", "stop takes up to 16 texts, none empty", param="stop")
    found = {
        "max_new_tokens": asked or min(256, limits.new_tokens),
        "temperature": request.temperature or None,
        "top_p": request.top_p,
        "top_k": None if request.top_k is None else max(0, request.top_k),
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "stop": stop or None,
        "evidence": request.longtake.evidence,
    }
    return {name: value for name, value in found.items() if value is not None}


def first(values: list[Any]) -> Any:
    """The first value that was given, or None."""
    return next((value for value in values if value is not None), None)
