"""Positions stretched by each request's visual tokens, and progressive pooling, through `watch`."""

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longtake import reader
from longtake.api import load
from longtake.engine import prefill
from longtake.errors import OptionError, PromptError, StoreError, VideoError
from longtake.extend import PRESETS, VisualWindow, visual_window
from longtake.inspect import inspect_model
from longtake.parts.cache import GrowingCache
from longtake.parts.pooling import ProgressivePool
from longtake.parts.rope import Yarn
from longtake.parts.splice import embed_pieces
from longtake.reader import Reader
from longtake.store import load_memory, save_memory
from longtake.system import System
from longtake.types import Memory, VisualTokens
from longtake.video.decode import Video, open_video
from tests.clips import cut, write_clip
from tests.remembering import remembering
from tests.resealed import reseal
from tests.tiny import CHECKPOINT, noise, tiny

QUESTION = "What is in the video?"
GOLDEN = CHECKPOINT.parents[1]
EACH = 9
"""Visual tokens of a frame of the tiny LongVA, without a pooling of the user's."""
WINDOW = "visual-window:window=20"
POOL = "2,6,4"
"""Of 6 x 6 patches: 9 tokens of every fourth frame, 1 of the others."""


@cache
def video_xl() -> System:
    return remembering(load(GOLDEN / "video_xl" / "checkpoint", device="cpu"))


@cache
def flash() -> System:
    return remembering(load(GOLDEN / "videochat_flash" / "ckpt-umt224", device="cpu"))


@cache
def onevision() -> System:
    return remembering(load(GOLDEN / "llava_onevision" / "checkpoint-small7-lmms", device="cpu"))


def said(system: System, memory: Memory) -> tuple[int, ...]:
    return system.ask(memory, QUESTION, system.options(max_new_tokens=8)).ids


def keys(memory: Memory) -> list[torch.Tensor]:
    assert isinstance(memory.cache, GrowingCache)
    return [layer.keys[:, :, : memory.length] for layer in memory.cache.layers]


def same(first: Memory, second: Memory) -> bool:
    return all(map(torch.equal, keys(first), keys(second)))


