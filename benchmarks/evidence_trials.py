"""Cards among generated or real frames, and the attention of every layer, head and answer token.

T frames, L layers, H heads, A answer tokens, N visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longtake.engine import prefill, write
from longtake.parts.splice import entries_of
from longtake.system import System
from longtake.train.fonts import find_faces
from longtake.train.haystack import haystack_frame, wear
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.words import TEST_WORDS, random_word
from longtake.types import Entry, Frames, Memory, VisualTokens
from longtake.video.cards import Card, draw_card, random_card, random_look
from longtake.video.decode import open_video
from longtake.video.sample import Footage

WEAR = 0.5
POOL = 96
"""Generated frames that a haystack is drawn from."""


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """A row of frames as the language model gets them."""

    name: str
    width: int
    height: int
    frames_TND: Tensor
    generated: bool


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One question about one card, and what was looked at while it was answered."""

    clip: str
    frames: int
    first: int
    """Frame at which the card appears."""
    stays: int
    """Frames it stays for."""
    wanted: str
    got: str
    mass_ALHT: Tensor
    """Attention on each frame; the first row is the question's last token."""
    base_LHT: Tensor
    """The same of a token that asks nothing, behind the same video."""


@dataclass
class Recorder:
    """Keeps the attention on each frame, of every layer and head."""

    entries: Sequence[Entry]
    layers: int
    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: int, weights_BHN: Tensor) -> None:
        """Called by each layer with the last query's attention."""
        first, last = self.entries[0].start, self.entries[-1].stop
        each = self.entries[0].stop - first
        self.rows.append(weights_BHN[0, :, first:last].unflatten(1, (-1, each)).sum(-1))

    def mass(self) -> Tensor:
        """[A, L, H, T]."""
        return torch.stack(self.rows).unflatten(0, (-1, self.layers))


def seen(system: System, pixels_TCHW: Tensor) -> Tensor:
    """Visual tokens [T, N, D] of frames."""
    zero = torch.zeros(len(pixels_TCHW))
    frames = Frames(pixels_TCHW=pixels_TCHW, seconds_T=zero.double(), index_T=zero.long())
    packed = VisualTokens.join(list(system.compress(system.see(system.fit(iter([frames]))))))
    return packed.features_ND.unflatten(0, (len(pixels_TCHW), -1))


def pixels_of(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as bytes [T, C, H, W]."""
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])


def generated(system: System, frames: int, rng: np.random.Generator) -> Haystack:
    """Frames such as the bundled model was trained among."""
    pool_TND = seen(system, pixels_of([haystack_frame(rng) for _ in range(POOL)]))
    rows_TND = pool_TND[torch.from_numpy(rng.integers(POOL, size=frames))]
    return Haystack(name="generated", width=128, height=128, frames_TND=rows_TND, generated=True)


def sampled(system: System, clip: Path, frames: int) -> Haystack:
    """A real clip's frames by the model's rule; a short clip gives some of them twice."""
    with open_video(clip) as video:
        wanted = list(system.sample(Footage(frames=video.frames, fps=video.fps), frames))
        size = (video.width, video.height)
        parts = [seen(system, chunk.pixels_TCHW) for chunk in video.read(wanted, chunk=16)]
    return Haystack(
        name=clip.stem,
        width=size[0],
        height=size[1],
        frames_TND=torch.cat(parts),
        generated=False,
    )


def card_tokens(system: System, card: Card, hay: Haystack, rng: np.random.Generator) -> Tensor:
    """A card [1, N, D]; among real frames in a face that was never trained on."""
    faces = find_faces().training if hay.generated else find_faces().test
    picture = draw_card(card, hay.width, hay.height, random_look(rng, faces))
    return seen(system, pixels_of([wear(picture, rng, WEAR)]))


@torch.no_grad()
def trials(
    system: System, hay: Haystack, depths: Sequence[float], stays: int, rng: np.random.Generator
) -> Iterator[Trial]:
    """A card at each depth, all its fields asked for."""
    count = len(hay.frames_TND)
    head_SD = system.embed_text(system.template.head())
    for depth in depths:
        first = round(depth * (count - stays))
        card = random_card(rng, [random_word(rng)] if hay.generated else TEST_WORDS)
        rows_TND = hay.frames_TND.clone()
        rows_TND[first : first + stays] = card_tokens(system, card, hay, rng)
        cache = system.model.new_cache(len(head_SD) + rows_TND[..., 0].numel() + 64)
        prefill(system.model, iter([torch.cat([head_SD, rows_TND.flatten(0, 1)])]), cache)
        packed = VisualTokens(
            features_ND=rows_TND.flatten(0, 1),
            counts=(rows_TND.shape[1],) * count,
            seconds=tuple(map(float, range(count))),
        )
        memory = Memory(
            cache=cache,
            length=cache.get_seq_length(),
            entries=tuple(entries_of(packed, len(head_SD))),
            durations=(float(count),),
            system=system.name,
            fingerprint=system.fingerprint,
        )
        base_LHT = looked(system, memory, system.tokens(memory.lead))[0]
        for asked in FIELDS:
            ids = system.tokens(memory.lead + system.template.tail(HELD_OUT_QUESTIONS[asked][0]))
            mass_ALHT, got = looked(system, memory, ids, answer_too=True)
            yield Trial(
                clip=hay.name,
                frames=count,
                first=first,
                stays=stays,
                wanted=answer(asked, card),
                got=got,
                mass_ALHT=mass_ALHT,
                base_LHT=base_LHT[0],
            )


def looked(
    system: System, memory: Memory, ids: Sequence[int], *, answer_too: bool = False
) -> tuple[Tensor, str]:
    """Attention [A, L, H, T] of the last of these ids and of the answer's tokens; the answer."""
    cache, record = memory.cache, Recorder(memory.entries, system.model.config.num_hidden_layers)
    cache.rewind(memory.length)
    features_D = system.read(cache, ids, record)
    text = ""
    if answer_too:
        options = system.options(max_new_tokens=12)
        out = write(
            system.model,
            features_D,
            cache,
            options,
            end_ids=system.end_ids,
            decode=system.text,
            observe=record,
        )
        text = system.text(out.ids).strip()
    cache.rewind(memory.length)
    return record.mass(), text
