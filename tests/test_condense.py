"""Video-XL's flow: windows as they arrive, many questions, two levels, intervals, files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import longtake.condense
from longtake.api import load
from longtake.bilevel import AsideCache, Fine, TwoLevelCache, choose_windows, score_windows
from longtake.condense import Condense, Seen, condense, interval_plan
from longtake.engine import prefill
from longtake.errors import CapacityError, CheckpointError, OptionError, PromptError, StoreError
from longtake.inspect import inspect_model
from longtake.mixing import Turn, mix, stretches
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.intervals import Intervals
from longtake.parts.windows import Ratios
from longtake.store import load_memory, save_memory
from longtake.systems.video_xl import VideoXL
from longtake.types import Frames, Memory, VisualTokens
from tests.remembering import remembering
from tests.resealed import reseal
from tests.tiny import noise

CHECKPOINT = Path(__file__).parent / "parity" / "golden" / "video_xl" / "checkpoint"
QUESTION = "Who opens the door first?"


@cache
def tiny() -> VideoXL:
    """The golden checkpoint; nothing may change it."""
    system = load(CHECKPOINT, device="cpu")
    assert isinstance(system, VideoXL)
    return remembering(system)


@cache
def scenes(frames: int = 43) -> Frames:
    """The golden video with cuts (33 frames), then noise."""
    case = load_file(CHECKPOINT.parent / "case-dynamic-r8-f33.safetensors")
    more = noise(max(0, frames - 33), seed=4, height=60, width=80)
    pixels = torch.cat([case["frames"].movedim(-1, -3), more.pixels_TCHW])[:frames]
    whole = noise(frames, height=60, width=80)
    return replace(whole, pixels_TCHW=pixels)


def watch(system: VideoXL, frames: int = 43) -> Memory:
    return system.watch(scenes(frames), max_frames=frames)


def logits(system: VideoXL, memory: Memory) -> torch.Tensor:
    """Of the first token of an answer."""
    cache = memory.cache
    assert isinstance(cache, GrowingCache)
    ids = torch.tensor(system.tokens(f"\n{QUESTION}"))
    try:
        return system.model.logits(prefill(system.model, iter([system.model.embed(ids)]), cache))
    finally:
        cache.rewind(memory.length)


def tokens_of(system: VideoXL, frames: Frames) -> VisualTokens:
    """All visual tokens at once."""
    return VisualTokens.join(list(system.compress(system.see(system.fit(iter([frames]))))))


# -- one flow -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"ratio": 8}, {"ratio": "2,4,8"}, {"ratio": 4, "dynamic": True}]
)
def test_streaming_equals_one_shot(options: dict[str, Any]) -> None:
    """Chunks of sixteen frames from a decoder thread, and everything at once: the same answer."""
    system = tiny().variant(**options)
    memory = watch(system)
    written = system.options(max_new_tokens=10)
    prompt = system.template.prompt(f"<image>\n{QUESTION}")
    whole = system.complete(prompt, [tokens_of(system, scenes())], written)
    assert system.ask(memory, QUESTION, written).ids == whole.ids


def remembered_from(system: VideoXL, pieces: Sequence[VisualTokens]) -> GrowingCache:
    """What is kept of the prompt's head and visual tokens that come in these pieces."""
    cache = system.new_cache()
    head = system.tokens(system.template.head())
    system.remember(iter([head, *pieces]), cache, longtake.system.Known(0))
    return cache


@cache
def remembered_at_once() -> GrowingCache:
    """Of all tokens in one piece; nothing may change it."""
    system = tiny().variant(ratio="2,4,8")
    return remembered_from(system, [tokens_of(system, scenes())])


