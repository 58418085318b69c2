"""How many bytes watching and answering take at their widest, from sizes alone.

What is counted is what the code of this package holds at once: pictures on their way to the tower,
the tower's activations, embeddings that wait to be read, a decoder layer's activations, keys and
values. Held against the resident size of real processes (tests/test_planning.py, benchmarks/
plan_check.py). Nothing is run.

Letters: d width of the tower or decoder, m tokens that a tower sees at once, n rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from longtake.costs import patches
from longtake.engine import PREFILL_BLOCK, PREFILL_BLOCK_GPU
from longtake.parts.abreast import in_flight, lanes
from longtake.parts.cache import SLACK
from longtake.parts.qwen2 import MLP_CHUNK
from longtake.parts.vit import CPU_BYTES
from longtake.pictures import Pictures
from longtake.reader import CHUNK
from longtake.sizes import Decoder, VideoSizes

QUESTION = 64
"""Tokens of a question and of the words around it, where nobody says how many."""

TABLE_BYTES = 8
"""Of a pixel while one of its three colours becomes numbers: an index and what it picks."""

ANSWERING = 900 * 2**10
"""Bytes of small pieces while a question is answered, as measured."""

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
    watching: int
    """At the widest moment of watching, which has not all of these at their widest."""
    memory: int
    """What is left when the video was watched."""
    asking: int
    """At the widest moment of a question and its answer, the memory included."""

    @property
    def peak(self) -> int:
        """Of watching and asking."""
        return max(self.watching, self.asking)


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
    """The tower on a chunk of frames, in parts, beside what the chunk has become so far."""
    chunk, part = chunk_frames(eye, frames), part_frames(eye, place, frames)
    last, made = chunk % part, made_bytes(eye, place, chunk)
    before = made_bytes(eye, place, chunk - last - part)
    most = before + max(numbers_bytes(eye, part), looking_bytes(eye, place, part))
    if last:
        ended = made_bytes(eye, place, chunk - last)
        most = max(most, ended + looking_bytes(eye, place, last))
    return max(most, 2 * made)  # what the parts have become is joined


def chunk_frames(eye: Eye, frames: int) -> int:
    """Frames of a chunk, its last clip filled up."""
    clip = eye.sizes.clip
    return -(-min(frames, CHUNK) // clip) * clip


def part_frames(eye: Eye, place: Place, frames: int) -> int:
    """Of a chunk of frames, those whose activations are there at the same time."""
    clip = eye.sizes.clip
    clips = chunk_frames(eye, frames) // clip
    return clip * (in_flight(eye.at_once, clips) if place.on_cpu else min(eye.at_once, clips))


def numbers_bytes(eye: Eye, frames: int) -> int:
    """While pixels of frames become numbers."""
    return frames * eye.side**2 * (3 * torch.float32.itemsize + TABLE_BYTES)


def looking_bytes(eye: Eye, place: Place, frames: int) -> int:
    """The tower and projector on frames that are seen at once, beside their pixels."""
    sizes, item, tower = eye.sizes, place.item, eye.sizes.tower
    clips = frames // sizes.clip
    m = clips * (sizes.clip * patches(tower) + sizes.class_token)
    wide = eye.hidden * m * tower.mlp * item
    if eye.cut and place.on_cpu:
        wide = min(wide, lanes(clips) * eye.hidden * CPU_BYTES) + m * tower.hidden * item
    acting = 2 * m * tower.hidden * item + max(wide, 5 * m * tower.hidden * item)
    if sizes.merged:  # scores of one half of the tokens with the other
        acting = max(acting, (m // 2) ** 2 // clips * item + 4 * m * tower.hidden * item)
    # between the projector's linears what is made is there twice
    pixels = frames * eye.side**2 * 3 * torch.float32.itemsize
    return pixels + max(acting, 2 * made_bytes(eye, place, frames))


def made_bytes(eye: Eye, place: Place, frames: int) -> int:
    """What the projector makes of frames."""
    sizes = eye.sizes
    each = sizes.per_frame if sizes.merged else patches(sizes.tower)
    return round(frames * each * sizes.decoder.hidden * place.item)


def layer_bytes(decoder: Decoder, place: Place, rows: int) -> int:
    """One decoder layer on so many rows."""
    d, item = decoder.hidden, place.item
    heads, kv = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    attention = heads + 2 * kv + 2 * heads + (7 * heads if place.on_cpu else 2 * heads)
    mlp = 2 * min(rows, MLP_CHUNK) * decoder.mlp * item + (rows > MLP_CHUNK) * rows * d * item
    exact = 2 * rows * d * torch.float32.itemsize * (item < torch.float32.itemsize)
    return 3 * rows * d * item + exact + max(rows * attention * item, mlp)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How tokens pass from the tower into the cache."""

    tokens: int
    """Visual ones in all."""
    chunk: int
    """Those of a chunk of frames."""
    width: int
    """Bytes of an embedding."""
    cached: Callable[[int], int]
    """Bytes of the cache when so many visual tokens have been seen."""
    read: Callable[[int], int]
    """Of so many that were seen, those that have been read."""


def streaming_bytes(flow: Flow, eye: Eye, place: Place, shown: Showing, pictures: Pictures) -> int:
    """At most while chunks are seen: the last ones count, when the cache is nearly full.

    Chunks earlier fewer tokens are cached, but more pictures are on their way.
    """
    most, chunks = 0, -(-shown.frames // CHUNK)
    before = made_bytes(eye, place, CHUNK)
    # a chunk stays pooled and joined; what waits is joined to it once more
    copies = 1 if eye.sizes.merged else 3
    for left in range(min(chunks, pictures.deep)):
        number = chunks - 1 - left
        coming = max(0, shown.frames - (number + 1) * CHUNK)
        tower = tower_bytes(eye, place, shown.frames - number * CHUNK)
        if number == 0:
            most = max(most, flow.cached(0) + first_bytes(eye, place, shown, pictures))
            continue
        seen = min(flow.tokens, number * flow.chunk)
        read = flow.read(seen)
        rows = min(copies * flow.chunk + seen - read, (copies - 1) * flow.chunk + seen)
        held = flow.cached(read) + rows * flow.width + before
        shots = pictures.bytes(coming) if place.on_cpu else 0
        most = max(most, held + tower + shots)
    return most


def first_bytes(eye: Eye, place: Place, shown: Showing, pictures: Pictures) -> int:
    """While the first chunk is seen: its pixels become numbers before many more are decoded."""
    coming, tower = max(0, shown.frames - CHUNK), tower_bytes(eye, place, shown.frames)
    if not place.on_cpu:
        return tower
    chunk, shots = chunk_frames(eye, shown.frames), pictures.at_first(coming)
    if part_frames(eye, place, shown.frames) < chunk:
        return tower + shots
    looking = max(looking_bytes(eye, place, chunk), 2 * made_bytes(eye, place, chunk))
    return max(numbers_bytes(eye, chunk) + pictures.at_first(min(coming, CHUNK)), looking + shots)


def reading_bytes(sizes: VideoSizes, place: Place, rows: int, tokens: int) -> int:
    """Embeddings that wait for a block of `rows` to fill, and a layer on such a block."""
    chunk = round(min(tokens, CHUNK * sizes.per_frame))
    waiting = (min(tokens, 2 * rows) + chunk) * sizes.decoder.hidden * place.item
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
    return new * place.item + work + ANSWERING
