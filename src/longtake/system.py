"""The flow from a file to an answer, written once; a system overrides what is its own.

    path --open--> Video --sample--> Frames --fit--> bytes --see--> VisualTokens --compress--> fewer
         --remember--> Memory --ask--> Answer

Every arrow before `Memory` is an iterator of chunks: an hour of video never sits in memory, and
decoding and resizing run on a thread beside the tower and the prefill.

Letters: T frames, C channels, H W pixels, P patches, S sequence, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from longtake.answering import answer, beyond_training, continuable, published_options
from longtake.engine import memory_errors, read_pieces, require_room
from longtake.errors import OptionError, PromptError
from longtake.folder import Folder, Tokenizer, digest
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.chat import Template, Turn, check_words
from longtake.parts.quantise import BITS, quantised, quantised_bytes_per_token
from longtake.parts.splice import Piece, first_tokens, piece_tokens, pieces_of
from longtake.reader import Fitted, Following, Known, Progress, Reader, frames_wanted, quiet
from longtake.types import Answer, Frames, Memory, Options, Reading, Stats, VisualTokens
from longtake.video.inputs import Source, last_end
from longtake.video.pixels import ClipProcessor


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A loaded model and its wiring. Variants are made with `dataclasses.replace`."""

    name: ClassVar[str]
    penalises_prompt: ClassVar[bool] = False
    """The repetition penalty counts the prompt's text, because the original's generate() gets ids.
    Where it gets embeddings it knows of none."""

    folder: Folder
    """Where it came from."""
    model: LongtakeModel
    tokenizer: Tokenizer
    processor: ClipProcessor
    """How a frame becomes the tower's pixels."""
    template: Template
    sample: Callable[[int, int], Sequence[int]]
    """(frames of the video, frames wanted) -> indices."""
    compress: Callable[[Iterator[VisualTokens]], Iterator[VisualTokens]]
    """What happens to a video's tokens between projector and language model."""
    frames: int
    """Frames to sample when the caller does not say."""
    end_ids: frozenset[int]
    """Token ids that end an answer."""
    window: int | None = None
    """Tokens the checkpoint says it was trained to read."""
    kv: Literal["full", "int8", "int4"] = "full"
    """How a finished memory's keys and values are held (docs/video-xl.md)."""

    # -- watch ------------------------------------------------------------------------------------

    def watch(
        self,
        *sources: Source,
        max_frames: int | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Read videos and images once; the memory answers any number of questions.

        `max_frames`: frames sampled from each video, by the published rule. Raises OptionError,
        VideoError.
        """
        num = frames_wanted(self.frames if max_frames is None else max_frames)
        if not sources:
            raise PromptError("there is nothing to watch; give a video or an image")
        began = time.perf_counter()
        cache = self.new_cache()
        reserve = partial(self.make_room, cache)
        reader = Reader(eye=self, num=num, progress=progress or quiet, reserve=reserve)
        with memory_errors(), closing(reader.stream(self.template.head(), sources)) as stream:
            reading = self.remember(stream, cache, reader)
        stats = Stats(
            frames=reader.frames,
            patches=reader.patches,
            visual_tokens=reader.visual,
            watch_seconds=time.perf_counter() - began,
            warnings=(*reader.warnings, *self.beyond_training(cache.get_seq_length())),
        )
        return self._memory(reading, cache, tuple(reader.durations), stats)

    def _memory(
        self, reading: Reading, cache: GrowingCache, durations: tuple[float, ...], stats: Stats
    ) -> Memory:
        cache = cache if self.kv == "full" else quantised(cache, self.kv)
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
        )

    def variant(self, **options: Any) -> Self:
        """This system with other options of its own, by name. Raises OptionError.

        A memory answers only the variant that made it, but for options that shape no memory.
        """
        kv = options.pop("kv", self.kv)
        if kv not in ("full", *BITS):
            raise OptionError(f"kv {kv!r} is unknown; choose full, {', '.join(BITS)}")
        for name in options:
            raise OptionError(f"{self.name} has no option {name!r}")
        return replace(self, kv=kv)

    def make_room(self, cache: GrowingCache, total: int, coming: int) -> None:
        """Reserve what `coming` visual tokens take, the last of `total`, or raise CapacityError."""
        require_room(self.model, total, held=cache.get_seq_length())
        cache.reserve(total)

    def new_cache(self) -> GrowingCache:
        """An empty cache for one memory."""
        return self.model.new_cache()

    def kept(self, tokens: int) -> int:
        """How many keys and values a memory holds of so many visual tokens, at most."""
        return tokens

    def remember(
        self, pieces: Iterator[Piece], cache: GrowingCache, following: Following
    ) -> Reading:
        """Read pieces of a prompt in order; the cache keeps what later questions need."""
        return read_pieces(self.model, pieces, cache, following.prefilled)

    def reach(self, tokens: int) -> int:
        """How many tokens an answer is written behind, at most."""
        return self.kept(tokens)

    def row_bytes(self, dtype: torch.dtype | None = None) -> float:
        """Bytes of keys and values that a kept token takes; `dtype`: instead of the model's."""
        sizes = self.model.config
        shape = (sizes.num_hidden_layers, sizes.num_key_value_heads, sizes.head_dim)
        if self.kv == "full":
            return kv_bytes_per_token(*shape, dtype or self.model.compute_dtype)
        return quantised_bytes_per_token(*shape, self.kv)

    def beyond_training(self, tokens: int) -> tuple[str, ...]:
        """A warning if there are more tokens than the checkpoint was trained to read."""
        return beyond_training(self.window, tokens)

    def fit(self, frames: Iterator[Frames]) -> Iterator[Fitted]:
        """Resize and crop frames to bytes [T, 3, h, w] with their times; runs on a thread."""
        for chunk in frames:
            yield self.processor.fit(chunk.pixels_TCHW), tuple(chunk.seconds_T.tolist())

    def see(self, fitted: Iterator[Fitted]) -> Iterator[VisualTokens]:
        """Tower and projector: one entry of P tokens per frame."""
        for bytes_TCHW, seconds in fitted:
            features_TPD = self.encode(self.processor.normalise(bytes_TCHW.to(self.model.device)))
            yield VisualTokens(
                features_ND=features_TPD.flatten(0, 1),
                counts=(features_TPD.shape[1],) * len(features_TPD),
                seconds=seconds,
            )

    @torch.no_grad()
    def encode(self, pixels_TCHW: Tensor) -> Tensor:
        """Normalised pixels [T, 3, h, w] -> projected features [T, P, D]."""
        parts = pixels_TCHW.split(self.model.frames_at_once)
        return torch.cat([self.model.project(self.model.look(part)) for part in parts])

    def see_image(self, image_CHW: Tensor) -> VisualTokens:
        """All tokens of one still image."""
        raise PromptError(f"{self.name} reads no still images")

    # -- ask --------------------------------------------------------------------------------------

    def options(self, **overrides: Any) -> Options:
        """Greedy decoding with the checkpoint's repetition penalty, changed by `overrides`.

        With a temperature above 0, top_p and top_k come from generation_config.json as well.
        """
        return published_options(self.folder.generation, overrides)

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
        check_words(question, history)
        options = options or self.options()
        if memory is None:
            return self.complete(self.template.prompt(question, history), (), options)
        if memory.fingerprint != self.fingerprint:
            raise PromptError(
                f"this memory was made by {memory.system} with another checkpoint or other "
                "options; watch the video again"
            )
        # the visuals end the memory; what follows them starts with the placeholder's newline
        ids = self.tokens("\n" + self.template.tail(question, history))
        cache = continuable(memory, self.model)
        if not cache.busy.acquire(blocking=False):
            raise PromptError("this memory is answering another question; wait, or watch again")
        try:
            cache.rewind(memory.length)  # whoever used it last may have left something behind
            cache.reserve(memory.length + len(ids) + options.max_new_tokens)
            return self._answer(memory, ids, options)
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
        # a memory of all up to the last visual, then the text that asks
        ends = [n for n, piece in enumerate(pieces, 1) if isinstance(piece, VisualTokens)]
        split = max(ends, default=0)
        known, asked = pieces[:split], pieces[split:]
        cache, reading = self.new_cache(), Reading(features_D=None, entries=(), ids=())
        if known:
            following = Known(sum(map(piece_tokens, pieces)))
            with memory_errors():
                reading = self.remember(iter(known), cache, following)
        durations = tuple(last_end(visual.seconds) for visual in visuals)
        memory = self._memory(reading, cache, durations, Stats())
        ids = tuple(n for piece in asked if not isinstance(piece, VisualTokens) for n in piece)
        return self._answer(memory, ids, options, reading.features_D)

    def pieces(self, prompt: str, visuals: Sequence[VisualTokens]) -> list[Piece]:
        """A prompt as token ids and visuals, in order."""
        return pieces_of(prompt, visuals, self.tokens)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a stretch of prompt."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def embed_text(self, text: str) -> Tensor:
        """A stretch of prompt, embedded: [S, D]."""
        return self.model.embed(torch.tensor(self.tokens(text), device=self.model.device)).detach()

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _answer(
        self, memory: Memory, ids: Sequence[int], options: Options, features_D: Tensor | None = None
    ) -> Answer:
        """Read the ids that follow the memory and write.

        `features_D`: of the memory's last position, for an answer that follows without a word.
        """
        return answer(self, memory, ids, options, features_D)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the checkpoint and of what shapes a memory."""
        return digest(self.folder, repr(self.shape()))

    def shape(self) -> tuple[object, ...]:
        """What shapes a memory, besides the checkpoint."""
        return (
            self.name,
            self.model.compute_dtype,
            self.processor,
            self.compress,
            self.template,
            self.kv,
        )