@pytest.mark.parametrize("chunk", [1, 3, 10, 43])
def test_any_chunking_keeps_the_same(chunk: int) -> None:
    system = tiny().variant(ratio="2,4,8")
    tokens = tokens_of(system, scenes())
    parts = [
        replace(
            tokens,
            features_ND=tokens.features_ND[144 * n : 144 * (n + chunk)],
            counts=tokens.counts[n : n + chunk],
            seconds=tokens.seconds[n : n + chunk],
        )
        for n in range(0, 43, chunk)
    ]
    whole = remembered_at_once()
    for ours, theirs in zip(remembered_from(system, parts).layers, whole.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_a_window_is_read_before_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits between decoder and language model is a few chunks, whatever the length."""
    system = tiny().variant(ratio=16)
    given = read = most = 0

    def counted(stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        nonlocal given
        for tokens in tiny().compress(stream):
            given += len(tokens.features_ND)
            yield tokens

    def heard(stage: str, done: int, total: int) -> None:
        nonlocal read, most
        if stage == "prefill":
            read = done
            most = max(most, given - read)

    again = noise(160, height=60, width=80)  # the same sixteen frames ten times over
    again = replace(again, pixels_TCHW=scenes(16).pixels_TCHW.repeat(10, 1, 1, 1))
    replace(system, compress=counted).watch(again, max_frames=160, progress=heard)
    assert given == 160 * 144
    assert most < 1440 + 16 * 144


def test_second_question_equals_the_first_on_a_new_memory() -> None:
    system = tiny().variant(ratio=8)
    options = system.options(max_new_tokens=8)
    memory = watch(system)
    before = memory.bytes
    first = system.ask(memory, "What happens?", options)
    second = system.ask(memory, QUESTION, options)
    assert memory.bytes == before
    assert second.ids == system.ask(watch(system), QUESTION, options).ids
    assert system.ask(memory, "What happens?", options).ids == first.ids != second.ids


def test_random_ratios_do_not_depend_on_what_was_watched_before() -> None:
    ratios = [[w.ratio for w in watch(tiny()).windows] for _ in range(2)]
    assert ratios[0] == ratios[1] == [2, 8, 4, 4, 4]
    other = tiny().variant(ratio="2,4,8", seed=1)
    assert [w.ratio for w in watch(other).windows] != ratios[0]
    listed = tiny().variant(ratio="8,2", mix="listed")
    assert [w.ratio for w in watch(listed).windows] == [8, 2, 2, 2, 2]


def test_windows_and_entries_say_where_everything_lies() -> None:
    memory = watch(tiny())
    head = len(tiny().tokens(tiny().template.head()))
    assert memory.windows[0].start == head
    assert memory.windows[-1].stop == memory.length
    assert sum(window.tokens for window in memory.windows) == 43 * 144
    for window, after in itertools.pairwise(memory.windows):
        assert window.stop == after.start
        assert window.stop - window.start == window.tokens // window.ratio
    assert [e.stop - e.start for e in memory.entries] == ([72] * 10 + [18] * 10 + [36] * 23)
    for entry, after_it in itertools.pairwise(memory.entries):
        assert entry.stop == after_it.start


def test_several_visuals_are_condensed_each_for_itself() -> None:
    """The original crashes on two; here text between them is kept whole."""
    system = tiny().variant(ratio=8)
    image = noise(1, seed=5, height=60, width=80).pixels_TCHW[0]
    memory = system.watch(scenes(12), image, max_frames=12)
    assert [(w.tokens, w.visual) for w in memory.windows] == [(1440, 0), (288, 0), (288, 1)]
    assert memory.windows[2].start - memory.windows[1].stop == len(system.tokens(" "))
    options = system.options(max_new_tokens=6)
    prompt = system.template.prompt(f"<image> <image>\n{QUESTION}")
    visuals = [tokens_of(system, scenes(12)), system.see_image(image)]
    whole = system.complete(prompt, visuals, options)
    assert system.ask(memory, QUESTION, options).ids == whole.ids


def test_text_alone_is_answered() -> None:
    """The original crashes here."""
    answer = tiny().ask(None, "What is two and two?", tiny().options(max_new_tokens=4))
    assert len(answer.ids) == 4


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
def test_bytes_per_frame_are_what_the_formula_says(ratio: int) -> None:
    system = tiny().variant(ratio=ratio)
    each = kv_bytes_per_token(4, 2, 16, torch.float32)
    long, short = (watch(system, frames).bytes for frames in (40, 20))
    assert (long - short) / 20 == 144 / ratio * each
    (planned,) = inspect_model(
        str(CHECKPOINT), device="cpu", options={"ratio": ratio}, frame_counts=(40,)
    ).costs
    head = len(system.tokens(system.template.head()))
    assert planned.cache_bytes == long - head * each
    assert planned.kept == 40 * 144 // ratio
    assert planned.tokens == 40 * 144


def test_the_published_size_takes_what_the_paper_says() -> None:
    """Qwen2-7B in bf16: one hour at 1 fps is 27.7 GiB raw, 3.46 at ratio 8, 1.73 at 16."""
    each = kv_bytes_per_token(28, 4, 128, torch.bfloat16)
    assert each == 57344
    gib = [3600 * 144 // ratio * each / 2**30 for ratio in (1, 8, 16)]
    assert [round(size, 2) for size in gib] == [27.69, 3.46, 1.73]


def test_no_room_is_kept_for_windows_that_are_over() -> None:
    memory = watch(tiny().variant(ratio=16))
    assert isinstance(memory.cache, GrowingCache)
    for layer in memory.cache.layers:
        assert layer.key_buffer is not None
        assert layer.key_buffer.shape[2] <= memory.length + 1024


def test_what_cannot_fit_is_refused_by_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    each = kv_bytes_per_token(4, 2, 16, torch.float32)
    monkeypatch.setattr("longtake.engine.free_bytes", lambda device: 43 * 18 * each + 100)
    assert watch(tiny().variant(ratio=8)).length == 43 * 18 + 15
    with pytest.raises(CapacityError, match="of the frames would fit"):
        watch(tiny().variant(ratio=4))


# -- two levels -----------------------------------------------------------------------------------


def two_level(**options: Any) -> tuple[VideoXL, Memory, TwoLevelCache]:
    chosen = {"ratio": 16, "fine": 2, "budget": "1GiB"} | options
    system = tiny().variant(**chosen)
    memory = watch(system)
    assert isinstance(memory.cache, TwoLevelCache)
    return system, memory, memory.cache


@cache
def two_levels() -> tuple[VideoXL, Memory, TwoLevelCache]:
    """Both levels in memory, watched once; nothing may change them."""
    return two_level()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_budget_for_everything_is_exactly_the_finer_memory(where: str) -> None:
    system, memory, two = two_level(fine_on=where)
    finer = tiny().variant(ratio=2)
    expected = watch(finer)
    mixed = mix(system.model, two, memory.entries, range(len(two.windows)), 0)
    assert isinstance(expected.cache, GrowingCache)
    for ours, theirs in zip(mixed.cache.layers, expected.cache.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
    assert [vars_of(entry) for entry in mixed.entries] == [vars_of(e) for e in expected.entries]
    assert mixed.windows == expected.windows
    options = system.options(max_new_tokens=10)
    ours_answer, theirs_answer = (
        system.ask(memory, QUESTION, options),
        finer.ask(expected, QUESTION, options),
    )
    assert ours_answer.ids == theirs_answer.ids
    assert ours_answer.evidence == theirs_answer.evidence


def vars_of(entry: Any) -> tuple[Any, ...]:
    return (entry.start, entry.stop, entry.seconds, entry.visual)


def test_no_budget_for_anything_is_exactly_the_coarse_memory() -> None:
    system, memory, two = two_levels()
    tight = replace(system, fine=replace(system.fine, budget=two.coarse_bytes))
    coarse = tiny().variant(ratio=16)
    options = system.options(max_new_tokens=10)
    answer = tight.ask(memory, QUESTION, options)
    assert answer.ids == coarse.ask(watch(coarse), QUESTION, options).ids


def test_a_mixture_equals_rows_rotated_where_they_stand() -> None:
    """Against the slow way: keys before rotation, put side by side, rotated from the start."""
    from longtake.parts.qwen2 import Step
    from longtake.parts.rope import rotate, unrotate

    system, memory, two = two_levels()
    mixed = mix(system.model, two, memory.entries, (1, 4), 0)
    decoder = system.model.decoder

    def table(rows: range) -> Any:
        return decoder.table(Step(positions_BS=torch.tensor([list(rows)])), torch.float32)

    for layer in range(4):
        plain = {
            level: unrotate(held.layers[layer].keys, table(range(held.get_seq_length())))
            for level, held in ((False, two), (True, two.fine))
        }
        rows = [plain[part.fine][:, :, part.start : part.stop] for part in stretches(two, (1, 4))]
        expected = rotate(torch.cat(rows, 2), table(range(mixed.cache.get_seq_length())))
        # two more rotations in fp32; keys are of size 5
        torch.testing.assert_close(mixed.cache.layers[layer].keys, expected, rtol=0, atol=5e-6)
    ratios = [window.ratio for window in mixed.windows]
    assert ratios == [16, 2, 16, 16, 2]
    assert mixed.windows[-1].stop == mixed.cache.get_seq_length()
    counts = [entry.stop - entry.start for entry in mixed.entries]
    assert counts == [9] * 10 + [72] * 10 + [9] * 20 + [72] * 3


def test_windows_that_are_looked_at_come_first_and_fit() -> None:
    system, memory, two = two_levels()
    ids = system.tokens(f"\n{QUESTION}")
    scores = score_windows(system.model, two, ids)
    assert len(scores) == len(two.windows) == 5
    assert two.get_seq_length() == memory.length
    row = two.coarse_bytes // memory.length
    for budget in (two.coarse_bytes, two.coarse_bytes + 700 * row, 10**9):
        chosen = choose_windows(two, scores, Fine(ratio=2, budget=budget))
        mixed = mix(system.model, two, memory.entries, chosen, 0)
        assert mixed.cache.nbytes <= budget
    # the last window is short: what no other fits may fit it
    for rows, expected in ((630, (1,)), (2 * 630, (1, 3)), (200, (4,)), (0, ())):
        fine = Fine(ratio=2, budget=two.coarse_bytes + rows * row)
        assert choose_windows(two, [0, 3, 0, 2, 1], fine) == expected
    with pytest.raises(OptionError, match="more than the budget"):
        choose_windows(two, scores, Fine(ratio=2, budget=two.coarse_bytes - 1))


def test_a_budget_too_small_is_refused_before_the_work() -> None:
    told: list[str] = []
    system = tiny().variant(ratio=16, fine=2, budget=1000)
    with pytest.raises(OptionError, match=r"the coarse copy takes .* more than the budget of 1000"):
        system.watch(scenes(), max_frames=43, progress=lambda stage, *_: told.append(stage))
    assert "encode" not in told  # only the prompt's head was read


def test_the_budget_is_the_questions_and_may_change() -> None:
    system, memory, two = two_levels()
    other = system.variant(budget=two.coarse_bytes)
    assert other.fingerprint == system.fingerprint
    assert replace(system, fine=Fine(ratio=4, budget=10**9)).fingerprint != system.fingerprint
    with pytest.raises(PromptError, match="another checkpoint"):
        tiny().variant(ratio=16).ask(memory, QUESTION)


def test_rows_that_stay_are_not_touched() -> None:
    system, _, two = two_levels()
    turn = Turn.of(system.model, stretches(two, ()))
    assert len(turn.moved) == 0


# -- intervals ------------------------------------------------------------------------------------


def test_intervals_follow_the_content() -> None:
    system = tiny().variant(ratio=8, dynamic=True)
    memory = watch(system, 33)
    frames = [window.tokens // 144 for window in memory.windows]
    assert frames == [6, 4, 2, 15, 1, 5]  # the golden case's
    assert watch(system, 33).windows == memory.windows
    longer = watch(system.variant(dynamic=True, shortest=3), 33)
    assert min(window.tokens for window in longer.windows) >= 3 * 144


def test_information_decides_ratios_within_the_same_budget() -> None:
    system = tiny().variant(ratio="2,4,8,16", dynamic=True, average_ratio=8)
    memory = watch(system)
    assert [window.tokens for window in memory.windows] != [1440] * 4 + [432]
    kept = sum(window.stop - window.start for window in memory.windows)
    assert kept <= 43 * 144 // 8
    assert len({window.ratio for window in memory.windows}) > 1


def test_interval_plan_is_the_windows_that_are_read() -> None:
    system = tiny().variant(ratio=8, dynamic=True)
    tokens = tokens_of(system, scenes(33))
    seen = Seen()
    list(seen.features(iter([tokens])))
    sizes, _ = interval_plan(seen, system.condense)
    assert len(sizes) == 6
    assert sizes == [window.tokens for window in watch(system, 33).windows]


def test_a_still_image_has_no_intervals() -> None:
    system = tiny().variant(ratio=8, dynamic=True)
    memory = system.watch(noise(1, seed=5, height=220, width=300).pixels_TCHW[0])
    assert len(memory.windows) == 1


def test_intervals_wait_on_disk_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come back a window at a time; the file is what holds the video."""
    sizes: list[int] = []
    true_unspool = longtake.condense.unspool

    def watched(*args: Any) -> Iterator[torch.Tensor]:
        for rows in true_unspool(*args):
            sizes.append(len(rows))
            yield rows

    monkeypatch.setattr(longtake.condense, "unspool", watched)
    watch(tiny().variant(ratio=8, dynamic=True))
    assert sum(sizes) == 43 * 144
    assert max(sizes) <= longtake.condense.SPOOL_ROWS


def test_condensing_nothing_is_refused() -> None:
    how = Condense(window=10, ratios=Ratios(choices=(2,)), intervals=Intervals())
    with pytest.raises(OptionError, match="nothing to condense"):
        condense(iter([]), 0, how, [], lambda tokens: None)


# -- files ----------------------------------------------------------------------------------------

HELD = (
    {"ratio": 8},
    {"ratio": 8, "kv": "int8"},
    {"ratio": 8, "kv": "int4"},
    {"ratio": 16, "fine": 2, "budget": "2MB"},
    {"ratio": 16, "fine": 4, "budget": "2MB", "fine_on": "disk"},
)


@pytest.mark.parametrize("options", HELD)
def test_a_memory_saved_and_loaded_gives_equal_logits(
    options: dict[str, Any], tmp_path: Path
) -> None:
    system = tiny().variant(**options)
    memory = watch(system)
    written = system.options(max_new_tokens=6)
    before = system.ask(memory, QUESTION, written)
    loaded = load_memory(save_memory(memory, tmp_path / "film.longtake"), "cpu")
    if isinstance(loaded.cache, TwoLevelCache):
        assert isinstance(loaded.cache.fine, AsideCache)
        assert loaded.cache.fine.where == options.get("fine_on", "memory")
    assert torch.equal(logits(system, loaded), logits(system, memory))
    after = system.ask(loaded, QUESTION, written)
    assert (after.ids, after.evidence) == (before.ids, before.evidence)
    assert loaded.bytes == memory.bytes
    assert loaded.stats == memory.stats
    assert loaded.windows == memory.windows
    assert [file.name for file in tmp_path.iterdir()] == ["film.longtake"]


def test_what_is_no_memory_is_told_in_one_line(tmp_path: Path) -> None:
    good = save_memory(watch(tiny().variant(ratio=16), 12), tmp_path / "good")
    broken = tmp_path / "broken"
    broken.write_bytes(good.read_bytes()[:5000])
    other = tmp_path / "other"
    save_file({"a": torch.zeros(1)}, other)
    newer = tmp_path / "newer"
    save_file(load_file(good), newer, {"longtake": json.dumps({"format": 99})})
    lacking, tensors = tmp_path / "lacking", load_file(good)
    reseal(good, lacking, {n: t for n, t in tensors.items() if n != "2.keys"})
    for path, words in (
        (tmp_path / "absent", "does not exist"),
        (broken, "no whole memory"),
        (other, "no header"),
        (newer, "has format 99, this longtake reads format 5"),
        (lacking, "does not hold what its header says"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(StoreError, match=words) as error:
            load_memory(path)
        assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="is no folder"):
        save_memory(load_memory(good), tmp_path / "nowhere" / "x")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = watch(tiny().variant(ratio=16), 12)
    target = save_memory(memory, tmp_path / "film")
    old = target.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longtake.sealed.os.fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        save_memory(memory, target)
    assert target.read_bytes() == old
    assert list(tmp_path.iterdir()) == [target]


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 7}, "ratio 7 does not divide the window of 1440"),
        ({"ratio": "8", "window": 100}, "ratio 8 does not divide the window of 100"),
        ({"ratio": "8,x"}, "whole numbers such as 8 or 2,4,8"),
        ({"ratio": ()}, "whole numbers from 1"),
        ({"ratio": 0}, "whole numbers from 1"),
        ({"mix": "random"}, "mix 'random' is unknown; choose step-random"),
        ({"window": 0}, "window must be a whole number from 1"),
        ({"place": "front"}, "choose interleave, append"),
        ({"average_ratio": 8}, "average_ratio needs dynamic"),
        ({"dynamic": True, "longest": 0}, "intervals of 1 to 0 frames"),
        ({"dynamic": True, "average_ratio": 0}, "average ratio must be 1 or more"),
        ({"fine": 2}, "fine needs a budget"),
        ({"budget": "1GB"}, "budget needs fine"),
        ({"fine_on": "disk"}, "fine_on needs fine"),
        ({"fine": 2, "budget": "-1GB", "ratio": 8}, "budget must be bytes such as 300MiB"),
        ({"fine": 2, "budget": -5, "ratio": 8}, "budget must be bytes such as 300MiB"),
        ({"fine": 2, "budget": 0, "ratio": 8}, "budget must be at least one byte"),
        ({"fine": 2, "budget": "1 parsec", "ratio": 8}, "budget must be bytes such as 300MiB"),
        ({"fine": 8, "budget": "1GB", "ratio": 8}, "must be smaller than 8"),
        ({"ratio": 8.0}, "whole numbers from 1"),
        ({"ratio": 8, "mix": "sequence"}, "mix chooses among several ratios"),
        ({"dynamic": True, "mix": "sequence", "average_ratio": 4}, "leave it or mix out"),
        ({"ratio": "9" * 5000}, "whole numbers such as 8"),
        ({"mix": 5}, "mix 5 is unknown"),
        ({"mix": "adapt-" + "9" * 50}, "is unknown"),
        ({"window": 10**18}, "from 1 to 10000000"),
        ({"dynamic": "yes"}, "dynamic must be true or false"),
        ({"fine": 2, "ratio": 8, "budget": "9" * 400}, "budget must be bytes"),
        ({"ratio": 8, "dynamic": True, "average_ratio": 16}, "larger than 8, the largest"),
        ({"fine": 7, "budget": "1GB", "ratio": 8}, "ratio 7 does not divide"),
        ({"fine": 2, "budget": "1GB", "ratio": 8, "fine_on": "tape"}, "fine_on 'tape' is unknown"),
        ({"fine": 2, "budget": "1GB", "ratio": 8, "kv": "int8"}, "leave kv or fine out"),
        ({"kv": "int3"}, "kv 'int3' is unknown; choose full, int8, fp8, int4"),
        ({"colour": 3}, "video_xl has no option 'colour'; it has kv, extend, ratio"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        tiny().variant(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("beacon_attn", "segmentation", "beacon_attn is 'segmentation', expected 'full-coverage'"),
        ("beacon_sink_size", 4, "beacon_sink_size is 4"),
        ("beacon_parallel_window", 2, "beacon_parallel_window is 2"),
        ("beacon_stride", 720, "beacon_stride is 720, expected 1440"),
        ("beacon_accum", False, "beacon_accum is False"),
        ("beacon_param", ["q", "mlp"], "expected some of q, k, v"),
        ("beacon_ratio", [], "beacon_ratio is"),
        ("beacon_ratio", "8", "beacon_ratio is '8'"),
        ("beacon_ratio", [0], "config.json: beacon fields: ratio must be"),
        ("beacon_ratio_mix", "dice", "config.json: beacon fields: mix 'dice' is unknown"),
        ("beacon_param", [["q"]], "expected some of q, k, v"),
        ("beacon_window", -1, "beacon_window is -1"),
        ("beacon_pos", "first", "beacon_pos is 'first'"),
        ("mm_patch_merge_type", None, "mm_patch_merge_type is None"),
    ],
)
def test_what_the_original_cannot_do_is_refused(
    field: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load(changed(tmp_path, **{field: value}), device="cpu")


def changed(folder: Path, **fields: Any) -> Path:
    """The checkpoint with some fields of config.json changed."""
    for file in CHECKPOINT.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_rope_scaling_is_ignored_as_the_original_does(tmp_path: Path) -> None:
    folder = changed(tmp_path, rope_scaling={"type": "linear", "factor": 4.0})
    options = tiny().options(max_new_tokens=6)
    system = load(folder, device="cpu").variant(ratio=8)
    expected = tiny().variant(ratio=8)
    answer = system.ask(system.watch(scenes(12), max_frames=12), QUESTION, options)
    assert answer.ids == expected.ask(watch(expected, 12), QUESTION, options).ids


def test_the_tower_is_known_by_its_name_wherever_it_lay(tmp_path: Path) -> None:
    """The published config names a folder on its authors' disk; sizes come from the name."""
    folder = changed(tmp_path)
    (folder / "vision_tower").unlink()
    with pytest.raises(CheckpointError, match="of another shape"):  # ours is tiny, that is CLIP-L
        load(folder, device="meta")


def test_a_larger_remainder_than_the_next_ratio_is_given_up() -> None:
    """The original crashes; reached by a listed 32 that leaves 16 tokens before a 2."""
    system = tiny().variant(ratio="32,2", mix="listed", dynamic=True)
    system = replace(system, condense=replace(system.condense, intervals=Intervals(longest=1)))
    memory = watch(system, 33)
    kept = [window.stop - window.start for window in memory.windows]
    assert kept[:3] == [144 // 32, 144 // 2, 144 // 2]
    wide = tiny().variant(ratio="2,4,8,16,32", dynamic=True, average_ratio=12)
    total = sum(window.stop - window.start for window in watch(wide, 33).windows)
    assert total <= 33 * 144 // 12


def test_options_go_on_from_what_was_chosen() -> None:
    system = tiny().variant(ratio=16, fine=2, budget="1GiB")
    assert system.variant(seed=3).fine == system.fine
    assert system.variant(fine=4).fine == Fine(ratio=4, budget=2**30)
    assert system.variant(budget="2GiB", fine_on="disk").fine == Fine(
        ratio=2, budget=2**31, where="disk"
    )
    with pytest.raises(OptionError, match="leave kv or fine out"):
        system.variant(kv="int8")
    cutting = tiny().variant(ratio=8, dynamic=True, longest=9)
    assert cutting.variant(ratio=4).condense.intervals == Intervals(longest=9)
    assert cutting.variant(shortest=2).condense.intervals == Intervals(longest=9, shortest=2)
    assert cutting.variant(dynamic=False).condense.intervals is None
    averaged = tiny().variant(dynamic=True, average_ratio=4)
    with pytest.raises(OptionError, match="leave it or mix out"):
        averaged.variant(mix="sequence")


def test_adapt_looks_at_the_video_while_it_is_watched() -> None:
    """Watching, a whole prompt and a survey choose alike: by all tokens, not by those so far."""
    system = tiny().variant(ratio="2,4,8,16", mix="adapt-62000")
    # (32768 - 1440) r + 1440 positions must hold 62000 and the video: 2 does for none, 4 for one
    memory = watch(system, 21)
    assert [window.ratio for window in memory.windows] == [4, 4, 4]
    assert [window.ratio for window in watch(system, 1).windows] == [2]


def test_an_average_holds_where_nothing_is_cut() -> None:
    system = tiny().variant(ratio="2,4,8", dynamic=True, average_ratio=8)
    still = noise(1, seed=2, height=60, width=80).pixels_TCHW.expand(21, -1, -1, -1)
    frames = replace(noise(21, height=60, width=80), pixels_TCHW=still.clone())
    for memory, tokens in (
        (system.watch(frames, max_frames=21), 21 * 144),
        (watch(system, 2), 2 * 144),
        (system.watch(still[0].clone()), 288),
    ):
        kept = sum(window.stop - window.start for window in memory.windows)
        assert 0 < kept <= tokens // 8


def test_a_prompt_that_was_cut_short_is_still_condensed() -> None:
    """Frames behind the cut have no tokens, so their intervals have none."""
    system = tiny().variant(ratio=8, dynamic=True)
    tokens = tokens_of(system, scenes(33))
    for limit in (50, 500, 1500, 4600):
        options = system.options(max_new_tokens=2)
        assert len(system.complete("a<image>b", [tokens], options, limit=limit).ids) == 2


def test_saving_while_answering_is_refused(tmp_path: Path) -> None:
    system = tiny().variant(ratio=8)
    memory = watch(system, 12)
    quiet = system.ask(memory, QUESTION, system.options(max_new_tokens=6))

    def interfere(piece: str) -> None:
        with pytest.raises(PromptError, match="is answering a question"):
            save_memory(memory, tmp_path / "film")

    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=6, on_text=interfere))
    assert answer.ids == quiet.ids


