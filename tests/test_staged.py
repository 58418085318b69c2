"""Reading stage by stage equals reading at once; memories in stages serve every question.

N visual tokens, S sequence, D width, B batch.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import longtake.staged
from longtake import engine
from longtake.engine import Notes
from longtake.errors import CapacityError, OptionError, PromptError, StoreError
from longtake.inspect import inspect_model
from longtake.parts.between import DropBetween, Row
from longtake.parts.cache import SLACK, GrowingCache
from longtake.parts.dropping import Schedule
from longtake.parts.layered import StagedCache
from longtake.parts.quantise import quantised_bytes, quantised_bytes_per_token
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.splice import Piece, embed_pieces
from longtake.reader import Known
from longtake.sealed import Sealed
from longtake.staged import Staged, blocks_of
from longtake.store import load_memory, save_memory
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import Frames, Memory, Stats, VisualTokens
from longtake.video.inputs import Held
from tests.parity.videochat_flash import opened
from tests.resealed import rewrite
from tests.tiny import noise

GOLDEN = Path(__file__).parent / "parity" / "golden" / "videochat_flash"
QUESTION = "What is the color of the bike?"
OTHER = "Where does it go, and who is there beside it?"
LAYERS = 8

SCHEDULES = {
    "uniform": Schedule(kind="uniform", layers=(1, 3, 6), ratios=(1, 0.7, 0.3, 0.1)),
    "attention": Schedule(kind="attention", layers=(2, 5), ratios=(1, 0.5, 0.25)),
    "one": Schedule(kind="attention", layers=(7,), ratios=(1, 0.33)),
    "uniform0": Schedule(kind="uniform0_attention", layers=(2, 5), ratios=(1, 0.75, 0.25)),
    "uniform1": Schedule(kind="uniform1_attention", layers=(1, 2, 4), ratios=(1, 0.9, 0.5, 0.2)),
    "all": Schedule(kind="attention", layers=(1, 2, 3, 4, 5, 6, 7), ratios=(1,) + (0.8,) * 7),
}


@cache
def tiny() -> VideoChatFlash:
    """The golden checkpoint, loaded once; nothing may change it."""
    return opened(GOLDEN / "ckpt-umt224")


def dropping(name: str) -> VideoChatFlash:
    """The same, dropping."""
    return replace(tiny(), drop=SCHEDULES[name])


def visual(clips: int, seed: int = 0) -> VisualTokens:
    """What a language model might get of a video; no tower runs."""
    generator = torch.Generator().manual_seed(seed)
    return VisualTokens(
        features_ND=torch.randn(64 * clips, 128, generator=generator),
        counts=(64,) * clips,
        seconds=tuple(4.0 * clip for clip in range(clips)),
        span=4,
    )


def prompt_of(visuals: int, question: str = QUESTION) -> str:
    """A prompt with words between its visuals."""
    return tiny().template.prompt(" and then ".join(["<image>"] * visuals) + f"\n{question}")


def notes_of(pieces: Sequence[Piece]) -> Notes:
    """Where frames lie."""
    notes = Notes()
    list(notes.of(iter(pieces), 0))
    return notes


@torch.no_grad()
def at_once(
    system: VideoChatFlash, pieces: Sequence[Piece], ids: Sequence[int]
) -> tuple[Tensor, DropBetween | None]:
    """Logits before each of the ids, read in one piece with the decoder's `between=`."""
    decoder, cache = cast(Decoder, system.model.decoder), GrowingCache()
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    between = None
    if system.drop is not None:
        row = Row(len(x_SD), blocks_of(notes_of(pieces).entries, 0))
        between = DropBetween(decoder=decoder, schedule=system.drop, rows=[row])
    logits, x_BSD = [], x_SD[None]
    for token in ids:
        past = cache.get_seq_length()
        step = Step(positions_BS=torch.arange(past, past + x_BSD.shape[1])[None], cache=cache)
        logits.append(system.model.logits(decoder(x_BSD, step, between)[0, -1]))
        x_BSD = system.model.embed(torch.tensor([[token]]))
    return torch.stack(logits), between


