"""How many bytes of pictures stand between a video's file and the tower, from sizes alone.

    decoders -> decoded ones -> a chunk that is resized -> two that wait -> the one that is seen

Threads work on each step at once, and nobody knows beforehand which of them is the slow one: what
is counted is the most that can stand.
"""

from __future__ import annotations

from dataclasses import dataclass

from longtake.reader import CHUNK
from longtake.video.pipeline import Shape

THREADS = 2
"""Decoders side by side, see `Video.read`."""

REFERENCES = 4
"""Pictures that a decoder holds besides the one it gives out: what H.264 commonly asks for."""

MOTION = 4 / 3
"""A picture that others refer to, motion and kinds of its blocks included, over its pixels: H.264
keeps 142 bytes for each block of 384."""

CONVERTED = 2
"""Pictures in colours beside each decoder: one that is being made, and the one before."""

HEAPS = 3 * 2**20
"""Bytes of threads and of what decoders and PIL allocate in small pieces, as measured."""

STAGED_CHUNKS = 3
"""Chunks of resized frames besides the one seen: two in the queue (`video.prefetch`), one made."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Bytes of pictures on their way, by how many frames are still to be seen."""

    raw: int
    """One as it was decoded."""
    fitted: int
    """One as the tower gets it."""
    copies: int
    """Of a chunk that is seen, but for the first: clips are copies of it and of the one before."""
    most: int
    """Decoded ones at once, at most; a chunk that is or was just resized is among them."""
    decoders: int
    """What decoders hold for themselves."""

    @classmethod
    def of(cls, height: int, width: int, side: int, clip: int = 1) -> Pictures:
        """Of a video and a tower that sees clips of so many frames."""
        shape, raw = Shape(width=width, height=height, quarter_turns=0), 3 * height * width
        return cls(
            raw=raw,
            fitted=3 * side * side,
            copies=3 if clip > 1 else 1,
            most=2 * CHUNK + shape.beyond(THREADS) + CONVERTED * THREADS,
            # chroma of a quarter each
            decoders=HEAPS + round(THREADS * REFERENCES * MOTION * raw / 2),
        )

    @property
    def deep(self) -> int:
        """Chunks that may be on their way at once."""
        return STAGED_CHUNKS + self.most // CHUNK + 1

    def bytes(self, left: int) -> int:
        """While one chunk is seen and so many frames are to come."""
        return self.decoders + self.copies * CHUNK * self.fitted + self._most(left)

    def at_first(self, left: int) -> int:
        """The same of the first chunk."""
        return self.decoders + CHUNK * self.fitted + self._most(left)

    def _most(self, left: int) -> int:
        return max(self._coming(left, staged) for staged in range(1, STAGED_CHUNKS + 1))

    def _coming(self, left: int, staged: int) -> int:
        """With so many chunks resized, the last of them still there as it was decoded."""
        raw = min(max(0, left - (staged - 1) * CHUNK), self.most)
        return min(left, staged * CHUNK) * self.fitted + raw * self.raw
