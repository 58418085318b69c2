"""Seconds of each stage, from operations, bytes, and how fast they go.

Decoding and resizing run on threads of their own beside the tower and the language model, so a
video is watched in the longer of the two, or in as long as the processor's cores take for both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longtake.costs import Stage, flops_of, layer_weights, linear_flops, question_flops, run_flops
from longtake.needs import Needs, Place
from longtake.pictures import THREADS
from longtake.rates import FEW, SOME, Rates
from longtake.system import System
from longtake.video.effort import FilmRates


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of the work."""

    name: str
    tokens: int
    """What leaves it; frames of decoding and resizing."""
    flops: int
    bytes: int
    """What it holds at its widest."""
    seconds: float
    """By itself; decoding and resizing go on beside the rest."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Times one way to watch a video."""

    made: System
    frames: int
    """Frames that are looked at."""
    pictures: int
    """Pictures that are decoded for them."""
    text: int
    """Tokens of text in the memory."""
    question: int
    needs: Needs
    place: Place
    rates: Rates
    film: FilmRates

    @property
    def tokens(self) -> int:
        """Visual tokens that the language model reads."""
        return self.made.arranged(self.frames) or 0

    def watched(self) -> tuple[PlannedStage, ...]:
        """From the file to the memory."""
        frames, needs, film = self.frames, self.needs, self.film
        stages = self.made.stages(frames, self.place.dtype)
        seen = [stage for stage in stages if not stage.kv_bytes]
        tower, after = seen[0], seen[1:]
        layers = [stage for stage in stages if stage.kv_bytes]
        read = layers[: self.made.watched_stages]
        decode = self.pictures * film.picture + frames * film.frame
        look = tower.flops / self.rates.tower
        if self.place.on_cpu:
            look += frames * film.normalise
        return (
            self._stage("decode", frames, 0, needs.pictures, decode / self.decoders),
            self._stage("resize", frames, 0, 0, frames * film.fit),
            self._stage("tower", tower.tokens, tower.flops, needs.tower, look),
            self._stage(
                "compress", after[-1].tokens, flops_of(after), 0, sum(map(self._after, after))
            ),
            self._stage(
                "prefill",
                self.tokens + self.text,
                run_flops(read),
                needs.cache + needs.reading,
                sum(map(self._layers, read)) + self._extra(),
            ),
        )

    def asked(self) -> tuple[PlannedStage, PlannedStage]:
        """A question up to the first word of its answer; each further word."""
        made, rates, sizes = self.made, self.rates, self.made.video_sizes
        decoder = sizes.decoder
        layers = [stage for stage in made.stages(self.frames, self.place.dtype) if stage.kv_bytes]
        late = layers[made.watched_stages :] if made.watched_stages is not None else []
        rows = made.answered_rows(self.tokens, self.text)
        token = question_flops(decoder, 1, rows)
        asked = question_flops(decoder, self.question, rows) + run_flops(late)
        one = self._token(rows)
        more = asked - run_flops(late) - token
        linear = linear_flops(decoder, self.question) - linear_flops(decoder, 1)
        first = (
            one
            + linear / asking_rate(rates, self.question)
            + max(0.0, more - linear) / rates.attention
        )
        first += sum(map(self._layers, late))
        needs = self.needs
        return (
            self._stage("first word", self.question, asked, needs.asking, first),
            self._stage("each word", 1, token, needs.memory, one),
        )

    def overlapped(self, stages: Sequence[PlannedStage]) -> float:
        """Seconds of watching, if stages run beside one another as far as there are cores."""
        pictures = stages[0].seconds + stages[1].seconds
        work = sum(stage.seconds for stage in stages[2:])
        if not self.place.on_cpu:
            return max(pictures, work)
        threads = torch.get_num_threads()
        spent = stages[0].seconds * self.decoders + (stages[1].seconds + work) * threads
        return max(pictures, work, spent / cores())

    @property
    def decoders(self) -> int:
        """Threads that decode side by side."""
        return min(THREADS, cores())

    def _stage(self, name: str, tokens: int, flops: int, held: int, seconds: float) -> PlannedStage:
        return PlannedStage(name=name, tokens=tokens, flops=flops, bytes=held, seconds=seconds)

    def _after(self, stage: Stage) -> float:
        """Seconds of what follows the tower."""
        if stage.name == "merge":
            return stage.flops / self.rates.merge
        if stage.name == "pool":  # each number is read and a quarter or so is written
            return stage.flops * self.place.item / self.rates.copy
        return stage.flops / self.rates.tower

    def _layers(self, stage: Stage) -> float:
        """Seconds of layers that read many rows."""
        attention = stage.attention - stage.spared_attention
        linear = stage.flops - stage.spared - attention
        return linear / self.rates.linear + attention / self.rates.attention

    def _extra(self) -> float:
        """Seconds of reading the text, and of packing what was read."""
        decoder = self.made.video_sizes.decoder
        linear = linear_flops(decoder, self.text) / self.rates.linear
        if self.made.kv == "full":
            return linear
        return linear + sum(self.made.rows(self.tokens, self.text)) * self._width / self.rates.pack

    @property
    def _width(self) -> int:
        """Numbers of a token in one layer."""
        decoder = self.made.video_sizes.decoder
        return 2 * decoder.kv_heads * decoder.head_dim

    def _token(self, rows: Sequence[int]) -> float:
        """Seconds of writing a token: weights and keys and values are read once."""
        decoder, item = self.made.video_sizes.decoder, self.place.weights.itemsize
        weights = decoder.layers * layer_weights(decoder) + decoder.hidden * decoder.vocab
        behind = sum(rows) * self._width * self.place.item / self.rates.behind
        packed = 0.0 if self.made.kv == "full" else sum(rows) * self._width / self.rates.unpack
        return weights * item / self.rates.weights + behind + packed


def asking_rate(rates: Rates, rows: int) -> float:
    """FLOP/s of linears on a question's rows.

    Up to SOME rows seconds lie on a line through the two counts measured, not below the fastest
    rate; every further row takes what a row of a block does.
    """
    few, some = FEW / rates.few, SOME / rates.some
    slope = max(0.0, some - few) / (SOME - FEW)
    seconds = few + (min(rows, SOME) - FEW) * slope + max(0, rows - SOME) / rates.linear
    return rows / max(seconds, rows / max(rates.some, rates.linear))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