def test_a_disk_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longtake.bilevel.os.posix_fallocate", full)
    system = tiny().variant(ratio=16, fine=2, budget="1GiB", fine_on="disk")
    with pytest.raises(CapacityError, match=r"no room for .* bytes .*No space left.* TMPDIR"):
        watch(system, 12)


def test_a_question_of_several_blocks_is_scored_by_its_last_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, _, two = two_levels()
    ids = system.tokens(" ".join([QUESTION] * 12))
    whole = score_windows(system.model, two, ids)
    monkeypatch.setitem(longtake.engine.PREFILL_BLOCK, "cpu", 50)
    parts = score_windows(system.model, two, ids)
    torch.testing.assert_close(torch.tensor(parts), torch.tensor(whole), rtol=1e-4, atol=0)
    # every head of every layer shares out 1; a square sum lies between even and all on one window
    assert 16 / 5 <= sum(whole) <= 16


def test_each_video_draws_its_ratios_anew() -> None:
    memory = tiny().watch(scenes(21), scenes(21), max_frames=21)
    ratios = [window.ratio for window in memory.windows]
    assert ratios == [2, 8, 4, 2, 8, 4]


def test_sizes_are_planned_by_the_ratios_that_will_be_drawn() -> None:
    system = tiny().variant(ratio="2,16", mix="listed")
    assert system.kept(33 * 144) == 720 + 3 * 90 - 63
    assert watch(system, 33).length - 15 == system.kept(33 * 144)
    assert tiny().kept(33 * 144) == watch(tiny(), 33).length - 15
    tight = tiny().variant(ratio="2,32", mix="listed", fine=2, budget=1100 * 1024)
    assert watch(tight, 33).length <= 1100


