"""Needles: pictures with questions; cards that are drawn, or those of published benchmarks.

Read as they were published: LongVA's list of {image or path, question or prompt, answer},
VideoChat-Flash's list of {image, question, answer} and its chains of {images, question1, answer1,
question2, answer2}, Video-XL's {needle, retrieval_question, answer}, and the same as JSON lines or
as parquet, which holds its pictures itself.

C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longtake.errors import OptionError
from longtake.evaluate.annotations import find_list, lines_of, parquet_rows
from longtake.parts.chat import PLACEHOLDER
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.words import TEST_WORDS
from longtake.video.cards import Card, Look, draw_card, random_card, random_look
from longtake.video.images import open_image

MOST_CARDS = 10_000
FOLDERS = ("", "images", "needles", "../images", "../needles", "..")
"""Where a list's pictures may lie, seen from the list."""


class Picture(Protocol):
    """A needle's picture."""

    def draw(self, width: int, height: int) -> Tensor:
        """uint8 [3, H, W]; drawn ones take this size. Raises VideoError."""

    def identity(self) -> str:
        """What it is, in a line; the same for the same picture."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture in a file."""

    path: Path

    def draw(self, width: int, height: int) -> Tensor:
        """In its own size."""
        return open_image(self.path)

    def identity(self) -> str:
        """Digest of its bytes."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A picture that a list holds."""

    name: str
    data: bytes = field(repr=False)

    def draw(self, width: int, height: int) -> Tensor:
        """In its own size."""
        return open_image(self.name, BytesIO(self.data))

    def identity(self) -> str:
        """Digest of its bytes, as if it were stored."""
        return hashlib.sha256(self.data).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A card."""

    card: Card
    look: Look

    def draw(self, width: int, height: int) -> Tensor:
        """In the haystack's size."""
        return tensor_of(draw_card(self.card, width, height, self.look))

    def identity(self) -> str:
        """All that it is drawn from."""
        return f"{self.card} {self.look}"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question and what it wants to hear."""

    name: str
    """"answer", or what is asked about."""
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One picture, or a chain of them in the order they are shown, and what is asked."""

    name: str
    pictures: tuple[Picture, ...]
    asks: tuple[Ask, ...]

    def identity(self) -> str:
        """Digest of pictures and questions."""
        words = [f"{ask.name} {ask.question!r} {ask.answer!r}" for ask in self.asks]
        told = "\n".join([*(picture.identity() for picture in self.pictures), *words])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def tensor_of(picture: Image.Image) -> Tensor:
    """uint8 [3, H, W], channels last in memory."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def drawn_needles(count: int, seed: int) -> list[Needle]:
    """Cards with words that the bundled model never saw in training, in the face Pillow carries.

    Three questions each: number, word, colour. The same for the same seed. Raises OptionError.
    """
    if not 1 <= count <= MOST_CARDS:
        raise OptionError(f"cards must be 1 to {MOST_CARDS}, got {count}")
    rng = np.random.default_rng([seed, 1])
    needles = []
    for number in range(count):
        card, look = random_card(rng, TEST_WORDS), random_look(rng, (None,))
        asks = tuple(
            Ask(name=field, question=HELD_OUT_QUESTIONS[field][0], answer=answer(field, card))
            for field in FIELDS
        )
        picture = Drawn(card=card, look=look)
        needles.append(Needle(name=f"card-{number}", pictures=(picture,), asks=asks))
    return needles


def read_needles(place: Path, chains: bool) -> list[Needle]:
    """Needles of a list, or of the one list in a folder; every picture is opened once.

    `chains`: several pictures each. Raises OptionError, naming list and item, VideoError for a
    picture that cannot be read.
    """
    file = find_list(place)
    needles = [
        needle_of(file, number, item, chains) for number, item in enumerate(items_of(file), 1)
    ]
    if not needles:
        raise OptionError(f"{file} lists no needle; expected at least one")
    for needle in needles:
        for picture in needle.pictures:
            picture.draw(1, 1)
    return needles


def items_of(file: Path) -> list[Mapping[str, Any]]:
    """What a list holds, one mapping per needle. Raises OptionError, AnnotationError."""
    held = parquet_rows(file) if file.suffix == ".parquet" else json_of(file)
    if isinstance(held, dict) and isinstance(held.get("needle"), list):
        names = ("needle", "retrieval_question", "answer")
        columns = [held.get(name) for name in names]
        if not all(isinstance(c, list) and len(c) == len(held["needle"]) for c in columns):
            raise OptionError(f"{file}: {', '.join(names)} must be lists of one length")
        keys = ("image", "question", "answer")
        held = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(held, list) or not all(isinstance(item, dict) for item in held):
        raise OptionError(f"{file} must be a list of objects, one per needle")
    return held


def json_of(file: Path) -> Any:
    """What a JSON file says, or the lines of one. Raises OptionError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in lines_of(text)]
        return json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{file} is no JSON that can be read ({reason})") from error


def needle_of(file: Path, number: int, item: Mapping[str, Any], chains: bool) -> Needle:
    """One item of a list. Raises OptionError."""
    where = f"{file}: item {number}"
    if "images" in item:
        if not chains:
            raise OptionError(f"{where} is a chain of pictures; use --kind multihop")
        names = item["images"]
        if not isinstance(names, list) or len(names) < 2:
            raise OptionError(f"{where}: images must be a list of 2 or more")
        pairs = [("caption", "question1", "answer1"), ("answer", "question2", "answer2")]
    else:
        if chains:
            raise OptionError(f"{where} has no images; a chain has a list of them")
        names = [item.get("image", item.get("path"))]
        asked = "question" if "question" in item else "prompt"
        pairs = [("answer", asked, "answer")]
    return Needle(
        name=str(item.get("id", number - 1)),
        pictures=tuple(picture_of(file, where, name) for name in names),
        asks=tuple(
            Ask(name=name, question=text(item, q, where), answer=text(item, a, where))
            for name, q, a in pairs
        ),
    )


def text(item: Mapping[str, Any], field: str, where: str) -> str:
    """A field that holds words. Raises OptionError."""
    value = item.get(field)
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{where}: {field} must be a text, got {value!r:.40}")
    if PLACEHOLDER in value:
        raise OptionError(
            f"{where}: leave {PLACEHOLDER} out of {field}; the video stands before it"
        )
    return value


def picture_of(file: Path, where: str, said: object) -> Picture:
    """A listed picture: named, or held as a data set holds it. Raises OptionError."""
    if isinstance(said, dict):
        data, name = said.get("bytes"), said.get("path")
        if isinstance(data, bytes):
            return Embedded(name=f"{where}, {name or 'its picture'}", data=data)
        said = name
    return Stored(path=picture_at(file, where, said))


def picture_at(file: Path, where: str, name: object) -> Path:
    """A listed picture's path. Raises OptionError if it is not there."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise OptionError(f"{where}: image must be a file's name, got {name!r:.40}")
    for folder in FOLDERS:
        path = file.parent / folder / name
        if path.is_file():
            return path
    raise OptionError(
        f"{where}: picture {name!r:.80} is not there, beside {file.name} or in images"
    )
