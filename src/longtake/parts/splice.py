"""Put visual tokens where the prompt's placeholders are; fail loudly on any count mismatch.

Letters: S sequence, D width.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from longtake.errors import PromptError
from longtake.parts.chat import PLACEHOLDER
from longtake.types import Entry, VisualTokens

Piece = tuple[int, ...] | VisualTokens
"""Token ids of a stretch of text, or visuals."""

IMAGE_ID = -200
"""The id the originals write for a placeholder."""


def pieces_of(
    prompt: str, visuals: Sequence[VisualTokens], encode: Callable[[str], Sequence[int]]
) -> list[Piece]:
    """Split a prompt at its placeholders, tokenise the stretches, put visuals between.

    Raises PromptError unless there are as many placeholders as visuals (the originals ignore extra
    visuals silently and crash on extra placeholders).
    """
    texts = prompt.split(PLACEHOLDER)
    if len(texts) - 1 != len(visuals):
        raise PromptError(
            f"the prompt has {len(texts) - 1} {PLACEHOLDER} placeholders for {len(visuals)} visuals"
        )
    pieces: list[Piece] = [tuple(encode(texts[0]))]
    for visual, text in zip(visuals, texts[1:], strict=True):
        pieces += [visual, tuple(encode(text))]
    return [piece for piece in pieces if isinstance(piece, VisualTokens) or piece]


def flat_ids(pieces: Sequence[Piece]) -> list[int]:
    """The ids of a prompt with -200 for each visual, as the originals hold it."""
    ids: list[int] = []
    for piece in pieces:
        ids += [IMAGE_ID] if isinstance(piece, VisualTokens) else piece
    return ids


def embed_pieces(
    pieces: Sequence[Piece], embed: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[Tensor]:
    """Embeddings of each piece in order, [S_i, D]."""
    for piece in pieces:
        if isinstance(piece, VisualTokens):
            yield piece.features_ND
        else:
            yield embed(torch.tensor(piece, dtype=torch.int64, device=device))


def entries_of(tokens: VisualTokens, start: int, visual: int) -> list[Entry]:
    """Where each frame lies when the first token is token `start` of the sequence."""
    entries = []
    for count, seconds in zip(tokens.counts, tokens.seconds, strict=True):
        stop = start + count
        entries.append(Entry(start=start, stop=stop, seconds=seconds, visual=visual))
        start += count
    return entries


def first_rows(stream: Iterator[Tensor], limit: int) -> Iterator[Tensor]:
    """The first `limit` rows of a stream of [S_i, D]."""
    for piece in stream:
        if limit <= 0:
            return
        yield piece[:limit]
        limit -= len(piece)


def rechunk(stream: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup [S_i, D] pieces into blocks of exactly `size` rows (the last may be shorter)."""
    held: list[Tensor] = []
    rows = 0
    for piece in stream:
        held.append(piece)
        rows += len(piece)
        if rows < size:
            continue
        whole = torch.cat(held) if len(held) > 1 else held[0]
        full = rows // size * size
        yield from whole[:full].split(size)
        held, rows = [whole[full:]], rows - full
    if rows:
        yield torch.cat(held) if len(held) > 1 else held[0]