@torch.no_grad()
def in_stages(
    system: VideoChatFlash, pieces: Sequence[Piece], ids: Sequence[int]
) -> tuple[Tensor, StagedCache]:
    """The same as users get it: a memory of all up to the last visual, then a question."""
    split = 1 + max(n for n, piece in enumerate(pieces) if isinstance(piece, VisualTokens))
    cache = cast(StagedCache, system.new_cache())
    reading = system.remember(iter(pieces[:split]), cache, Known(1000))
    asked = [n for piece in pieces[split:] for n in cast(tuple[int, ...], piece)]
    assert (reading.features_D is None) == system.drop.depends  # type: ignore[union-attr]
    features_D = system.read(cache, asked)
    logits = [system.model.logits(features_D)]
    for token in ids[:-1]:
        one = system.model.embed(torch.tensor([token]))
        logits.append(system.model.logits(engine.prefill(system.model, iter([one]), cache)))
    return torch.stack(logits), cache


def memory_of(system: VideoChatFlash, *visuals: VisualTokens, lead: str = "\n") -> Memory:
    """A memory of the head and visuals, as watching makes it."""
    pieces: list[Piece] = [system.tokens(system.template.head())]
    for number, one in enumerate(visuals):
        pieces += [system.tokens(" and then ")] if number else []
        pieces.append(replace(one, visual=number))
    cache = system.new_cache()
    reading = system.remember(iter(pieces), cache, Known(1000))
    durations = tuple(4.0 * len(one.counts) for one in visuals)
    return replace(system._memory(reading, cache, durations, Stats()), lead=lead)


