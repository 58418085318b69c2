"""Weights of answers equal what explicit softmax matrices and plain loops say, system by system.

Letters: B batch, H heads, S queries, N keys, E head width, K key/value heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
from torch import Tensor

import longtake.systems.video_xl
from longtake.mixing import Mixed, mix
from longtake.parts import qwen2
from longtake.parts.cache import GrowingCache
from longtake.parts.splice import Piece
from longtake.reader import Known
from longtake.system import System
from longtake.systems.video_xl import VideoXL
from longtake.types import Answer, Memory, Stats, VisualTokens, Window
from tests import test_condense, test_onevision, test_staged, tiny

QUESTION = "Who opens the door first?"
TOKENS = 3
FRAMES = 11
"""Of Video-XL: a whole window and a short one."""
Owner = Callable[[int], dict[int, float]]
"""Row of a memory -> the frames it stands for, with shares that sum to 1."""


@dataclass
class Explicit:
    """Attention by whole matrices, in place of `attend`; keeps each call's last row."""

    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, q_BHSE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor) -> Tensor:
        heads, queries = q_BHSE.shape[1:3]
        k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_BKNE, v_BKNE))
        scores = q_BHSE @ k.transpose(2, 3) / q_BHSE.shape[-1] ** 0.5
        hidden = torch.ones(queries, k.shape[2]).tril(k.shape[2] - queries) == 0
        weights_BHSN = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        self.rows.append(weights_BHSN[0, :, -1].sum(0))
        return weights_BHSN @ v


def by_hand(
    system: System, memory: Memory, owner: Owner, patch: pytest.MonkeyPatch
) -> tuple[dict[int, float], Answer]:
    """Each frame's share, from an answer that records no evidence."""
    explicit, held = Explicit(), []
    behind = memory.cache
    assert isinstance(behind, GrowingCache)

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        layer = len(explicit.rows) % system.model.config.num_hidden_layers
        held.append(behind.rows_of(layer))
        return explicit(q, k, v)

    with patch.context() as inside:
        inside.setattr(qwen2, "attend", noted)
        options = system.options(max_new_tokens=TOKENS, evidence=False)
        answer = system.ask(memory, QUESTION, options)
    calls = system.model.config.num_hidden_layers * TOKENS
    mass: dict[int, float] = defaultdict(float)
    for row_N, kept in zip(explicit.rows[-calls:], held[-calls:], strict=True):
        tokens = range(len(row_N)) if kept is None else kept.tolist()
        for token, weight in zip(tokens, row_N.tolist(), strict=False):
            for frame, share in owner(token).items():
                mass[frame] += weight * share
    total = sum(mass.values())
    return {frame: weight / total for frame, weight in mass.items()}, answer


def owner_of(memory: Memory) -> Owner:
    """Where each token of a memory that keeps all of them belongs."""
    return lambda row: {
        frame: 1.0 for frame, at in enumerate(memory.entries) if at.start <= row < at.stop
    }


def summaries_of(windows: Sequence[Window], each: int, first: int = 0) -> Owner:
    """Frames of `each` visual tokens by the windows that condensed them."""
    owners: dict[int, dict[int, float]] = {}
    begun = 0
    for window in windows:
        for number, row in enumerate(range(window.start, window.stop)):
            tokens = range(begun + number * window.ratio, begun + (number + 1) * window.ratio)
            owners[row] = defaultdict(float)
            for token in tokens:
                owners[row][first + token // each] += 1 / len(tokens)
        begun += window.tokens
    return lambda row: owners.get(row, {})


def check(system: System, memory: Memory, owner: Owner, patch: pytest.MonkeyPatch) -> Answer:
    """Hold an answer's weights against those by hand, and its spans against its timeline."""
    plain, silent = by_hand(system, memory, owner, patch)
    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=TOKENS))
    assert answer.ids == silent.ids
    assert (silent.evidence, silent.timeline) == ((), ())
    places = [place for place, entry in enumerate(memory.entries) if memory.durations[entry.visual]]
    weights = [weight for line in answer.timeline for weight in line.weights]
    wanted = [plain.get(place, 0.0) for place in places]
    # rounded down to millionths; fp32 sums in another order
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(wanted), rtol=0, atol=3e-6)
    assert sum(weights) <= 1.0
    if len(places) == len(memory.entries):
        assert sum(weights) > 1.0 - 2e-6 * len(weights)
    for line in answer.timeline:
        mine = [entry.seconds for entry in memory.entries if entry.visual == line.visual]
        assert line.seconds == tuple(round(second, 3) for second in mine)
        assert line.end == round(memory.durations[line.visual], 3)
    heavy = [span.weight for span in answer.evidence]
    assert heavy == sorted(heavy, reverse=True)
    assert heavy
    assert sum(heavy) <= 1.0 + 1e-9
    for span in answer.evidence:
        assert 0.0 <= span.start < span.end <= memory.durations[span.visual]
    return answer


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as held:
        yield held


def test_longva(patch: pytest.MonkeyPatch) -> None:
    system = tiny.tiny()
    memory = system.watch(tiny.noise(11), max_frames=11)
    check(system, memory, owner_of(memory), patch)


