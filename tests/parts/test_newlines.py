"""Newlines behind rows, frames and videos, against loops over single tokens."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from longtake.errors import PromptError
from longtake.parts.newlines import Newlines, ended, rows_ended, with_newlines
from longtake.types import VisualTokens

NEWLINE_D = torch.tensor([-1.0, -2.0])


def chunk(first: int, counts: Sequence[int]) -> VisualTokens:
    """Frames of so many tokens, each token its own number; the first is shown at `first`."""
    total = sum(counts)
    return VisualTokens(
        features_ND=torch.arange(total * 2.0).view(total, 2) + 100 * first,
        counts=tuple(counts),
        seconds=tuple(float(first + n) for n in range(len(counts))),
        patches=7,
    )


def slow(frames: Sequence[Tensor], where: Newlines) -> list[list[list[float]]]:
    """Token by token: the rows of each frame."""
    found: list[list[list[float]]] = []
    for frame_ND in frames:
        side = round(len(frame_ND) ** 0.5)
        rows: list[list[float]] = []
        for place, token_D in enumerate(frame_ND, 1):
            rows.append(token_D.tolist())
            if where == "grid" and place % side == 0:
                rows.append(NEWLINE_D.tolist())
        found.append(rows + ([NEWLINE_D.tolist()] if where == "frame" else []))
    if where == "one_token":
        found[-1].append(NEWLINE_D.tolist())
    return found


@pytest.mark.parametrize("where", ["one_token", "grid", "frame", "no_token"])
@pytest.mark.parametrize("sizes", [[[4, 4, 4]], [[9, 4, 4], [1], [9, 4]], [[1]], [[16], [16]]])
def test_newlines_equal_a_loop_over_tokens(where: Newlines, sizes: list[list[int]]) -> None:
    chunks = [chunk(3 * n, counts) for n, counts in enumerate(sizes)]
    frames = [frame for part in chunks for frame in part.features_ND.split(part.counts)]
    wanted = slow(frames, where)
    found = list(with_newlines(iter(chunks), NEWLINE_D, where))
    assert [len(part.counts) for part in found] == [len(part.counts) for part in chunks]
    assert [part.seconds for part in found] == [part.seconds for part in chunks]
    assert {part.patches for part in found} == {7}
    joined = VisualTokens.join(found)
    assert joined.newlines == len(joined.features_ND) - sum(map(len, frames))
    assert [part.tolist() for part in joined.features_ND.split(joined.counts)] == wanted


def test_a_chunk_waits_for_the_next_alone() -> None:
    """Where one newline ends the video, no more than one chunk is held back."""
    taken: list[int] = []

    def chunks() -> Iterator[VisualTokens]:
        for n in range(5):
            taken.append(n)
            yield chunk(n, [4])

    stream = with_newlines(chunks(), NEWLINE_D, "one_token")
    next(stream)
    assert taken == [0, 1]
    rest = list(stream)
    assert taken == [0, 1, 2, 3, 4]
    assert [part.counts for part in rest] == [(4,), (4,), (4,), (5,)]


def test_nothing_has_no_newline() -> None:
    for where in ("one_token", "grid", "frame", "no_token"):
        assert list(with_newlines(iter([]), NEWLINE_D, where)) == []


def test_rows_need_squares() -> None:
    stream = with_newlines(iter([chunk(0, [4, 6])]), NEWLINE_D, "grid")
    with pytest.raises(PromptError, match="square grids, got 6"):
        next(stream)


def test_rows_of_no_patches_have_no_newline() -> None:
    assert rows_ended(torch.zeros(0, 3, 2), NEWLINE_D).shape == (0, 2)
    assert ended(torch.zeros(0, 2), NEWLINE_D).tolist() == [[-1.0, -2.0]]
