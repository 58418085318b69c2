"""The flow from a file to an answer, written once; a system overrides what is its own.

    path --open--> Video --sample--> Frames --fit--> bytes --see--> VisualTokens --compress--> fewer
         --remember--> Memory --ask--> Answer

Every arrow before `Memory` is an iterator of chunks: an hour of video never sits in memory, and
decoding and resizing run on a thread beside the tower and the prefill.

Letters: T frames, C channels, H W pixels, P patches, S sequence, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

from longtake.answering import continuable
from longtake.asking import Asking
from longtake.captions import Caption, digest_of, readable, tokens_of
from longtake.choices import KV, check_choice
from longtake.engine import memory_errors, read_pieces
from longtake.errors import OptionError, PromptError
from longtake.extend import VisualWindow, extended, positioned, visual_window
from longtake.fitting import Choice, Fitting, reels_of
from longtake.needs import QUESTION, Place
from longtake.parts.cache import GrowingCache
from longtake.parts.chat import Turn, check_words
from longtake.parts.quantise import quantised
from longtake.parts.splice import Piece, first_tokens, piece_tokens, visual_count
from longtake.reader import Following, Known, Progress, Reader, frames_wanted, quiet
from longtake.room import free_bytes
from longtake.types import Answer, Memory, Options, Reading, Stats, VisualTokens
from longtake.video.inputs import Opened, Source, last_end, opened_video
from longtake.weighing import Weighing


@dataclass(frozen=True, kw_only=True, eq=False)
class System(Asking, Weighing):
    """A loaded model and its wiring. Variants are made with `dataclasses.replace`."""

    frames: int
    """Frames to sample when the caller does not say."""
    extend: VisualWindow | None = None
    """Stretch the model's positions for each request, by its visual tokens."""

    # -- watch ------------------------------------------------------------------------------------

    def watch(
        self,
        *sources: Source | Opened,
        max_frames: int | Literal["auto"] | None = None,
        start: float | None = None,
        end: float | None = None,
        captions: Sequence[Caption] = (),
        progress: Progress | None = None,
    ) -> Memory:
        """Read videos and images once; the memory answers any number of questions.

        `max_frames`: frames sampled from each video, by the published rule, or "auto": as many as
        fit (`choice`); `start`, `end`: only from this part, in seconds; `captions`: words to read
        between the frames of one video, all of them, in the order of their times. Raises
        OptionError, VideoError, and CapacityError before anything is decoded if it cannot fit.
        """
        wanted = self.frames if max_frames in (None, "auto") else frames_wanted(max_frames)
        if not sources:
            raise PromptError("there is nothing to watch; give a video or an image")
        captions = readable(captions, sources, self.no_captions)
        began, cache = time.perf_counter(), self.new_cache()
        reserve = partial(self.make_room, cache)
        part, shown = (start, end), progress or quiet
        reader = Reader(
            eye=self, num=wanted, part=part, progress=shown, reserve=reserve, captions=captions
        )
        with memory_errors(), ExitStack() as opened:
            sources = tuple(opened.enter_context(opened_video(source)) for source in sources)
            self.bound(sources, reader, choose=max_frames == "auto")
            system, target = self, 0
            if self.extend is not None:
                target = self.target_for(*reader.foreseen(sources))
                system = self.scaled(target)
            stream = opened.enter_context(closing(reader.stream(self.template.head(), sources)))
            reading = system.remember(stream, cache, reader)
        stats = Stats(
            frames=reader.frames,
            patches=reader.patches,
            visual_tokens=reader.visual,
            watch_seconds=time.perf_counter() - began,
            warnings=(*reader.warnings, *system.beyond_training(cache.get_seq_length())),
        )
        memory = self._memory(reading, cache, tuple(reader.durations), stats)
        return replace(memory, lead=reader.lead, target=target, captions=digest_of(captions))

    def bound(self, sources: Sequence[Source | Opened], reader: Reader, *, choose: bool) -> None:
        """Refuse what cannot fit; `choose`: first have as many frames read as fit.

        Raises CapacityError.
        """
        if (fitting := self.fitting(sources, reader)) is not None:
            if choose:
                reader.num = fitting.choice().frames
            fitting.require(reader.num, self.lighter)

    @property
    def no_captions(self) -> str:
        """Why it cannot read captions between frames; empty if it can."""
        return ""

    def blank(self) -> Memory:
        """A memory of no video, only of what stands before the first question's words.

        Asked, it answers as `ask` does without a memory, many questions side by side.
        """
        cache, words = self.new_cache(), tuple(self.tokens(self.template.head()))
        with memory_errors():
            reading = self.scaled(0).remember(iter([words]), cache, Known(len(words)))
        return replace(self._memory(reading, cache, (), Stats()), lead="")

    def fitting(self, sources: Sequence[Source | Opened], reader: Reader) -> Fitting | None:
        """What weighs videos against the device; None where only seeing tells how much they are."""
        reels = reels_of(sources, reader.footage)
        if not reels or self.arranged(1) is None:
            return None
        device = self.model.device
        return Fitting(
            made=self,
            reels=reels,
            place=Place(device=device.type, weights=self.model.dtype),
            free=free_bytes(device),
            text=len(self.tokens(self.template.head())) + tokens_of(reader.captions, self.words),
            question=QUESTION,
        )

    def choice(
        self, source: Source | Opened, start: float | None = None, end: float | None = None
    ) -> Choice | None:
        """How many frames of a video `watch` would look at for "auto", and why; None of a picture.

        Raises OptionError, VideoError.
        """
        reader = Reader(eye=self, num=self.frames, part=(start, end), progress=quiet)
        with opened_video(source) as opened:
            fitting = self.fitting([opened], reader)
            return None if fitting is None else fitting.choice()

    def lighter(self) -> list[tuple[str, Self]]:
        """This system with each of the published options that keep less, by name."""
        found = []
        for options in self.choices:
            with suppress(OptionError):  # it fits no model of this depth
                ways = ", ".join(f"{name}={value!r}" for name, value in options.items())
                found.append((ways, self.variant(**options)))
        return found

    def _memory(
        self, reading: Reading, cache: GrowingCache, durations: tuple[float, ...], stats: Stats
    ) -> Memory:
        if reading.entries and self.kv != "full":  # words alone stay as they are
            cache = quantised(cache, self.kv)
        return Memory(
            cache=cache,
            length=cache.get_seq_length(),
            entries=reading.entries,
            durations=durations,
            system=self.name,
            fingerprint=self.fingerprint,
            ids=reading.ids,
            windows=reading.windows,
            stats=replace(stats, memory_bytes=cache.nbytes),
            depth="tokens" if cache.unread else "kv",
        )

    def variant(self, **options: Any) -> Self:
        """This system with other options of its own, by name. Raises OptionError.

        A memory answers only the variant that made it, but for options that shape no memory.
        """
        kv = options.pop("kv", self.kv)
        check_choice("kv", kv, KV)
        said = options.pop("extend", None)
        for name in options:
            raise OptionError(f"{self.name} has no option {name!r}")
        model, window = extended(self.model, self.window, said)
        extend = self.extend if said is None else visual_window(said)
        return replace(self, kv=kv, model=model, window=window, extend=extend)

    def target_for(self, tokens: int, nominal: int) -> int:
        """What positions are stretched for in a request of so many visual tokens.

        `nominal`: as many as there would be without a pooling of the user's.
        """
        return 0 if self.extend is None else self.extend.resolved(tokens, nominal)

    def window_for(self, frames: int) -> int | None:
        """Tokens it reads of so many frames, positions stretched for them."""
        visual = self.planned(frames)
        if visual is None:
            return self.window
        return self.scaled(self.target_for(visual, self.nominal(frames))).window

    def scaled(self, target: int) -> Self:
        """With positions stretched for so many visual tokens, where `extend` asks for it.

        `ask` goes on as a memory was made; `generate` needs `scaled(memory.target).model`.
        """
        if self.extend is None:
            return self
        rope = self.extend.rope(self.model.rope, target)
        model, window = positioned(self.model, self.window, rope)
        return self if model is self.model else replace(self, model=model, window=window)

    def remember(
        self, pieces: Iterator[Piece], cache: GrowingCache, following: Following
    ) -> Reading:
        """Read pieces of a prompt in order; the cache keeps what later questions need."""
        return read_pieces(self.model, pieces, cache, following.prefilled)

    # -- ask --------------------------------------------------------------------------------------

    def ask(
        self,
        memory: Memory | None,
        question: str,
        options: Options | None = None,
        history: Sequence[Turn] = (),
    ) -> Answer:
        """Answer a question about a memory, or without one; the memory is left as it was.

        `history`: earlier questions and answers of this conversation. Raises PromptError for an
        empty question or another system's memory.
        """
        options = options or self.options()
        if memory is None:
            check_words(question, history)
            return self.complete(self.template.prompt(question, history), (), options)
        ids = self.asked(memory, question, history)
        cache = continuable(memory, self.model)
        if not cache.busy.acquire(blocking=False):
            raise PromptError("this memory is answering another question; wait, or watch again")
        try:
            cache.rewind(memory.length)  # whoever used it last may have left something behind
            cache.reserve(memory.length + len(ids) + options.max_new_tokens)
            return self.scaled(memory.target)._answer(memory, ids, options)
        finally:
            cache.rewind(memory.length)
            cache.busy.release()

    def complete(
        self,
        prompt: str,
        visuals: Sequence[VisualTokens],
        options: Options,
        *,
        limit: int | None = None,
    ) -> Answer:
        """Answer a whole prompt in the template's own words, with `<image>` at each visual.

        `limit`: read only so many tokens, which is what the originals do silently at
        tokenizer_model_max_length; it exists to reproduce them.
        """
        pieces = self.pieces(prompt, visuals)
        if limit is not None:
            pieces = first_tokens(pieces, limit)
        # a still is no frame of a video: it has its own tokens, which are more
        nominal = sum(max(visual_count(v), self.nominal(len(v.counts) * v.span)) for v in visuals)
        system = self.scaled(self.target_for(sum(map(visual_count, pieces)), nominal))
        # a memory of all up to the last visual, then the text that asks
        ends = [n for n, piece in enumerate(pieces, 1) if isinstance(piece, VisualTokens)]
        split = max(ends, default=0)
        known, asked = pieces[:split], pieces[split:]
        cache, reading = self.new_cache(), Reading(features_D=None, entries=(), ids=())
        if known:
            following = Known(sum(map(piece_tokens, pieces)))
            with memory_errors():
                reading = system.remember(iter(known), cache, following)
        durations = tuple(last_end(visual.seconds) for visual in visuals)
        memory = self._memory(reading, cache, durations, Stats())
        ids = tuple(n for piece in asked if not isinstance(piece, VisualTokens) for n in piece)
        return system._answer(memory, ids, options, reading.features_D)

    def shape(self) -> tuple[object, ...]:
        """What shapes a memory, besides the checkpoint."""
        rope = self.model.rope if self.extend is None else replace(self.model.rope, scaling=None)
        model = (self.model.compute_dtype, rope, self.extend)
        return (self.name, *model, self.processor, self.compress, self.template, self.kv)