# -- equal to reading at once -------------------------------------------------------------------


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize("name", SCHEDULES)
def test_stages_equal_one_piece(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = dropping(name)
    pieces = system.pieces(prompt_of(1), [visual(3)])
    ids = system.tokens(OTHER)[:5]
    whole, between = at_once(system, pieces, ids)
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", block)
    parts, cache = in_stages(system, pieces, ids)
    # fp32 sums in another order; logits deviate by about 4
    torch.testing.assert_close(parts, whole, rtol=0, atol=5e-5)
    assert between is not None
    stayed = torch.arange(sum(map(len, [*pieces[:1], *pieces[2:]])) + 192)
    for stage, kept in enumerate(between.kept, 1):
        stayed = stayed[kept[0]]
        ours = cache._all(stage, len(pieces[0]) + 192 + len(pieces[2]))
        assert ours.tolist() == stayed.tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_several_visuals_lose_a_share_each(name: str) -> None:
    system = dropping(name)
    visuals = [visual(2), visual(1, seed=1), visual(3, seed=2)]
    pieces = system.pieces(prompt_of(3), visuals)
    ids = system.tokens(OTHER)[:3]
    whole, between = at_once(system, pieces, ids)
    parts, _ = in_stages(system, pieces, ids)
    torch.testing.assert_close(parts, whole, rtol=0, atol=5e-5)
    assert between is not None
    left = [block.left for block in between.rows[0].blocks]
    assert left == [SCHEDULES[name].counts(64 * clips)[-1] for clips in (2, 1, 3)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_prompt_may_begin_or_end_with_a_visual(name: str) -> None:
    system = dropping(name)
    for prompt in ("<image>", "<image>what?", "what is<image>"):
        pieces = system.pieces(prompt, [visual(2)])
        ids = (5, 6)
        whole, _ = at_once(system, pieces, ids)
        options = system.options(max_new_tokens=1)
        answer = system.complete(prompt, [visual(2)], options)
        assert answer.ids == (int(whole[0].argmax()),)


def test_text_alone_is_answered() -> None:
    """The original crashes."""
    options = tiny().options(max_new_tokens=6)
    plain = tiny().ask(None, QUESTION, options)
    for name in SCHEDULES:
        assert dropping(name).ask(None, QUESTION, options).ids == plain.ids


# -- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", ["uniform", "attention", "uniform1"])
@torch.no_grad()
def test_a_batch_equals_its_rows(name: str, left: bool) -> None:
    """Rows of other lengths, with other numbers of visuals or none."""
    system = dropping(name)
    decoder = cast(Decoder, system.model.decoder)
    prompts = [(prompt_of(1), [visual(3)]), (prompt_of(0), []), (prompt_of(2), [visual(1)] * 2)]
    rows, embedded, alone = [], [], []
    for prompt, visuals in prompts:
        pieces = system.pieces(prompt, visuals)
        x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
        embedded.append(x_SD)
        rows.append(Row(len(x_SD), blocks_of(notes_of(pieces).entries, 0)))
        alone.append(at_once(system, pieces, (7,))[0][0])
    longest = max(map(len, embedded))
    x_BSD = torch.zeros(len(rows), longest, 128)
    seen = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, x_SD in enumerate(embedded):
        where = slice(longest - len(x_SD), None) if left else slice(0, len(x_SD))
        x_BSD[row, where], seen[row, where] = x_SD, True
    between = DropBetween(decoder=decoder, schedule=SCHEDULES[name], rows=rows, left=left)
    logits = system.model(
        inputs_embeds=x_BSD,
        attention_mask=seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        between=between,
    ).logits
    for row, ours in enumerate(logits):
        last = -1 if left else between.rows[row].length - 1
        torch.testing.assert_close(ours[last], alone[row], rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["uniform", "attention", "uniform0"])
def test_a_batch_is_written_as_its_rows_are(name: str) -> None:
    """transformers' loop, padded on the left; the original cannot write more than one row."""
    system = dropping(name)
    prompts = [(prompt_of(1), [visual(3)]), (prompt_of(1, OTHER), [visual(2, seed=3)])]
    rows, embedded, ids = [], [], []
    options = system.options(max_new_tokens=8, repetition_penalty=1.0)
    for prompt, visuals in prompts:
        pieces = system.pieces(prompt, visuals)
        embedded.append(
            torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
        )
        rows.append(Row(len(embedded[-1]), blocks_of(notes_of(pieces).entries, 0)))
        ids.append(list(system.complete(prompt, visuals, options).ids))
    longest = max(map(len, embedded))
    x_BSD, seen = torch.zeros(2, longest, 128), torch.zeros(2, longest, dtype=torch.int64)
    for row, x_SD in enumerate(embedded):
        x_BSD[row, longest - len(x_SD) :], seen[row, longest - len(x_SD) :] = x_SD, 1
    between = DropBetween(
        decoder=cast(Decoder, system.model.decoder),
        schedule=SCHEDULES[name],
        rows=rows,
        left=True,
    )
    written = system.model.generate(
        inputs_embeds=x_BSD,
        attention_mask=seen,
        between=between,
        past_key_values=GrowingCache(),
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=list(system.end_ids),
        pad_token_id=0,
    )
    for ours, wanted in zip(written.tolist(), ids, strict=True):
        assert ours[: len(wanted)] == wanted


def test_another_batch_is_refused() -> None:
    decoder = cast(Decoder, tiny().model.decoder)
    between = DropBetween(decoder=decoder, schedule=SCHEDULES["uniform"], rows=[Row(5)])
    with pytest.raises(PromptError, match="2 rows to drop from, 1 were described"):
        tiny().model(inputs_embeds=torch.zeros(2, 5, 128), between=between)


# -- memories -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_memory_serves_every_question(name: str) -> None:
    """In any order, each as if it were asked of a memory of its own; the memory rests unchanged."""
    system = dropping(name)
    memory, options = memory_of(system, visual(3)), system.options(max_new_tokens=8)
    cache = cast(StagedCache, memory.cache)
    assert memory.depth == ("tokens" if SCHEDULES[name].depends else "kv")
    before, held = [layer.keys.clone() for layer in cache.layers], memory.bytes
    fresh = {
        question: system.complete(prompt_of(1, question), [visual(3)], options).ids
        for question in (QUESTION, OTHER)
    }
    assert fresh[QUESTION] != fresh[OTHER]
    for question in (QUESTION, OTHER, OTHER, QUESTION):
        assert system.ask(memory, question, options).ids == fresh[question]
        assert memory.bytes == held
    for layer, keys in zip(cache.layers, before, strict=True):
        torch.testing.assert_close(layer.keys, keys, rtol=0, atol=0)
    history = [(QUESTION, "Red.")]
    assert system.ask(memory, OTHER, options, history).ids != fresh[OTHER]
    assert system.ask(memory, OTHER, options).ids == fresh[OTHER]


def test_an_interrupted_answer_leaves_the_memory_as_it_was() -> None:
    system = dropping("uniform0")
    memory = memory_of(system, visual(3))
    first = system.ask(memory, QUESTION, system.options(max_new_tokens=6))

    def stop(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.ask(memory, OTHER, system.options(on_text=stop))
    assert system.ask(memory, QUESTION, system.options(max_new_tokens=6)).ids == first.ids


@pytest.mark.parametrize("name", ["uniform", "attention", "uniform0"])
def test_layers_hold_what_was_planned(name: str) -> None:
    system = dropping(name)
    memory = memory_of(system, visual(5))
    cache = cast(StagedCache, memory.cache)
    head = len(system.tokens(system.template.head()))
    held = [layer.get_seq_length() - head for layer in cache.layers]
    assert held == system.holding.held([320])
    each = 4 * 2 * 2 * 32  # fp32, keys and values, 2 heads of 32
    text = head * each * LAYERS
    if cache.held is not None:
        text += sum(keys.nbytes for keys in cache.held.keys.values())
    assert memory.bytes == system.memory_bytes(320) + text


@pytest.mark.parametrize("name", ["uniform", "uniform0", "attention"])
def test_only_what_depends_on_the_question_is_run_again(name: str) -> None:
    """Products counted, against a sum over the rows that layers must see."""
    system = dropping(name)
    schedule, sizes = SCHEDULES[name], system.config.decoder
    memory, options = memory_of(system, visual(6)), system.options(max_new_tokens=1, evidence=False)
    system.ask(memory, OTHER, options)
    with FlopCounterMode(display=False) as counter:
        system.ask(memory, QUESTION, options)
    width = sizes.heads * sizes.head_dim
    kv = sizes.kv_heads * sizes.head_dim
    row = 2 * (2 * sizes.hidden * width + 2 * sizes.hidden * kv + 3 * sizes.hidden * sizes.mlp)
    asked = len(system.tokens(memory.lead + system.template.tail(QUESTION)))
    counts, head = schedule.counts(384), len(system.tokens(system.template.head()))
    seen = [
        asked + (counts[stage] if stage > schedule.shared else 0)
        for stage, part in enumerate(schedule.stages(LAYERS))
        for _ in part
    ]
    total = sum(seen) * row + 2 * sizes.hidden * system.model.usable_vocab
    # of all but the last token, the last layer makes keys and values alone
    total -= (seen[-1] - 1) * (row - 2 * 2 * sizes.hidden * kv)
    for drop in range(schedule.shared, len(schedule.layers)):
        waiting = counts[drop] + asked
        total += 2 * sizes.hidden * (waiting * kv + width)  # keys of all, queries of one
        total += 2 * (head + waiting) * width  # their scores
    # attention itself runs in torch's fused kernel, which counts nothing on a CPU
    assert counter.get_total_flops() == total
    with FlopCounterMode(display=False) as whole:
        system.complete(prompt_of(1), [visual(6)], options)
    assert total < (0.2 if name == "uniform" else 0.75) * whole.get_total_flops()


def test_generate_continues_an_even_memory_and_refuses_another() -> None:
    for name in ("uniform", "attention"):
        system = dropping(name)
        memory = memory_of(system, visual(3))
        tail = system.tokens("\n" + system.template.tail(QUESTION))
        options: dict[str, Any] = {
            "input_ids": torch.tensor([tail]),
            "attention_mask": torch.ones(1, memory.length + len(tail)),
            "past_key_values": memory.cache,
            "max_new_tokens": 8,
            "do_sample": False,
            "repetition_penalty": 1.0,
            "eos_token_id": list(system.end_ids),
            "pad_token_id": 0,
        }
        if name == "attention":
            with pytest.raises(PromptError, match=r"depends on the question; ask it with"):
                system.model.generate(**options)
            continue
        ours = system.ask(
            memory, QUESTION, system.options(max_new_tokens=8, repetition_penalty=1.0)
        )
        theirs = system.model.generate(**options)
        assert theirs[0, len(tail) :].tolist() == list(ours.ids)


def test_other_drops_are_other_memories() -> None:
    memory = memory_of(dropping("uniform"), visual(2))
    for other in (tiny(), dropping("attention"), tiny().variant(drop="2,5:1,0.75,0.25")):
        with pytest.raises(PromptError, match="another checkpoint or other options"):
            other.ask(memory, QUESTION)
    with pytest.raises(OptionError, match="leaves none of the model's 8 layers"):
        tiny().variant(drop="card")
    assert tiny().variant(drop="2,5:1,0.75,0.25").variant(drop="off").drop is None


def test_a_memory_never_goes_back_into_itself() -> None:
    memory = memory_of(dropping("uniform"), visual(2))
    with pytest.raises(PromptError, match="cannot go back to 10"):
        memory.cache.rewind(10)


@pytest.mark.parametrize("kind", ["full", "int8", "fp8", "int4"])
@pytest.mark.parametrize("name", ["uniform", "uniform0", "attention"])
def test_a_file_gives_the_memory_back(name: str, kind: str, tmp_path: Path) -> None:
    system = dropping(name).variant(kv=kind)
    memory, options = memory_of(system, visual(3)), system.options(max_new_tokens=8)
    answers = [system.ask(memory, question, options) for question in (QUESTION, OTHER)]
    path = save_memory(memory, tmp_path / "film.longtake")
    loaded = load_memory(path, "cpu")
    assert (loaded.bytes, loaded.depth, loaded.lead) == (memory.bytes, memory.depth, memory.lead)
    again = [system.ask(loaded, question, options) for question in (OTHER, QUESTION)][::-1]
    assert [answer.ids for answer in again] == [answer.ids for answer in answers]
    assert [answer.evidence for answer in again] == [answer.evidence for answer in answers]
    with path.open("rb") as file:
        whole = file.read()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreError):
            load_memory(path, "cpu")


def test_packed_memories_answer_nearly_alike() -> None:
    for name in ("uniform", "attention"):
        plain, packed = dropping(name), dropping(name).variant(kv="int8")
        memories = [memory_of(system, visual(3)) for system in (plain, packed)]
        assert memories[1].bytes < memories[0].bytes
        options = plain.options(max_new_tokens=4)
        ids = [
            system.ask(memory, QUESTION, options).ids
            for system, memory in zip((plain, packed), memories, strict=True)
        ]
        assert ids[0][:1] == ids[1][:1]


# -- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "attention", "uniform0"])
def test_evidence_maps_back_through_what_was_dropped(name: str) -> None:
    """The mass of each clip is what its tokens get that are left in each layer, counted plainly."""
    system = dropping(name)
    memory = memory_of(system, visual(4))
    options = system.options(max_new_tokens=1)
    cache = cast(StagedCache, memory.cache)
    seen: list[tuple[Tensor, list[int]]] = []
    observer_of = engine.Observer.__call__

    def noted(self: engine.Observer, layer: int, weights_BHN: Tensor) -> None:
        rows = cache._all(cache.stage_of(layer), cache.get_seq_length()).tolist()
        seen.append((weights_BHN.sum((0, 1)), rows))
        observer_of(self, layer, weights_BHN)
        sums.append(self.mass_T.clone())

    sums: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Observer, "__call__", noted)
        answer = system.ask(memory, QUESTION, options)
    assert len(seen) == LAYERS
    plain = torch.zeros(4)
    for weights_N, rows in seen:
        assert len(weights_N) == len(rows)
        for weight, row in zip(weights_N.tolist(), rows, strict=True):
            for clip, entry in enumerate(memory.entries):
                plain[clip] += weight if entry.start <= row < entry.stop else 0.0
    torch.testing.assert_close(sums[-1], plain, rtol=1e-4, atol=1e-4)
    assert answer.evidence
    assert {span.start for span in answer.evidence} <= {0.0, 4.0, 8.0, 12.0}


# -- watching -----------------------------------------------------------------------------------


def test_watching_reports_progress_and_refuses_what_cannot_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = dropping("uniform0")
    told: list[tuple[str, int, int]] = []
    memory = system.watch(
        noise(24), max_frames=24, progress=lambda *told_now: told.append(told_now)
    )
    steps = [done for stage, done, _ in told if stage == "prefill"]
    assert steps == sorted(steps)
    assert steps
    assert all(done <= total for _, done, total in told)
    assert memory.stats.frames == 24
    assert memory.stats.visual_tokens == 6 * 64
    assert memory.stats.patches == 24 * 196
    monkeypatch.setattr("longtake.engine.free_bytes", lambda device: 100_000)
    with pytest.raises(CapacityError, match=r"tokens need .* of the frames would fit"):
        system.watch(noise(24), max_frames=24)


def test_a_question_gives_back_what_it_took() -> None:
    """Room beyond the first tokens and the slack, in the layers that each question fills anew."""
    system = dropping("attention")
    memory = memory_of(system, visual(80))
    cache = cast(StagedCache, memory.cache)
    assert cache.held is not None
    system.ask(memory, QUESTION, system.options(max_new_tokens=2))
    for layer in cache.layers[SCHEDULES["attention"].layers[0] :]:
        assert layer.key_buffer is not None
        assert layer.key_buffer.shape[2] == cache.held.start + SLACK


def test_two_stages_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one stage's rows are made of another's, these are given up chunk by chunk."""
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", 64)
    system = dropping("uniform")
    made: list[weakref.ref[Tensor]] = []
    most = 0
    stage = Staged.stage

    def counted(self: Staged, number: int, rows: Iterator[Tensor], start: int) -> Iterator[Tensor]:
        nonlocal most
        for chunk_SD in stage(self, number, rows, start):
            made.append(weakref.ref(chunk_SD))
            most = max(most, sum(len(one) for ref in made if (one := ref()) is not None))
            yield chunk_SD

    enter = Staged.enter

    def entered(self: Staged, stream: Iterator[Tensor], upto: int) -> Iterator[Tensor]:
        for chunk_SD in enter(self, stream, upto):
            made.append(weakref.ref(chunk_SD))
            yield chunk_SD

    monkeypatch.setattr(Staged, "stage", counted)
    monkeypatch.setattr(Staged, "enter", entered)
    memory_of(system, visual(16))
    # 1,024 rows; of the second stage 716 are made. Held whole they would be 1,740 together
    assert 716 <= most <= 1024 + 3 * 64


def test_a_memory_from_a_file_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its waiting rows come back in the chunks they were kept in, and larger ones are cut."""
    system = dropping("attention")
    memory = memory_of(system, visual(40))
    kept = cast(StagedCache, memory.cache).held
    loaded = load_memory(save_memory(memory, tmp_path / "film"), "cpu")
    held = cast(StagedCache, loaded.cache).held
    assert kept is not None and held is not None
    assert [len(rows) for rows in held.rows] == [len(rows) for rows in kept.rows]
    assert max(len(rows) for rows in held.rows) <= 1024
    sizes: list[int] = []
    keys = longtake.staged.ranking_keys

    def noted(decoder: Decoder, layer: int, x_SD: Tensor, start: int) -> Tensor:
        sizes.append(len(x_SD))
        return keys(decoder, layer, x_SD, start)

    monkeypatch.setattr("longtake.staged.ranking_keys", noted)
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", 100)
    options = system.options(max_new_tokens=4)
    cut = system.ask(loaded, QUESTION, options)
    assert max(sizes) == 100
    monkeypatch.undo()
    assert cut.ids == system.ask(memory, QUESTION, options).ids


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda held: held | {"drop": 99}, "drop 99 of"),
        (lambda held: held | {"drop": -1}, "drop -1 of"),
        (lambda held: held | {"blocks": [held["blocks"][0] | {"left": 10**6}]}, "more rows than"),
        (lambda held: held | {"blocks": 2 * held["blocks"]}, "overlap"),
        (
            lambda held: held | {"blocks": [{"start": 0, "left": 10**6, "tokens": 10**6}]},
            "reach to row",
        ),
    ],
)
def test_a_file_whose_waiting_rows_cannot_be(
    tmp_path: Path, wrong: Callable[[dict[str, Any]], dict[str, Any]], match: str
) -> None:
    path = save_memory(memory_of(dropping("attention"), visual(40)), tmp_path / "film")
    header = Sealed(path).header
    header["staged"]["held"] = wrong(header["staged"]["held"])
    rewrite(tmp_path / "bent", header, load_file(path))
    with pytest.raises(StoreError, match=match):
        load_memory(tmp_path / "bent", "cpu")


