"""How many bytes watching and answering take at their widest, from sizes alone.

What is counted is what the code of this package holds at once: pictures on their way to the tower,
the tower's activations, embeddings that wait to be read, a decoder layer's activations, keys and
values. Held against the resident size of real processes (tests/test_planning.py, benchmarks/
plan_check.py). Nothing is run.

Letters: d width of the tower or decoder, m tokens that a tower sees at once, n rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longtake.costs import patches
from longtake.engine import PREFILL_BLOCK, PREFILL_BLOCK_GPU
from longtake.parts.cache import SLACK
from longtake.parts.qwen2 import MLP_CHUNK
from longtake.parts.vit import CPU_BYTES
from longtake.reader import CHUNK
from longtake.sizes import Decoder, VideoSizes
from longtake.video.pipeline import Shape

QUESTION = 64
"""Tokens of a question and of the words around it, where nobody says how many."""

THREADS = 2
"""Decoders side by side, see `Video.read`."""

REFERENCES = 6
"""Pictures that a decoder holds besides the one it gives out: H.264 commonly asks for 4."""

STAGED_CHUNKS = 4
"""Chunks of resized frames: two in the queue (`video.prefetch`), one being made, one seen."""

MARGIN = 0.1
"""How far a prediction may be off: what is refused is past any doubt, what is chosen too."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model computes, and in which numbers it is kept."""

    device: str
    """Type of the device: "cpu" or "cuda"."""
    weights: torch.dtype

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, keys and values (`LongtakeModel.compute_dtype`)."""
        return torch.float32 if self.on_cpu else self.weights

    @property
    def item(self) -> int:
        """Bytes of an activation."""
        return self.dtype.itemsize

    @property
    def on_cpu(self) -> bool:
        """Whether pictures and activations share a memory."""
        return self.device == "cpu"

    @property
    def block(self) -> int:
        """Tokens that are read at a time."""
        return PREFILL_BLOCK.get(self.device, PREFILL_BLOCK_GPU)

    @property
    def slack(self) -> int:
        """Tokens of room behind a memory that count: a CPU gives pages as they are written."""
        return 0 if self.on_cpu else SLACK


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What is watched, as far as bytes depend on it."""

    frames: int
    height: int
    """Pixels of a picture as it is decoded."""
    width: int
    text: int
    """Tokens of text that a memory holds."""
    question: int = QUESTION
    """Tokens of a question."""
    answer: int = 256
    """Most tokens of an answer."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes, besides the weights; the widest moment of each part of the work."""

    pictures: int
    """Decoded and resized pictures, always in host memory."""
    tower: int
    """The tower, projector and pooling on one chunk."""
    reading: int
    """Embeddings that wait, and a decoder layer on one block."""
    cache: int
    """What watching fills: keys and values in full precision, and rows between layers."""
    memory: int
    """What is left when the video was watched."""
    answering: int
    """A question and its answer, besides the memory."""
    upcast: int
    """Weights that are brought to the precision of the arithmetic, one after another."""
    on_cpu: bool = True

    @property
    def watching(self) -> int:
        """At its widest on the device."""
        work = self.cache + max(self.tower, self.reading) + self.upcast
        return work + self.pictures if self.on_cpu else work

    @property
    def asking(self) -> int:
        """At its widest on the device."""
        return self.memory + self.answering + self.upcast

    @property
    def peak(self) -> int:
        """Of both."""
        return max(self.watching, self.asking)


def picture_bytes(shown: Showing, side: int) -> int:
    """Pictures of the video on their way, and of the tower's size."""
    shape = Shape(width=shown.width, height=shown.height, quarter_turns=0)
    raw = min(shown.frames, 2 * CHUNK + shape.beyond(THREADS))
    fitted = min(shown.frames, STAGED_CHUNKS * CHUNK)
    picture, square = 3 * shown.height * shown.width, 3 * side * side
    decoders = THREADS * REFERENCES * picture // 2  # chroma of a quarter each
    return raw * picture + decoders + fitted * square