def test_several_videos_and_a_still_between(patch: pytest.MonkeyPatch) -> None:
    system, still = tiny.tiny(), tiny.noise(1, seed=9).pixels_TCHW[0]
    memory = system.watch(tiny.noise(5), still, tiny.noise(3, seed=2), max_frames=5)
    answer = check(system, memory, owner_of(memory), patch)
    assert [line.visual for line in answer.timeline] == [0, 2]
    assert sum(sum(line.weights) for line in answer.timeline) < 0.99


def test_quantised(patch: pytest.MonkeyPatch) -> None:
    system = tiny.tiny().variant(kv="int4")
    memory = system.watch(tiny.noise(9), max_frames=9)
    check(system, memory, owner_of(memory), patch)


def test_progressive_pooling(patch: pytest.MonkeyPatch) -> None:
    system = test_onevision.tiny().variant(pool="1,4,3")
    memory = system.watch(tiny.noise(8), max_frames=8)
    sizes = [entry.stop - entry.start for entry in memory.entries]
    assert len(set(sizes)) > 1
    check(system, memory, owner_of(memory), patch)


@pytest.mark.parametrize("name", ["uniform", "attention", "uniform1"])
def test_merged_and_dropped(name: str, patch: pytest.MonkeyPatch) -> None:
    system = test_staged.dropping(name)
    memory = test_staged.memory_of(system, test_staged.visual(4), test_staged.visual(2, seed=1))
    check(system, memory, owner_of(memory), patch)


@cache
def looked_at() -> VisualTokens:
    """What the tower makes of the golden video with cuts, class tokens included; looked at once."""
    system = test_condense.tiny().variant(dynamic=True)
    return test_condense.tokens_of(system, test_condense.scenes(FRAMES))


def condensed(system: VideoXL) -> Memory:
    """A memory of it, as watching makes it."""
    pieces: list[Piece] = [system.tokens(system.template.head()), looked_at()]
    into = system.new_cache()
    reading = system.remember(iter(pieces), into, Known(1000))
    return system._memory(reading, into, (FRAMES / 2,), Stats())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 8},
        {"ratio": "2,4,8"},
        {"ratio": 8, "place": "append"},
        {"ratio": 288},  # two frames to a summary
        {"ratio": 8, "dynamic": True, "average_ratio": 4},
    ],
)
def test_condensed(options: dict[str, object], patch: pytest.MonkeyPatch) -> None:
    system = test_condense.tiny().variant(**options)
    memory = condensed(system)
    check(system, memory, summaries_of(memory.windows, 144), patch)


def test_two_levels(patch: pytest.MonkeyPatch) -> None:
    """Which windows are fine differs from row to row of the mixture."""
    coarse = test_condense.tiny().variant(ratio=16)
    # room for the short window, of 18 rows instead of 9, and not for the other, of 180 and not 90
    budget = round((FRAMES * 144 / 16 + 60) * coarse.row_bytes())
    system = coarse.variant(fine=8, budget=budget)
    memory = condensed(system)
    mixtures: list[Mixed] = []

    def noted(*args: object, **kwargs: object) -> Mixed:
        mixtures.append(mix(*args, **kwargs))  # type: ignore[arg-type]
        return mixtures[-1]

    patch.setattr(longtake.systems.video_xl, "mix", noted)
    system.ask(memory, QUESTION, system.options(max_new_tokens=1))
    ratios = {window.ratio for window in mixtures[0].windows}
    assert ratios == {8, 16}
    check(system, memory, summaries_of(mixtures[0].windows, 144), patch)


def test_one_row_by_its_weights_is_attention() -> None:
    """Decoding with evidence uses the observed row; it must be what `attend` gives."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, n, s, 16, generator=generator) for n, s in ((8, 1), (2, 99), (2, 99)))
    row = qwen2.last_row_weights(q, k)
    torch.testing.assert_close(row.sum(-1), torch.ones(1, 8))
    ours = qwen2.weighted_values(row, v)
    torch.testing.assert_close(ours, qwen2.attend(q, k, v), rtol=0, atol=2e-6)


def test_a_question_without_evidence_asks_no_layer_for_weights(patch: pytest.MonkeyPatch) -> None:
    system = tiny.tiny()
    memory = system.watch(tiny.noise(3), max_frames=3)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("weights were asked for")

    patch.setattr(qwen2, "last_row_weights", refuse)
    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=3, evidence=False))
    assert (answer.evidence, answer.timeline) == ((), ())
    with pytest.raises(AssertionError, match="asked for"):
        system.ask(memory, QUESTION, system.options(max_new_tokens=3))


def test_replaying_a_memory_elsewhere_keeps_its_moments(patch: pytest.MonkeyPatch) -> None:
    """Times come from entries, whatever else a memory says of itself."""
    system = tiny.tiny()
    memory = system.watch(tiny.noise(4), max_frames=4)
    later = tuple(replace(entry, seconds=entry.seconds + 100.0) for entry in memory.entries)
    moved = replace(memory, entries=later, durations=(102.0,))
    answer = check(system, moved, owner_of(moved), patch)
    assert answer.timeline[0].seconds[0] == 100.0