@pytest.mark.parametrize("stop_at", range(1, 12, 2))
def test_a_question_may_be_interrupted_while_it_is_read(
    stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = dropping("uniform0")
    memory = memory_of(system, visual(3))
    options = system.options(max_new_tokens=6)
    first, calls, through = system.ask(memory, QUESTION, options), 0, Decoder.through

    def stopping(self: Decoder, *given: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return through(self, *given)

    monkeypatch.setattr(Decoder, "through", stopping)
    with contextlib.suppress(KeyboardInterrupt):
        system.ask(memory, OTHER, system.options(max_new_tokens=20))
    assert calls >= stop_at
    monkeypatch.undo()
    assert system.ask(memory, QUESTION, options).ids == first.ids


def test_a_padding_mask_is_refused_where_layers_hold_other_tokens() -> None:
    system = dropping("uniform")
    memory = memory_of(system, visual(3))
    mask = torch.ones(1, memory.length + 3, dtype=torch.int64)
    mask[0, 0] = 0
    with pytest.raises(PromptError, match="takes no padding mask"):
        system.model(
            input_ids=torch.tensor([[5, 6, 7]]), attention_mask=mask, past_key_values=memory.cache
        )


def test_room_for_several_videos_is_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loses its share, and what is held already is not asked for again."""
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", 64)  # or the first videos wait to be read
    system = replace(tiny(), drop=Schedule(kind="uniform", layers=(1,), ratios=(1, 0.05)))
    asked: list[int] = []
    monkeypatch.setattr(
        "longtake.dropped.require_bytes",
        lambda device, need, what: asked.append(need),
    )
    memory = system.watch(noise(64), noise(64, seed=1), noise(64, seed=2), max_frames=64)
    assert len(asked) == 3
    waiting = 3 * 1024 * 128 * 4
    for need in asked:
        assert need <= memory.bytes + waiting
    # the last video alone, and what of the first two has not been dropped yet
    assert asked[2] < 1.5 * asked[0]


def test_drops_that_are_equal_make_one_memory() -> None:
    whole = Schedule(kind="uniform", layers=(1, 3), ratios=(1, 0.5, 0.25))
    said = tiny().variant(drop="uniform:1,3:1,0.5,0.25")
    assert said.drop == whole
    assert said.fingerprint == replace(tiny(), drop=whole).fingerprint
    with pytest.raises(OptionError, match="drop ratios must be numbers"):
        Schedule(layers=(1,), ratios=(1, "half"))  # type: ignore[arg-type]


def test_the_window_is_of_what_the_first_layers_read() -> None:
    """As the warning after watching says, whatever is dropped later."""
    system = tiny().variant(drop="attention:1:1,0.01")
    report = inspect_model(
        str(GOLDEN / "ckpt-umt224"),
        device="cpu",
        options={"drop": "attention:1:1,0.01"},
        frame_counts=(512, 2040, 10_000),
    )
    for cost in report.costs:
        assert cost.fits == (not system.beyond_training(cost.tokens))
    assert [cost.fits for cost in report.costs] == [True, True, False]


def test_stages_are_what_a_question_holds() -> None:
    """Layers above the first choice by a question are filled anew, in full precision."""
    options = {"drop": "attention:4:1,0.5", "kv": "int4"}
    report = inspect_model(str(GOLDEN / "ckpt-umt224"), device="cpu", options=options)
    bytes_of = {stage.name: stage.kv_bytes for stage in report.comparison.stages}
    cost = next(cost for cost in report.costs if cost.frames == 512)
    assert bytes_of["layers 4-7"] == 4 * 4096 * 4 * 2 * 2 * 32
    assert bytes_of["waiting rows"] == 8192 * 128 * 4
    # what rests between questions; a stage counts a memory's last tokens as packed, too
    resting = bytes_of["layers 0-3"] + bytes_of["waiting rows"]
    packed = 8192 * quantised_bytes_per_token(1, 2, 32, "int4")
    loose = quantised_bytes(8192, 2, 32, "int4", torch.float32) - packed
    assert loose > 0
    assert resting + 4 * loose == pytest.approx(cost.cache_bytes, rel=1e-6)


def test_frames_that_do_not_come_are_told() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Stopping(Held):
        def read(self, indices: Sequence[int], *, chunk: int = 16) -> Iterator[Frames]:
            yield from super().read(list(indices)[:32], chunk=chunk)

    memory = tiny().watch(Stopping(held=noise(64)), max_frames=64)
    assert "32 of 64 frames came" in memory.stats.warnings[0]
    assert "32 frames are uniformly sampled" in memory.lead
    assert memory.stats.frames == 32
