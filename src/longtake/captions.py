"""Words that are read between the frames of a video, such as subtitles.

A caption stands before the first frame that is shown after its time; where frames are encoded
together, before the clip of that frame. Chunks of frames are cut there as they pass, so nothing is
held and nothing is decoded twice.

Letters: N visual tokens, T entries (frames or clips).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from longtake.errors import OptionError
from longtake.parts.chat import half_characters
from longtake.parts.splice import Piece, entries_within, piece_tokens
from longtake.types import VisualTokens
from longtake.video.inputs import Opened, Source, is_still

MOST_SECONDS = 1e9
"""Thirty years; more is no time in a video."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Words that belong to a moment of a video. They are only words, whatever they look like."""

    seconds: float
    """They stand before the first frame shown after this, in seconds from the video's start."""
    text: str

    def __post_init__(self) -> None:
        seconds: object = self.seconds
        text: object = self.text
        if not isinstance(seconds, int | float) or not abs(seconds) <= MOST_SECONDS:
            raise OptionError(f"a caption's time must be in seconds, got {seconds!r:.40}")
        if not isinstance(text, str):
            raise OptionError(f"a caption's text must be text, got {text!r:.40}")
        if half_characters(text):
            raise OptionError(f"a caption's text holds half a character: {text!r:.40}")


def in_order(captions: Sequence[Caption]) -> tuple[Caption, ...]:
    """The captions, checked. Raises OptionError unless all are such and their times never fall."""
    given: object = captions
    if not isinstance(given, Iterable):
        raise OptionError(f"captions must be a list, got a {type(given).__name__}")
    captions = tuple(captions)
    for one in cast(tuple[object, ...], captions):
        if not isinstance(one, Caption):
            raise OptionError(f"captions must be longtake.Caption, got a {type(one).__name__}")
    for number, (before, one) in enumerate(pairwise(captions), 2):
        if one.seconds < before.seconds:
            raise OptionError(
                f"captions must be in the order of their times; number {number} at {one.seconds:g} "
                f"s comes after one at {before.seconds:g} s"
            )
    return captions


def readable(
    captions: Sequence[Caption], sources: Sequence[Source | Opened], refusal: str
) -> tuple[Caption, ...]:
    """Captions to read with these sources. Raises OptionError if they cannot be.

    `refusal`: why a system reads none; empty if it does.
    """
    checked = in_order(captions)
    if checked and (len(sources) > 1 or is_still(sources[0])):
        raise OptionError("captions are read with one video; watch it alone, or leave them out")
    if checked and refusal:
        raise OptionError(f"{refusal}; leave captions out")
    return checked


def digest_of(captions: Sequence[Caption]) -> str:
    """What tells a memory with these captions from others; empty of none."""
    if not captions:
        return ""
    said = json.dumps([[float(one.seconds), one.text] for one in captions])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


Encode = Callable[[str], tuple[int, ...]]
"""Token ids of words that are only words."""


@dataclass(frozen=True)
class Between:
    """What stands between the frames of one video."""

    places: Sequence[tuple[int, str]]
    """Number of the frame before which, which never falls, and the text."""
    frames: int
    """Frames there will be; what stands before that number stands behind the last."""
    encode: Encode

    @classmethod
    def of(cls, captions: Sequence[Caption], seconds: Sequence[float], encode: Encode) -> Between:
        """Captions among frames that are shown at these rising times."""
        places = [(bisect_right(seconds, one.seconds), one.text) for one in captions]
        return cls(places, len(seconds), encode)

    def entry(self, frame: int, span: int) -> int:
        """Before which entry of `span` frames stands what stands before a frame."""
        return -(-self.frames // span) if frame >= self.frames else frame // span

    def cut(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """The same tokens, with an end of a chunk wherever words stand."""
        done = 0
        for tokens in stream:
            count = len(tokens.counts)
            found = {self.entry(frame, tokens.span) - done for frame, _ in self.places}
            inside = sorted(place for place in found if 0 < place < count)
            if not inside:
                yield tokens
            for first, stop in pairwise([0, *inside, count] if inside else []):
                yield entries_within(tokens, first, stop)
            done += count

    def runs(self, span: int) -> dict[int, Piece]:
        """Words by the number of the entry they stand before, in order.

        Frames and texts are joined by newlines, as LongVideoBench has it; between two frames
        without words there is nothing, as in training. A newline ends the prompt's head already.
        """
        texts: defaultdict[int, list[str]] = defaultdict(list)
        for frame, text in self.places:
            texts[self.entry(frame, span)].append(text)
        return {
            entry: self.encode(("\n" if entry else "") + "\n".join(some) + "\n")
            for entry, some in texts.items()
        }

    def tokens(self, span: int) -> int:
        """Tokens of all of it."""
        return sum(map(piece_tokens, self.runs(span).values()))

    def merged(self, stream: Iterator[VisualTokens]) -> Iterator[Piece]:
        """Tokens that were cut, and the words between them. Of fewer frames, the rest ends it."""
        done, runs = 0, dict[int, Piece]()
        for tokens in stream:
            runs = runs if done else self.runs(tokens.span)
            if (words := runs.pop(done, None)) is not None:
                yield words
            yield tokens
            done += len(tokens.counts)
        yield from runs.values()


def tokens_of(captions: Sequence[Caption], encode: Encode) -> int:
    """About how many tokens captions have, wherever they stand."""
    return Between.of(captions, (), encode).tokens(1) if captions else 0