@dataclass(frozen=True, kw_only=True)
class Eye:
    """How a tower looks."""

    sizes: VideoSizes
    side: int
    """Pixels along an edge of what it sees."""
    at_once: int
    """Frames or clips that it sees at once."""
    hidden: int
    """Activations as wide as its MLP that are there at once."""
    cut: bool = False
    """Its MLP takes pieces of CPU_BYTES on a CPU."""


def tower_bytes(eye: Eye, place: Place, frames: int) -> int:
    """The tower on as many frames as it sees at once, beside what the chunk has become so far."""
    sizes, item = eye.sizes, place.item
    tower, chunk = sizes.tower, -(-min(frames, CHUNK) // sizes.clip) * sizes.clip
    clips = min(eye.at_once, chunk // sizes.clip)
    m = clips * (sizes.clip * patches(tower) + sizes.class_token)
    wide = eye.hidden * m * tower.mlp * item
    if eye.cut and place.on_cpu:
        wide = min(wide, eye.hidden * CPU_BYTES) + m * tower.hidden * item
    acting = 2 * m * tower.hidden * item + max(wide, 5 * m * tower.hidden * item)
    pixels = chunk * 3 * eye.side**2 * torch.float32.itemsize
    left = sizes.per_frame if sizes.merged else patches(tower)
    made = round(chunk * left * sizes.decoder.hidden * item)
    if sizes.merged:  # scores of one half of the tokens with the other
        acting = max(acting, (m // 2) ** 2 // clips * item + 4 * m * tower.hidden * item)
    # all parts of the chunk are put together while they are still there
    return pixels + made + max(acting, made)


def layer_bytes(decoder: Decoder, place: Place, rows: int) -> int:
    """One decoder layer on so many rows."""
    d, item = decoder.hidden, place.item
    heads, kv = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    attention = heads + 2 * kv + 2 * heads + (7 * heads if place.on_cpu else 2 * heads)
    mlp = 2 * min(rows, MLP_CHUNK) * decoder.mlp * item + (rows > MLP_CHUNK) * rows * d * item
    exact = 2 * rows * d * torch.float32.itemsize * (item < torch.float32.itemsize)
    return 3 * rows * d * item + exact + max(rows * attention * item, mlp)


def reading_bytes(sizes: VideoSizes, place: Place, rows: int, tokens: int) -> int:
    """Embeddings that wait for a block of `rows` to fill, and a layer on such a block."""
    chunk = round(min(tokens, CHUNK * sizes.per_frame))
    waiting = 2 * (min(tokens, rows) + chunk) * sizes.decoder.hidden * place.item
    return waiting + layer_bytes(sizes.decoder, place, min(tokens, rows))


def head_bytes(decoder: Decoder, place: Place) -> int:
    """The head in the precision of the arithmetic, and its logits."""
    cast = place.weights.itemsize != place.item
    return cast * decoder.hidden * decoder.vocab * place.item + 8 * decoder.vocab


def upcast_bytes(sizes: VideoSizes, place: Place) -> int:
    """The largest matrix between head and embedding, where weights are in another precision."""
    if place.weights.itemsize == place.item:
        return 0
    tower, decoder = sizes.tower, sizes.decoder
    return max(tower.hidden * tower.mlp, decoder.hidden * decoder.mlp) * place.item


def question_bytes(decoder: Decoder, place: Place, shown: Showing, behind: int) -> int:
    """Reading a question behind so many tokens and answering it, evidence included."""
    rows = shown.question
    new = (rows + shown.answer) * 2 * decoder.layers * decoder.kv_heads * decoder.head_dim
    looked = behind * (3 * decoder.heads * torch.float32.itemsize + 2 * torch.float64.itemsize)
    work = max(layer_bytes(decoder, place, rows) + looked, head_bytes(decoder, place))
    return new * place.item + work