# -- the option -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", VisualWindow()),
        (":paper", VisualWindow(window=6272, target="auto", ramp="dim", temperature="yarn")),
        (":target=auto", VisualWindow()),
        (":nominal", VisualWindow(target="nominal")),
        (":target=nominal", VisualWindow(target="nominal")),
        (":fig2", VisualWindow(window=6144, target=65536)),
        (":fig2,ramp=rotations", VisualWindow(window=6144, target=65536, ramp="rotations")),
        (":window=144,temperature=none", VisualWindow(window=144, temperature="none")),
        (":target=65536,window=6144", PRESETS["fig2"]),
    ],
)
def test_what_may_be_said(words: str, expected: VisualWindow) -> None:
    assert visual_window(f"visual-window{words}") == expected
    assert tiny().variant(extend=f"visual-window{words}").extend == expected
    assert tiny().variant(extend=expected).extend == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("window=-5", "window must be a whole number from 1 to 1000000000, got '-5'"),
        ("window=0", "window must be a whole number from 1 to 1000000000, got 0"),
        ("window=1.5", "window must be a whole number"),
        ("window=" + "9" * 5000, "window must be a whole number"),
        ("window=", "window must be a whole number"),
        ("target=0", "target must be auto or nominal or a whole number from 1"),
        ("target=fig3", "target must be auto or nominal or a whole number from 1"),
        ("ramp=up", "ramp must be dim or rotations, got 'up'"),
        ("ramp=1", "ramp must be dim or rotations, got 1"),
        ("temperature=0.7", "temperature must be yarn or none, got '0.7'"),
        ("colour=3", "visual-window takes paper, nominal, fig2, or window=, target=, ramp=, temp"),
        ("", "visual-window takes"),
        ("4", "visual-window takes"),
        ("fig2,", "visual-window takes"),
        ("window=5,window=6", "visual-window takes"),
        ("window=5,fig2", "visual-window takes"),
        ("paper,nominal", "visual-window takes"),
        ("__class__=3", "visual-window takes"),
        ("x" * 5000, "visual-window takes"),
    ],
)
def test_what_means_nothing_is_one_line(words: str, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        tiny().variant(extend=f"visual-window:{words}")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 220


@pytest.mark.parametrize(
    ("wish", "tokens", "nominal", "factor"),
    [
        ("paper", 50176, 50176, 8.0),
        ("paper", 15616, 50176, 15616 / 6272),
        ("nominal", 15616, 50176, 8.0),
        ("nominal", 60000, 50176, 60000 / 6272),  # never below what is read
        ("fig2", 15616, 50176, 65536 / 6144),
        ("fig2", 0, 0, 65536 / 6144),
        ("fig2", 70000, 0, 70000 / 6144),
    ],
)
def test_what_is_stretched_for(wish: str, tokens: int, nominal: int, factor: float) -> None:
    how, plain = PRESETS[wish], tiny().model.rope
    target = how.resolved(tokens, nominal)
    assert how.rope(plain, target).scaling == Yarn(factor=factor, original=how.window)
    # a memory that knows its target alone is at the same positions
    assert how.rope(plain, how.resolved(target, 0)) == how.rope(plain, target)


def test_the_readings_reach_the_positions() -> None:
    plain = tiny().model.rope
    how = VisualWindow(window=10, ramp="rotations", temperature="none")
    expected = Yarn(factor=4.0, original=10, ramp="rotations", attention=1.0)
    assert how.rope(plain, 40).scaling == expected
    assert how.rope(plain, 40).gain == 1.0
    assert how.rope(plain, 10) == how.rope(plain, 3) == plain


def test_one_extension_replaces_the_other() -> None:
    system = replace(tiny(), window=50)
    yarn, window = system.variant(extend="yarn:4"), system.variant(extend=WINDOW)
    for before in (system, yarn, window):
        there = before.variant(extend=WINDOW)
        assert (there.extend, there.window) == (visual_window(WINDOW), 50)
        assert there.model.rope == system.model.rope
        assert there.fingerprint == window.fingerprint
        back = before.variant(extend="none")
        assert (back.extend, back.window, back.fingerprint) == (None, 50, system.fingerprint)
        other = before.variant(extend="yarn:4")
        assert (other.extend, other.window, other.fingerprint) == (None, 200, yarn.fingerprint)
    assert window.variant(kv="int8").extend == window.extend
    # also from the middle of a request
    assert window.scaled(80).variant(extend="none").model.rope == system.model.rope
    assert window.scaled(80).variant(extend="none").window == 50


# -- each request has its own scale ---------------------------------------------------------------


def test_the_scale_is_that_of_the_video_and_leaves_the_system_alone() -> None:
    base = tiny()
    system = base.variant(extend=WINDOW)
    rope, model = system.model.rope, system.model
    long = system.watch(noise(8), max_frames=8)
    short = system.watch(noise(4), max_frames=4)
    assert (long.target, short.target) == (8 * EACH, 4 * EACH)
    assert system.scaled(long.target).model.rope.factor == 8 * EACH / 20
    first, second = said(system, long), said(system, short)
    # whatever was read before, and by whom
    assert system.model is model
    assert system.model.rope == rope == base.model.rope
    assert same(system.watch(noise(4), max_frames=4), short)
    for memory, ids in ((long, first), (short, second), (long, first)):
        assert said(system, memory) == ids
    fixed = base.variant(extend=f"visual-window:window=20,target={8 * EACH}")
    assert same(fixed.watch(noise(8), max_frames=8), long)
    assert not same(fixed.watch(noise(4), max_frames=4), short)
    assert not same(base.watch(noise(8), max_frames=8), long)


def test_a_scale_is_taken_once() -> None:
    """Of the positions the checkpoint has, however often."""
    system = replace(tiny(), window=50).variant(extend=WINDOW)
    once = system.scaled(80)
    assert (once.model.rope.factor, once.window) == (4.0, 200)
    assert once.scaled(80) is once
    assert once.scaled(40).model.rope == system.scaled(40).model.rope
    assert (once.scaled(20).model.rope, once.scaled(0).window) == (system.model.rope, 50)
    assert once.fingerprint == system.fingerprint
    assert system.scaled(20) is system
    assert tiny().scaled(80) is tiny()


def test_within_the_window_nothing_changes() -> None:
    """Bit for bit."""
    base = tiny()
    plain = base.watch(noise(8), max_frames=8)
    for words in ("paper", f"window={8 * EACH}", f"window={8 * EACH},ramp=rotations"):
        system = base.variant(extend=f"visual-window:{words}")
        memory = system.watch(noise(8), max_frames=8)
        assert same(memory, plain)
        assert said(system, memory) == said(base, plain)
    assert not same(base.variant(extend="visual-window:window=71").watch(noise(8)), plain)


@pytest.mark.parametrize(
    "words", ["window=20", "window=20,ramp=rotations", "window=20,temperature=none"]
)
def test_reading_in_pieces_equals_one_forward(words: str) -> None:
    """Video, question and answer at one scale: prefill, then word by word, equals all at once."""
    system = tiny().variant(extend=f"visual-window:{words}")
    memory = system.watch(noise(8), max_frames=8)
    ids = said(system, memory)
    scaled = system.scaled(memory.target)
    seen = VisualTokens.join(list(system.compress(system.see(system.fit(iter([noise(8)]))))))
    head, tail = system.template.head(), memory.lead + system.template.tail(QUESTION)
    pieces = [system.tokens(head), seen, system.tokens(tail) + ids]
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    assert len(x_SD) > PREFILLED
    with torch.no_grad():
        logits = scaled.model(inputs_embeds=x_SD[None]).logits[0, -len(ids) - 1 : -1]
        plain = system.model(inputs_embeds=x_SD[None]).logits[0, -len(ids) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(ids)
    # a model at the memory's own scale goes on from its cache; another would not
    step = torch.tensor([system.tokens(tail)])
    assert isinstance(memory.cache, GrowingCache)
    for model, wanted in ((scaled.model, logits[0]), (system.model, plain[0])):
        with torch.no_grad():
            got = model(step, past_key_values=memory.cache).logits[0, -1]
        memory.cache.rewind(memory.length)
        # fp32 sums in another order, of logits of size 3
        assert torch.allclose(got, wanted, rtol=0, atol=1e-4) == (model is scaled.model)


PREFILLED = 8 * EACH


def test_generate_goes_on_at_the_memorys_scale() -> None:
    system = tiny().variant(extend=WINDOW)
    memory = system.watch(noise(8), max_frames=8)
    options = system.options(max_new_tokens=8, repetition_penalty=1.0)
    expected = system.ask(memory, QUESTION, options).ids
    ids = system.tokens(memory.lead + system.template.tail(QUESTION))
    # generate() takes the ids of what the cache holds; their values are never looked at
    prompt = torch.tensor([[0] * memory.length + list(ids)])
    written = system.scaled(memory.target).model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        past_key_values=memory.cache,
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=sorted(system.end_ids),
        pad_token_id=0,
    )
    memory.cache.rewind(memory.length)
    assert written[0, prompt.shape[1] :].tolist() == list(expected)


def test_a_whole_prompt_is_at_the_scale_of_its_visuals() -> None:
    system = tiny().variant(extend=WINDOW)
    seen = VisualTokens.join(list(system.compress(system.see(system.fit(iter([noise(8)]))))))
    prompt = system.template.head() + "<image>\n" + system.template.tail(QUESTION)
    memory = system.watch(noise(8), max_frames=8)
    whole = system.template.head() + "<image>" + memory.lead + system.template.tail(QUESTION)
    options = system.options(max_new_tokens=8)
    assert prompt == whole
    assert system.complete(whole, [seen], options).ids == said(system, memory)
    assert (
        system.complete(whole, [seen], options).ids != tiny().complete(whole, [seen], options).ids
    )
    # words alone are as they were
    assert system.ask(None, "Who?", options).ids == tiny().ask(None, "Who?", options).ids


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("pool", [None, POOL, "area"])
def test_chunks_change_nothing(
    chunk: int, pool: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"pool": POOL, "pool_mode": "area"} if pool == "area" else {"pool": pool}
    system = tiny().variant(extend=WINDOW, **options)
    expected = system.watch(noise(11), max_frames=11)
    monkeypatch.setattr(reader, "CHUNK", chunk)
    memory = system.watch(noise(11), max_frames=11)
    assert memory.target == expected.target
    assert memory.entries == expected.entries
    # the tower may see other frames together, and sums in another order
    for ours, theirs in zip(keys(memory), keys(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert said(system, memory) == said(system, expected)


def test_all_visuals_of_a_prompt_count() -> None:
    system = tiny().variant(extend=WINDOW)
    picture = noise(1, seed=3).pixels_TCHW[0]
    alone = len(system.see_image(picture).features_ND)
    memory = system.watch(noise(5), picture, noise(3, seed=1), max_frames=5)
    assert memory.target == memory.stats.visual_tokens == 10 * EACH + alone
    assert system.watch(picture).target == alone


def test_a_part_of_a_video_counts_alone(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30)
    system = replace(
        tiny().variant(extend=WINDOW), sample=lambda footage, num: range(footage.frames)
    )
    assert system.watch(clip).target == 30 * EACH
    part = system.watch(clip, start=1.0, end=2.0)
    assert part.target == part.stats.visual_tokens == 5 * EACH


def test_a_source_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 12)
    system, opened = tiny().variant(extend=WINDOW), []

    def counted(source: Any) -> Video:
        opened.append(open_video(source))
        return opened[-1]

    monkeypatch.setattr("longtake.video.inputs.open_video", counted)
    expected = system.watch(clip, max_frames=6)
    assert len(opened) == 1
    with pytest.raises(VideoError, match="closed"):
        list(opened[0].read([0]))
    stream = io.BytesIO(clip.read_bytes())
    assert same(system.watch(stream, max_frames=6), expected)
    assert expected.target == 6 * EACH


def test_a_video_that_breaks_off_counts_for_what_it_holds(tmp_path: Path) -> None:
    torn = cut(write_clip(tmp_path / "clip.mkv", 40), 0.5)
    memory = tiny().variant(extend=WINDOW).watch(torn, max_frames=12)
    assert memory.stats.warnings
    assert memory.target == memory.stats.visual_tokens == 12 * EACH


def test_the_window_grows_with_the_scale_and_warnings_say_numbers() -> None:
    short = replace(tiny(), window=50)
    assert "more than the 50" in short.watch(noise(8), max_frames=8).stats.warnings[0]
    system = short.variant(extend="visual-window:window=60")
    warning = system.watch(noise(8), max_frames=8).stats.warnings[0]
    # 60 = 50 * 72 / 60
    assert warning.startswith("90 tokens are more than the 60 this checkpoint was trained to read")
    assert short.variant(extend=WINDOW).watch(noise(8), max_frames=8).stats.warnings == ()


def test_what_nobody_can_foresee_is_refused() -> None:
    class Odd:
        """Keeps every second token, and does not say so."""

        def __call__(self, stream: Any) -> Any:
            for tokens in stream:
                half = tokens.features_ND[::2]
                yield replace(tokens, features_ND=half, counts=(len(half),) + (0,) * 7)

    system = replace(tiny(), compress=Odd())
    assert system.watch(noise(8), max_frames=8).stats.visual_tokens == 144
    with pytest.raises(OptionError, match="nothing says how many visual tokens a video becomes"):
        system.variant(extend=WINDOW).watch(noise(8), max_frames=8)


# -- memories -------------------------------------------------------------------------------------


def test_a_memory_answers_only_under_its_own_wish() -> None:
    base = tiny()
    system = base.variant(extend=WINDOW)
    memory = system.watch(noise(4), max_frames=4)
    others = ("none", "yarn:4", "visual-window", f"{WINDOW},ramp=rotations", f"{WINDOW},target=36")
    for other in others:
        with pytest.raises(PromptError, match="other options; watch the video again"):
            base.variant(extend=other).ask(memory, QUESTION)
    with pytest.raises(PromptError, match="other options"):
        system.ask(base.watch(noise(4), max_frames=4), QUESTION)
    with pytest.raises(PromptError, match="other options"):
        system.variant(pool="3").ask(memory, QUESTION)
    assert base.variant(extend=WINDOW).ask(memory, QUESTION, system.options(max_new_tokens=1)).ids


@pytest.mark.parametrize("kv", ["full", "int8"])
def test_a_memory_in_a_file_keeps_its_scale(kv: str, tmp_path: Path) -> None:
    system = tiny().variant(extend=WINDOW, kv=kv, pool=POOL)
    memory = system.watch(noise(8), max_frames=8)
    back = load_memory(save_memory(memory, tmp_path / "memory.safetensors"), "cpu")
    assert back.target == memory.target == 2 * 9 + 6
    assert said(system, back) == said(system, memory)


@pytest.mark.parametrize("target", [None, -1, "72", 7.5, True])
def test_a_file_whose_scale_means_nothing(target: Any, tmp_path: Path) -> None:
    system = tiny().variant(extend=WINDOW)
    path = save_memory(system.watch(noise(2), max_frames=2), tmp_path / "memory.safetensors")
    changed = tmp_path / "changed"
    reseal(path, changed, load_file(path), target=target)
    with pytest.raises(StoreError, match="does not hold what its header says"):
        load_memory(changed, "cpu")


# -- pooling --------------------------------------------------------------------------------------


def test_a_variant_pools_progressively() -> None:
    system = tiny().variant(pool=POOL)
    assert system.compress == ProgressivePool(high=2, low=6, group=4, mode="average")
    memory = system.watch(noise(6), noise(2), max_frames=6)
    # `evenly` repeats frames of a video that has fewer; the second begins anew
    counts = [entry.stop - entry.start for entry in memory.entries]
    assert counts == [9, 1, 1, 1, 9, 1] * 2
    assert memory.stats.visual_tokens == 44
    assert said(system, memory) != said(tiny(), tiny().watch(noise(6), noise(2), max_frames=6))
    with pytest.raises(PromptError, match="other options"):
        tiny().ask(memory, QUESTION)


def test_published_pooling_said_aloud_is_the_published_system() -> None:
    for options in ({"pool": "2"}, {"pool": 2, "pool_mode": "average"}, {"pool_mode": "average"}):
        assert tiny().variant(**options).fingerprint == tiny().fingerprint
    assert tiny().variant(pool="off").watch(noise(2), max_frames=2).stats.visual_tokens == 72
    again = tiny().variant(pool=POOL).variant(pool_mode="area")
    assert again.compress == ProgressivePool(high=2, low=6, group=4, mode="area")


def test_the_scale_follows_what_pooling_leaves() -> None:
    system = tiny().variant(extend=WINDOW, pool=POOL)
    assert system.watch(noise(8), max_frames=8).target == 2 * 9 + 6
    nominal = tiny().variant(extend="visual-window:nominal,window=20", pool=POOL)
    memory = nominal.watch(noise(8), max_frames=8)
    assert memory.target == 8 * EACH
    assert nominal.scaled(memory.target).model.rope.factor == 8 * EACH / 20
    seen = VisualTokens.join(list(nominal.compress(nominal.see(nominal.fit(iter([noise(8)]))))))
    whole = nominal.template.head() + "<image>\n" + nominal.template.tail(QUESTION)
    options = nominal.options(max_new_tokens=8)
    assert nominal.complete(whole, [seen], options).ids == said(nominal, memory)


def test_a_still_counts_with_its_own_tokens() -> None:
    nominal = tiny().variant(extend="visual-window:nominal,window=20", pool=POOL)
    picture = noise(1, seed=3).pixels_TCHW[0]
    alone = len(nominal.see_image(picture).features_ND)
    assert alone > EACH
    memory = nominal.watch(noise(8), picture, max_frames=8)
    assert memory.target == 8 * EACH + alone
    seen = VisualTokens.join(list(nominal.compress(nominal.see(nominal.fit(iter([noise(8)]))))))
    whole = f"{nominal.template.head()}<image> <image>\n{nominal.template.tail(QUESTION)}"
    options = nominal.options(max_new_tokens=8)
    answered = nominal.complete(whole, [seen, nominal.see_image(picture)], options)
    assert answered.ids == said(nominal, memory)


@pytest.mark.parametrize("pool", ["2", POOL, "3,6,16", "off"])
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_room_and_progress_are_exact(
    pool: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before a video's first token, although its frames differ."""
    monkeypatch.setattr(reader, "CHUNK", chunk)
    system = tiny().variant(pool=pool)
    room: list[tuple[int, int]] = []
    done: list[tuple[str, int, int]] = []
    watching = Reader(
        eye=system,
        num=11,
        progress=lambda *told: done.append(told),
        reserve=lambda total, coming, words: room.append((total, coming)),
    )
    sizes, place = [], 0
    for piece in watching.stream("Look: ", [noise(11), noise(11, seed=1)]):
        place += len(piece.features_ND) if isinstance(piece, VisualTokens) else len(piece)
        watching.prefilled(place)
        sizes.append(place)
    planned = system.planned(11)
    assert planned is not None
    assert watching.visual == 2 * planned
    assert [coming for _, coming in room] == [planned, planned]
    assert room[-1][0] == sizes[-1]
    read = [told for told in done if told[0] == "prefill"]
    assert read[-1][1:] == (place, place)
    assert all(now <= total for _, now, total in read)
    ends = [total for _, _, total in read]
    assert set(ends[1:-1]) <= {room[0][0], room[0][0] + 1, room[-1][0]}
    assert watching.foreseen([noise(11), noise(11)]) == (2 * planned, 2 * system.nominal(11))


def test_inspect_counts_what_will_be_pooled_and_stretched() -> None:
    options = {"pool": POOL, "extend": WINDOW}
    told = inspect_model(str(CHECKPOINT), options=options, frame_counts=(8, 30), device="cpu")
    assert [cost.tokens for cost in told.costs] == [24, 8 * 9 + 22]
    stages = inspect_model(
        str(CHECKPOINT), options=options, frame_counts=(), max_frames=30, device="cpu"
    ).comparison.stages
    assert {stage.name: stage.tokens for stage in stages}["pool"] == 8 * 9 + 22
    # 5000 frames are 45000 tokens, the checkpoint's window
    plain, stretched = (
        inspect_model(str(CHECKPOINT), options=made, frame_counts=(40_000,), device="cpu").costs[0]
        for made in ({}, {"extend": WINDOW})
    )
    assert (plain.fits, stretched.fits) == (False, True)


# -- other systems --------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [video_xl, flash])
def test_compression_of_ones_own_is_not_pooled(system: Any) -> None:
    for name in ("pool", "pool_mode"):
        with pytest.raises(OptionError, match=rf"has no option '{name}'") as caught:
            system().variant(**{name: "4"})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", [video_xl, flash, onevision])
@pytest.mark.parametrize("kind", ["linear:2", "ntk:2", "yarn:2", "visual-window:window=40"])
def test_every_system_has_every_kind(system: Any, kind: str) -> None:
    made = system().variant(extend=kind)
    memory = made.watch(noise(12), max_frames=12)
    plain = system().watch(noise(12), max_frames=12)
    planned = made.planned(12)
    assert memory.target == (planned if kind.startswith("visual") else 0)
    assert planned is not None
    # a newline is no visual token
    assert memory.stats.visual_tokens - planned == (system is onevision)
    assert not same(memory, plain)
    assert len(said(made, memory)) > 0
    if kind.startswith("visual"):
        assert made.scaled(memory.target).model.rope.factor == planned / 40
        wide = system().variant(extend="visual-window")
        assert same(wide.watch(noise(12), max_frames=12), plain)


@pytest.mark.parametrize("drop", ["2,5:1,0.75,0.25", "attention:2,5:1,0.75,0.25"])
def test_dropped_tokens_are_at_the_scale_of_all_that_are_read(drop: str) -> None:
    how = "visual-window:window=40"
    made: Any = flash().variant(extend=how, drop=drop)
    memory = made.watch(noise(12), max_frames=12)
    assert memory.target == 192
    fixed: Any = flash().variant(extend=f"{how},target=192", drop=drop)
    assert said(made, memory) == said(fixed, fixed.watch(noise(12), max_frames=12))
    plain: Any = flash().variant(drop=drop)
    assert said(made, memory) != said(plain, plain.watch(noise(12), max_frames=12))


def test_two_levels_are_mixed_at_the_memorys_scale() -> None:
    """Keys that move are turned by the frequencies they were made with."""
    options = {"ratio": 8, "fine": 2, "budget": "100MB"}
    made: Any = video_xl().variant(extend="visual-window:window=40", **options)
    memory = made.watch(noise(12), max_frames=12)
    fixed: Any = made.scaled(memory.target)
    model = fixed.model.rope
    assert model.factor == 12 * (made.planned(1) or 0) / 40
    one = video_xl().variant(extend="visual-window:window=40", ratio=2)
    # everything fits the budget, so all windows are fine
    assert said(made, memory) == said(one, one.watch(noise(12), max_frames=12))


def test_onevision_pools_and_stretches_as_published() -> None:
    system = onevision().variant(pool="paper", extend="visual-window:window=48")
    memory = system.watch(noise(16), max_frames=16)
    assert memory.target == 4 * 16 + 12
    assert memory.stats.visual_tokens == memory.target + 1
    assert system.arranged(16) == memory.target + 1


def test_prefill_is_what_remember_does() -> None:
    """The scaled system's own `remember` is used, chunk by chunk, on one cache."""
    system = tiny().variant(extend=WINDOW)
    memory = system.watch(noise(4), max_frames=4)
    scaled = system.scaled(memory.target)
    seen = VisualTokens.join(list(system.compress(system.see(system.fit(iter([noise(4)]))))))
    pieces = [system.tokens(system.template.head()), seen]
    cache = system.new_cache()
    prefill(scaled.model, embed_pieces(pieces, system.model.embed, system.model.device), cache)
    ours = [layer.keys for layer in cache.layers]
    for got, wanted in zip(keys(memory), ours, strict=True):
        # the tower saw the same frames
        assert torch.equal(got, wanted)
