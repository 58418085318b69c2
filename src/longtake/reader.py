"""From sources to one stream of text ids and visual tokens, chunk by chunk.

Nothing here holds more than a few chunks: a video's frames are decoded and resized on a thread
while the tower and the language model work on the chunk before.

Letters: T frames, C channels, H W pixels, N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from longtake.captions import Between, Caption
from longtake.errors import OptionError
from longtake.parts.splice import Piece, patches_of, piece_tokens, visual_count
from longtake.types import Frames, VisualTokens
from longtake.video.decode import Video
from longtake.video.inputs import Held, Opened, Source, is_still, opened_source, times_of
from longtake.video.prefetch import ahead
from longtake.video.sample import Footage, Sampler, Shown, part_of

CHUNK = 16
"""Frames decoded, resized and encoded at a time."""

MOST_FRAMES = 1_000_000
"""Eleven days at one frame a second; more is a slip of the keyboard."""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): "decode" and "encode" in frames, "prefill" in tokens."""


def quiet(stage: str, done: int, total: int) -> None:
    """Show no progress."""


Fitted = tuple[Tensor, tuple[float, ...]]
"""Resized and cropped bytes [T, 3, h, w] and the frames' times in seconds."""


def frames_wanted(number: object) -> int:
    """How many frames to sample. Raises OptionError unless it is a number that can be meant."""
    if not isinstance(number, int) or not 1 <= number <= MOST_FRAMES:
        raise OptionError(f"max_frames must be 1 to {MOST_FRAMES}, got {number}")
    return number


