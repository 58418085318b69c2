"""What a system makes of frames, images and words before its language model reads them.

    Frames --fit--> bytes --see--> VisualTokens --compress--> fewer --arrange--> with separators

Every arrow is an iterator of chunks; `fit` runs on a thread beside the rest.

Letters: T frames, C channels, H W pixels, P patches, S sequence, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

import torch
from torch import Tensor

from longtake.errors import OptionError, PromptError
from longtake.folder import Tokenizer
from longtake.model import LongtakeModel
from longtake.parts.abreast import abreast
from longtake.parts.splice import Piece, pieces_of
from longtake.reader import Fitted
from longtake.sizes import VideoSizes
from longtake.types import Frames, VisualTokens
from longtake.video.pixels import ClipProcessor
from longtake.video.sample import Sampler, Shown

TOKENIZING = Lock()
"""Whether words are only words is a setting of the tokenizer, not of a call."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seeing:
    """The eye of a system, and its words."""

    name: ClassVar[str]
    model: LongtakeModel
    tokenizer: Tokenizer
    processor: ClipProcessor
    """How a frame becomes the tower's pixels."""
    sample: Sampler
    """(what there is of a video, frames wanted) -> indices."""
    compress: Callable[[Iterator[VisualTokens]], Iterator[VisualTokens]]
    """What happens to a video's tokens between projector and language model."""

    @property
    def video_sizes(self) -> VideoSizes:
        """Sizes that its cost depends on. Raises OptionError for a system that does not say."""
        raise OptionError(f"{self.name} does not say what it costs")

    def fit(self, frames: Iterator[Frames]) -> Iterator[Fitted]:
        """Resize and crop frames to bytes [T, 3, h, w] with their times; runs on a thread."""
        for chunk in frames:
            yield self.processor.fit(chunk.pixels_TCHW), tuple(chunk.seconds_T.tolist())

    def see(self, fitted: Iterator[Fitted]) -> Iterator[VisualTokens]:
        """Tower and projector: one entry of P tokens per frame."""
        for bytes_TCHW, seconds in fitted:
            features_TPD = self.encode(bytes_TCHW.to(self.model.device))
            yield VisualTokens(
                features_ND=features_TPD.flatten(0, 1),
                counts=(features_TPD.shape[1],) * len(features_TPD),
                seconds=seconds,
            )

    @torch.no_grad()
    def encode(self, pixels_TCHW: Tensor) -> Tensor:
        """Bytes, or normalised pixels [T, 3, h, w] -> projected features [T, P, D]."""
        return torch.cat(abreast(self._encode, pixels_TCHW, self.model.frames_at_once))

    def _encode(self, pixels_TCHW: Tensor) -> Tensor:
        return self.model.project(self.model.look(self.normalised(pixels_TCHW)))

    def normalised(self, pixels_TCHW: Tensor) -> Tensor:
        """Bytes as the tower takes them; other pixels are so already."""
        is_bytes = pixels_TCHW.dtype == torch.uint8
        return self.processor.normalise(pixels_TCHW) if is_bytes else pixels_TCHW

    def see_image(self, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
        """All tokens of one still image; `alone`: it is the only one of its prompt."""
        raise PromptError(f"{self.name} reads no still images")

    def arrange(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """A video's compressed tokens as the language model reads them: the same."""
        return stream

    def planned(self, frames: int) -> int | None:
        """Visual tokens that so many frames become, separators aside; None if only seeing tells."""
        return None

    def arranged(self, frames: int) -> int | None:
        """The same with separators."""
        return self.planned(frames)

    def nominal(self, frames: int) -> int:
        """Visual tokens that so many frames were in training, separators aside."""
        return self.planned(frames) or 0

    def follow(self, shown: Shown, last: bool) -> str:
        """Text that follows a visual: a space between visuals, a newline before the question."""
        return "\n" if last else " "

    def pieces(self, prompt: str, visuals: Sequence[VisualTokens]) -> list[Piece]:
        """A prompt as token ids and visuals, in order."""
        return pieces_of(prompt, visuals, self.tokens)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a stretch of prompt."""
        with TOKENIZING:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def words(self, text: str) -> tuple[int, ...]:
        """Token ids of somebody's words, in which nothing is a special token."""
        with TOKENIZING:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(ids)

    def embed_text(self, text: str) -> Tensor:
        """A stretch of prompt, embedded: [S, D]."""
        return self.model.embed(torch.tensor(self.tokens(text), device=self.model.device)).detach()

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)