def test_a_budget_that_the_text_exceeds_is_refused_when_watching() -> None:
    system = tiny().variant(ratio=8, fine=2, budget=(21 * 18 + 10) * 1024)
    with pytest.raises(OptionError, match="more than the budget"):
        watch(system, 21)


def test_costs_are_told_of_packed_memories() -> None:
    options = {"ratio": 8, "kv": "int8"}
    full, packed = (
        inspect_model(str(CHECKPOINT), device="cpu", options=chosen, frame_counts=(40,)).costs[0]
        for chosen in ({"ratio": 8}, options)
    )
    assert packed.kept == full.kept
    assert 3 < full.cache_bytes / packed.cache_bytes < 4


def test_complete_holds_a_memory_as_watching_does() -> None:
    system = tiny().variant(ratio=8, kv="int4")
    options = system.options(max_new_tokens=8)
    prompt = system.template.prompt(f"<image>\n{QUESTION}")
    whole = system.complete(prompt, [tokens_of(system, scenes(12))], options)
    assert system.ask(watch(system, 12), QUESTION, options).ids == whole.ids


def test_a_memory_that_lies_is_told(tmp_path: Path) -> None:
    good = save_memory(watch(tiny().variant(ratio=16), 12), tmp_path / "good")
    for length in (5, "9"):
        other = tmp_path / f"length-{length}"
        reseal(good, other, load_file(good), length=length)
        with pytest.raises(StoreError, match="does not hold what its header says"):
            load_memory(other, "cpu")
    with pytest.raises(OptionError, match="cannot be used here"):
        load_memory(good, "cuda:9")


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    """The original would answer from a memory that holds nothing of the video."""
    with pytest.raises(OptionError, match="ratio 1440 keeps nothing of 576 visual tokens"):
        watch(tiny().variant(ratio=1440), 4)


def test_a_temporary_folder_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(CapacityError, match=r"no room for the video's visual tokens .*TMPDIR"):
        longtake.condense.spool(iter([torch.zeros(2, 3)]), Full())  # type: ignore[arg-type]