class Eye(Protocol):
    """What reading asks of a system."""

    @property
    def sample(self) -> Sampler:
        """(what there is, frames wanted) -> indices."""

    @property
    def compress(self) -> Callable[[Iterator[VisualTokens]], Iterator[VisualTokens]]:
        """Between projector and language model."""

    def fit(self, frames: Iterator[Frames]) -> Iterator[Fitted]:
        """Resize and crop; runs on a thread."""

    def see(self, fitted: Iterator[Fitted]) -> Iterator[VisualTokens]:
        """Tower and projector."""

    def see_image(self, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
        """All tokens of one still image; `alone`: it is the only one of its prompt."""

    def arrange(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """A video's compressed tokens as the language model reads them."""

    def planned(self, frames: int) -> int | None:
        """Visual tokens that so many frames become, separators aside; None if only seeing tells."""

    def arranged(self, frames: int) -> int | None:
        """The same with separators."""

    def nominal(self, frames: int) -> int:
        """Visual tokens that so many frames were in training, separators aside."""

    def follow(self, shown: Shown, last: bool) -> str:
        """Text that follows a visual; `last`: the question comes next."""

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a stretch of prompt."""

    def words(self, text: str) -> tuple[int, ...]:
        """Token ids of words in which nothing is a special token."""


class Following(Protocol):
    """What is known of a stream while it is read."""

    @property
    def expected(self) -> int:
        """Tokens there will be, as far as that is known."""

    def prefilled(self, tokens: int) -> None:
        """Take note that the language model has read so many."""


@dataclass(frozen=True)
class Known:
    """A stream that is there in full; nobody watches it being read."""

    expected: int

    def prefilled(self, tokens: int) -> None:
        """Take no note."""


@dataclass(kw_only=True)
class Reader:
    """Reads sources in order; afterwards its fields say what was read."""

    eye: Eye
    num: int
    """Frames wanted of each video."""
    progress: Progress
    reserve: Callable[[int, int, int], None] = lambda total, coming, words: None
    """Told, before a video's first visual token, how many tokens there will be in all, how many of
    it, and how many of words behind that."""
    captions: Sequence[Caption] = ()
    """What is read between the frames of each video."""
    part: tuple[float | None, float | None] = (None, None)
    """Seconds of each video between which frames are sampled; None is its beginning or end."""
    durations: list[float] = field(default_factory=list)
    """Of each source so far: seconds at which its last frame ends, 0 for a still image."""
    lead: str = "\n"
    """Text between the last visual and the question."""
    warnings: list[str] = field(default_factory=list)
    frames: int = 0
    """Frames and images given out so far."""
    patches: int = 0
    """Tower tokens before compression."""
    visual: int = 0
    """Visual tokens given out so far."""
    place: int = 0
    """Tokens given out so far."""
    shown: Shown = field(default_factory=lambda: Shown(frames=0, seconds=None))
    """What was shown of the source before."""
    expected: int = 0
    """Tokens there will be when the current source has been read; 0 until that is known."""

    def stream(self, head: str, sources: Sequence[Source | Opened]) -> Generator[Piece]:
        """The head, then each source's tokens, and between sources what follows the earlier."""
        stills = sum(map(is_still, sources))
        if stills == len(sources) and self.part != (None, None):
            raise OptionError("a still picture has no part in time; leave start and end out")
        yield self._text(head)
        alone = stills == 1
        for number, source in enumerate(sources):
            if number:
                yield self._text(self.lead)
            piece: Piece = ()
            for piece in self._pieces(source, alone):
                if isinstance(piece, VisualTokens):
                    self.visual += len(piece.features_ND)
                    piece = replace(piece, visual=number)
                yield self._placed(piece)
            self.lead = self.eye.follow(self.shown, last=number + 1 == len(sources))
            if not isinstance(piece, VisualTokens):  # words that ended with a newline
                self.lead = self.lead.removeprefix("\n")

    def foreseen(self, sources: Sequence[Source | Opened]) -> tuple[int, int]:
        """Visual tokens of all sources, separators aside, and as many as without a pooling.

        Nothing is read yet, but images are seen. A video that breaks off has fewer. Raises
        OptionError where only reading would tell.
        """
        alone = sum(map(is_still, sources)) == 1
        tokens = nominal = 0
        for source in sources:
            with opened_source(source) as opened:
                if isinstance(opened, Tensor):
                    count = visual_count(self.eye.see_image(opened, alone))
                    tokens, nominal = tokens + count, nominal + count
                    continue
                count = len(self.eye.sample(self.footage(opened), self.num))
                planned = self.eye.planned(count)
                if planned is None:
                    raise OptionError(
                        "nothing says how many visual tokens a video becomes with this compress; "
                        "leave extend, or use a ProgressivePool"
                    )
                tokens, nominal = tokens + planned, nominal + self.eye.nominal(count)
        return tokens, nominal

    def prefilled(self, tokens: int) -> None:
        """Report how far the language model has read."""
        self.progress("prefill", tokens, max(tokens, self.expected))

    def _text(self, text: str) -> Piece:
        return self._placed(self.eye.tokens(text))

    def _placed(self, piece: Piece) -> Piece:
        self.place += piece_tokens(piece)
        return piece

    def _pieces(self, source: Source | Opened, alone: bool) -> Iterator[Piece]:
        with opened_source(source) as opened:
            if not isinstance(opened, Tensor):
                yield from self._video(opened)
                return
            tokens = self.eye.see_image(opened, alone)
            self.durations.append(0.0)
            self.patches += patches_of(tokens)
            self.frames += 1
            self.shown = Shown(frames=1, seconds=None)
            yield tokens

    def _video(self, video: Video | Held) -> Iterator[Piece]:
        self.expected = 0
        footage = self.footage(video)
        indices = list(self.eye.sample(footage, self.num))
        between = Between.of(self.captions, times_of(video, indices), self.eye.words)
        self.shown = Shown.of(footage, indices)
        begins, whole = max(0.0, self.part[0] or 0.0), footage.asked_seconds is None
        self.durations.append(video.duration if whole else begins + footage.seconds)
        frames = self._count(video.read(indices, chunk=CHUNK), len(indices))
        before, start = self.frames, self.place
        with ahead(self._fitted(frames)) as fitted:
            seen = self._counted(self.eye.see(fitted))
            visual = self.eye.arrange(between.cut(self.eye.compress(seen)))
            for piece in between.merged(visual):
                if isinstance(piece, VisualTokens) and not self.expected:
                    coming = self.eye.arranged(len(indices)) or as_begun(piece, len(indices))
                    read, words = self.place - start, between.tokens(piece.span)
                    self.expected = start + coming + words
                    self.reserve(self.expected, coming, words - read)
                yield piece
                # a last clip may have been filled up
                self.frames = min(self.frames, before + len(indices))
                self.progress("encode", self.frames - before, len(indices))
        self.warnings += video.warnings  # reading may have found damage
        if (came := self.frames - before) < len(indices):
            self.warnings.append(f"{came} of {len(indices)} frames came; the rest is missing")
            self.shown = replace(self.shown, frames=came, times=self.shown.times[:came])

    def times(self, video: Video | Held) -> tuple[float, ...]:
        """When the frames that will be looked at are shown, in seconds."""
        return times_of(video, self.eye.sample(self.footage(video), self.num))

    def footage(self, video: Video | Held) -> Footage:
        """What is to be watched of a video."""
        whole = Footage(frames=video.frames, fps=video.fps)
        footage = part_of(whole, *self.part)
        if footage != whole and isinstance(video, Video) and video.variable_rate:
            return self._by_time(video, footage)
        return footage

    def _by_time(self, video: Video, footage: Footage) -> Footage:
        """The part of a video whose average rate does not tell which frame is shown when."""
        begins = max(0.0, self.part[0] or 0.0)
        first, last = (video.index_at(at) for at in (begins, begins + footage.seconds))
        return replace(footage, first=first, frames=max(1, last - first))

    def _fitted(self, frames: Generator[Frames]) -> Iterator[Fitted]:
        """Resized frames; however this ends, the decoder is stopped. Runs on the thread."""
        with closing(frames):
            yield from self.eye.fit(frames)

    def _count(self, frames: Iterator[Frames], total: int) -> Generator[Frames]:
        """Report decoding; runs on the thread that decodes."""
        done = 0
        try:
            for chunk in frames:
                done += len(chunk)
                self.progress("decode", done, total)
                yield chunk
        finally:
            if isinstance(frames, Generator):
                frames.close()

    def _counted(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        for tokens in stream:
            self.patches += patches_of(tokens)
            self.frames += len(tokens.counts) * tokens.span
            yield tokens


def as_begun(tokens: VisualTokens, frames: int) -> int:
    """Tokens of a video of so many frames if all are like the first of them."""
    each = len(tokens.features_ND) / len(tokens.counts)
    return round(each * -(-frames // tokens.span))
