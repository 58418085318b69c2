"""Put visual tokens where the prompt's placeholders are; fail loudly on any count mismatch.

Letters: S sequence, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

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
    for number, (visual, text) in enumerate(zip(visuals, texts[1:], strict=True)):
        pieces += [replace(visual, visual=number), tuple(encode(text))]
    return [piece for piece in pieces if isinstance(piece, VisualTokens) or piece]


def flat_ids(pieces: Sequence[Piece]) -> list[int]:
    """The ids of a prompt with -200 for each visual, as the originals hold it."""
    ids: list[int] = []
    for piece in pieces:
        ids += [IMAGE_ID] if isinstance(piece, VisualTokens) else piece
    return ids


def embed_pieces(
    pieces: Iterable[Piece], embed: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[Tensor]:
    """Embeddings of each piece in order, [S_i, D]."""
    for piece in pieces:
        if isinstance(piece, VisualTokens):
            yield piece.features_ND
        else:
            yield embed(torch.tensor(piece, dtype=torch.int64, device=device))


def entries_of(tokens: VisualTokens, start: int) -> list[Entry]:
    """Where each frame lies when the first token is token `start` of the sequence."""
    entries = []
    for count, seconds in zip(tokens.counts, tokens.seconds, strict=True):
        stop = start + count
        entries.append(Entry(start=start, stop=stop, seconds=seconds, visual=tokens.visual))
        start += count
    return entries


def first_tokens(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """The pieces of the first `limit` tokens, the last piece cut where they end."""
    kept: list[Piece] = []
    for piece in pieces:
        if limit <= 0:
            break
        kept.append(
            first_features(piece, limit) if isinstance(piece, VisualTokens) else piece[:limit]
        )
        limit -= piece_tokens(piece)
    return kept


def first_features(tokens: VisualTokens, limit: int) -> VisualTokens:
    """The first `limit` features; an entry they end in is cut, those behind it stay empty."""
    ends = [min(end, limit) for end in accumulate(tokens.counts)]
    counts = tuple(end - start for start, end in pairwise([0, *ends]))
    return replace(tokens, features_ND=tokens.features_ND[:limit], counts=counts)


def entries_within(tokens: VisualTokens, first: int, stop: int) -> VisualTokens:
    """Some of the entries, in order; separators that are in no entry's place go with the last."""
    start, end = sum(tokens.counts[:first]), sum(tokens.counts[:stop])
    whole, patches = len(tokens.counts), tokens.patches
    return replace(
        tokens,
        features_ND=tokens.features_ND[start:end],
        counts=tokens.counts[first:stop],
        seconds=tokens.seconds[first:stop],
        class_TD=None if tokens.class_TD is None else tokens.class_TD[first:stop],
        patches=None if patches is None else patches * stop // whole - patches * first // whole,
        newlines=tokens.newlines if stop == whole else 0,
    )


def visual_of(piece: Piece) -> int | None:
    """Which visual a piece belongs to; None for text."""
    return piece.visual if isinstance(piece, VisualTokens) else None


def piece_tokens(piece: Piece) -> int:
    """How many tokens a piece has."""
    return len(piece.features_ND) if isinstance(piece, VisualTokens) else len(piece)


def visual_count(piece: Piece) -> int:
    """How many of them are visual tokens, separators aside."""
    if not isinstance(piece, VisualTokens):
        return 0
    return max(0, len(piece.features_ND) - piece.newlines)


def patches_of(tokens: VisualTokens) -> int:
    """Tower tokens that went into these."""
    return len(tokens.features_ND) if tokens.patches is None else tokens.patches


def rechunk(stream: Iterator[Tensor], sizes: Iterator[int]) -> Iterator[Tensor]:
    """Regroup [S_i, D] pieces into blocks of the given sizes (the last may be shorter)."""
    held: list[Tensor] = []
    rows, size = 0, next(sizes)
    for piece in stream:
        held.append(piece)
        rows += len(piece)
        if rows < size:
            continue
        whole = torch.cat(held) if len(held) > 1 else held[0]
        while len(whole) >= size:
            yield whole[:size]
            whole, size = whole[size:], next(sizes)
        held, rows = [whole], len(whole)
    if rows:
        yield torch.cat(held) if len(held) > 1 else held[0]
