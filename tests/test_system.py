"""The flow: many questions on one memory, streaming, evidence, and the shell's generate()."""

import dataclasses
import gc
import shutil
import threading
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake import engine
from longtake.api import load
from longtake.engine import Observer, prefill
from longtake.errors import CapacityError, OptionError, PromptError, VideoError
from longtake.parts.cache import SLACK
from longtake.parts.pooling import uniform_pool
from longtake.parts.splice import embed_pieces
from longtake.system import System
from longtake.types import Entry, Frames, VisualTokens
from tests.tiny import CHECKPOINT, noise, tiny

QUESTION = "What is in the video?"


def tokens_of(system: System, frames: Frames) -> VisualTokens:
    """All visual tokens of some frames at once."""
    return VisualTokens.join(list(system.compress(system.see(system.fit(iter([frames]))))))


def test_memory_equals_the_whole_prompt() -> None:
    """Watching and asking is the published prompt in one go: same ids."""
    system, frames = tiny(), noise(6)
    memory = system.watch(frames, max_frames=6)
    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=12))
    prompt = system.template.prompt(f"<image>\n{QUESTION}")
    whole = system.complete(prompt, [tokens_of(system, frames)], system.options(max_new_tokens=12))
    assert answer.ids == whole.ids
    assert answer.text == whole.text
    assert answer.stats.prompt_tokens == whole.stats.prompt_tokens


def test_second_question_is_as_good_as_the_first() -> None:
    system, frames = tiny(), noise(4, seed=1)
    options = system.options(max_new_tokens=9)
    memory = system.watch(frames, max_frames=4)
    before = memory.bytes
    first = system.ask(memory, "Is there a dog?", options)
    second = system.ask(memory, QUESTION, options)
    assert memory.bytes == before
    assert second.ids == system.ask(system.watch(frames, max_frames=4), QUESTION, options).ids
    assert first.ids == system.ask(memory, "Is there a dog?", options).ids
    assert first.ids != second.ids


def test_history_is_part_of_the_prompt() -> None:
    system, frames = tiny(), noise(2)
    memory = system.watch(frames, max_frames=2)
    history = [("What is in the video?", "Noise.")]
    options = system.options(max_new_tokens=8)
    answer = system.ask(memory, "Are you sure?", options, history)
    prompt = (
        system.template.head()
        + "<image>\nWhat is in the video?<|im_end|>\n<|im_start|>assistant\nNoise.<|im_end|>\n"
        + "<|im_start|>user\nAre you sure?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert answer.ids == system.complete(prompt, [tokens_of(system, frames)], options).ids


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_prefill_in_blocks_equals_whole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny()
    pieces = system.pieces("<image>\nHow many?", [tokens_of(system, noise(9))])
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    with torch.no_grad():
        whole = system.model(inputs_embeds=x_SD[None]).logits[0, -1]
    monkeypatch.setitem(engine.PREFILL_BLOCK, "cpu", block)
    last = prefill(system.model, iter(x_SD.split(5)), system.model.new_cache())
    # fp32 sums in another order; logits are of size 1
    torch.testing.assert_close(system.model.logits(last), whole, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")  # it says what we rely on
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_generate_equals_the_engine(penalty: float) -> None:
    """transformers' loop on the shell, on a prompt and on a watched memory."""
    system = tiny()
    options = system.options(max_new_tokens=10, repetition_penalty=penalty)
    pieces = system.pieces("<image>\nHow many?", [tokens_of(system, noise(3))])
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    ours = system.complete("<image>\nHow many?", [tokens_of(system, noise(3))], options)
    theirs = system.model.generate(
        inputs_embeds=x_SD[None],
        attention_mask=torch.ones(1, len(x_SD)),
        max_new_tokens=10,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=list(system.end_ids),
        pad_token_id=0,
    )
    assert theirs[0].tolist() == list(ours.ids)


def test_generate_continues_a_memory() -> None:
    system = tiny()
    memory = system.watch(noise(3), max_frames=3)
    options = system.options(max_new_tokens=10, repetition_penalty=1.0)
    ours = system.ask(memory, QUESTION, options)
    tail = system.tokens("\n" + system.template.tail(QUESTION))
    theirs = system.model.generate(
        input_ids=torch.tensor([tail]),
        attention_mask=torch.ones(1, memory.length + len(tail)),
        past_key_values=memory.cache,
        max_new_tokens=10,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=list(system.end_ids),
        pad_token_id=0,
    )
    assert theirs[0, len(tail) :].tolist() == list(ours.ids)
    # generate() leaves its tokens in the cache; the next question must not see them
    assert system.ask(memory, QUESTION, options).ids == ours.ids


def test_a_memory_answers_one_question_at_a_time() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)
    quiet = system.ask(memory, QUESTION, system.options(max_new_tokens=6))

    def interfere(piece: str) -> None:
        with pytest.raises(PromptError, match="answering another question"):
            system.ask(memory, "And?")

    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=6, on_text=interfere))
    assert answer.ids == quiet.ids
    system.ask(memory, "And?", system.options(max_new_tokens=1))  # free again


def test_an_interrupted_answer_leaves_the_memory_as_it_was() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)
    first = system.ask(memory, QUESTION, system.options(max_new_tokens=6))

    def stop(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.ask(memory, "Something long?", system.options(on_text=stop))
    assert system.ask(memory, QUESTION, system.options(max_new_tokens=6)).ids == first.ids


def test_a_long_answer_does_not_move_the_memory() -> None:
    system = tiny()
    memory = system.watch(noise(30), max_frames=30)
    home = memory.cache.layers[0].key_buffer  # type: ignore[attr-defined]
    assert home.shape[2] <= memory.length + 2 * SLACK
    system.ask(memory, QUESTION, system.options(max_new_tokens=100))
    assert memory.cache.layers[0].key_buffer is home  # type: ignore[attr-defined]


def test_evidence_can_be_left_out() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)
    options = system.options(max_new_tokens=6)
    with_it = system.ask(memory, QUESTION, options)
    without = system.ask(memory, QUESTION, dataclasses.replace(options, evidence=False))
    assert without.ids == with_it.ids
    assert without.evidence == ()
    assert with_it.evidence != ()


def test_a_still_image_has_no_moments() -> None:
    system = tiny()
    memory = system.watch(noise(1, seed=5).pixels_TCHW[0])
    assert system.ask(memory, QUESTION, system.options(max_new_tokens=2)).evidence == ()


def test_the_fingerprint_knows_options_and_weights(tmp_path: Path) -> None:
    system = tiny()
    pooled = dataclasses.replace(system, compress=uniform_pool(3))
    assert pooled.fingerprint != system.fingerprint
    copy = Path(shutil.copytree(CHECKPOINT, tmp_path / "copy", copy_function=shutil.copyfile))
    assert load(copy, device="cpu").fingerprint == system.fingerprint
    for file in copy.glob("model-*.safetensors"):
        save_file({name: w * 1.5 for name, w in load_file(file).items()}, file)
    assert load(copy, device="cpu").fingerprint != system.fingerprint


def test_a_failure_while_watching_leaves_nothing_running(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in noise(60, height=64, width=64).pixels_TCHW.permute(0, 2, 3, 1).numpy():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))

    def fail(stage: str, done: int, total: int) -> None:
        if stage == "decode" and done >= 32:
            raise ValueError("no more")

    before = threading.active_count()
    gc.disable()  # the collector must not be what cleans up
    try:
        for _ in range(3):
            with pytest.raises(ValueError, match="no more"):
                tiny().watch(str(clip), max_frames=60, progress=fail)
    finally:
        gc.enable()
    assert threading.active_count() == before


def test_sampling_is_seeded() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)

    def ids(seed: int) -> tuple[int, ...]:
        options = system.options(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_new_tokens=8)
        return system.ask(memory, QUESTION, options).ids

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_options_follow_the_generation_config() -> None:
    system = tiny()
    assert system.options().repetition_penalty == 1.05
    assert system.options().temperature == 0.0
    sampling = system.options(temperature=0.7)
    assert (sampling.top_p, sampling.top_k) == (0.8, 20)
    assert system.options(temperature=0.7, top_k=5).top_k == 5


def test_streaming_shows_the_answer_and_can_be_cancelled() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)
    shown: list[str] = []
    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=12, on_text=shown.append))
    assert "".join(shown).strip() == answer.text
    assert len(shown) > 3
    calls = iter([False, False, True])
    short = system.ask(memory, QUESTION, system.options(cancelled=lambda: next(calls)))
    assert short.finish == "cancelled"
    assert short.ids == answer.ids[:2]
    stop = answer.text[4:6]
    stopped = system.ask(memory, QUESTION, system.options(max_new_tokens=12, stop=(stop,)))
    assert stopped.text == answer.text[: answer.text.find(stop)].strip()
    assert stopped.finish == "stop"


def test_frames_of_a_memory_are_where_they_say() -> None:
    system = tiny()
    memory = system.watch(noise(20), max_frames=10)
    head = len(system.tokens(system.template.head()))
    assert [entry.start for entry in memory.entries] == [head + 9 * n for n in range(10)]
    assert memory.entries[-1].stop == memory.length == head + 90
    # uniform sampling of 20 frames half a second apart: 0, 2, 4, 6, 8, 10, 12, 14, 16, 19
    assert [entry.seconds for entry in memory.entries] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9.5]
    assert memory.stats.frames == 10
    assert memory.stats.patches == 360
    assert memory.stats.visual_tokens == 90


def test_several_visuals_are_joined_by_a_space() -> None:
    system, frames, image = tiny(), noise(3), noise(1, seed=5).pixels_TCHW[0]
    memory = system.watch(frames, image, max_frames=3)
    options = system.options(max_new_tokens=8)
    prompt = system.template.prompt(f"<image> <image>\n{QUESTION}")
    visuals = [tokens_of(system, frames), system.see_image(image)]
    whole = system.complete(prompt, visuals, options)
    assert system.ask(memory, QUESTION, options).ids == whole.ids
    assert [entry.visual for entry in memory.entries] == [0, 0, 0, 1]


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    tiny().watch(noise(40), max_frames=40, progress=lambda *what: told.append(what))
    for stage in ("decode", "encode", "prefill"):
        last = [what for what in told if what[0] == stage][-1]
        assert last[1] == last[2], stage
    assert ("decode", 40, 40) in told


def test_evidence_is_the_attention_on_each_frame() -> None:
    entries = [Entry(start=2 * n, stop=2 * n + 2, seconds=float(n)) for n in range(8)]
    observer = Observer(entries)
    weights = torch.full((1, 2, 18), 0.01)
    weights[:, :, 6:8] = 0.3
    weights[:, 0, 8] = 0.2
    observer(0, weights)
    torch.testing.assert_close(observer.mass_T, torch.tensor([0.04] * 3 + [1.2, 0.23] + [0.04] * 3))
    (span,) = observer.spans([8.0])
    assert (span.start, span.end) == (3.0, 4.0)
    assert span.weight == pytest.approx(1.2 / 1.67)


def test_evidence_does_not_run_over_from_one_video_to_the_next() -> None:
    entries = [Entry(start=n, stop=n + 1, seconds=float(n % 2), visual=n // 2) for n in range(4)]
    observer = Observer(entries)
    observer(0, torch.tensor([[[0.0, 0.5, 0.5, 0.0]]]))
    spans = observer.spans([2.0, 7.0])
    assert [(s.visual, s.start, s.end) for s in spans] == [(0, 1.0, 2.0), (1, 0.0, 1.0)]


def test_a_limit_cuts_as_the_original_does() -> None:
    """Right truncation: 30 tokens end among the frames, so the question is never read."""
    system = tiny()
    visuals, options = [tokens_of(system, noise(4))], system.options(max_new_tokens=6)
    prompts = [system.template.prompt(f"<image>\n{question}") for question in ("Why?", "How?")]
    cut = [system.complete(prompt, visuals, options, limit=30) for prompt in prompts]
    assert cut[0].ids == cut[1].ids
    assert cut[0].stats.prompt_tokens == 30
    whole = [system.complete(prompt, visuals, options) for prompt in prompts]
    assert whole[0].ids != whole[1].ids


def test_what_cannot_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny()
    # 4 layers x 2 heads x 16 numbers x 4 bytes, keys and values: 1024 bytes a token
    monkeypatch.setattr(engine, "free_bytes", lambda device: 60 * 1024)
    assert system.watch(noise(4), max_frames=4).bytes == 54 * 1024
    with pytest.raises(CapacityError, match=r"63 tokens need .* of the frames would fit"):
        system.watch(noise(5), max_frames=5)


def test_more_than_was_trained_is_told() -> None:
    system = dataclasses.replace(tiny(), window=50)
    assert system.watch(noise(3), max_frames=3).stats.warnings == ()
    (warning,) = system.watch(noise(4), max_frames=4).stats.warnings
    assert "54 tokens are more than the 50" in warning


def test_user_mistakes() -> None:
    system = tiny()
    memory = system.watch(noise(2), max_frames=2)
    with pytest.raises(PromptError, match="empty"):
        system.ask(memory, "  ")
    with pytest.raises(OptionError, match="must be 1 to 1000000, got 0"):
        system.watch(noise(2), max_frames=0)
    with pytest.raises(PromptError, match="nothing to watch"):
        system.watch()
    with pytest.raises(PromptError, match="another checkpoint"):
        system.ask(dataclasses.replace(memory, fingerprint="0"), QUESTION)
    with pytest.raises(PromptError, match="leave <image> out"):
        system.ask(memory, "<image>\nWhat?")
    for asked in ({"question": "a\ud800"}, {"question": "a", "history": [("\udfff", "b")]}):
        with pytest.raises(PromptError, match=r"half a character is in '.*\\ud"):
            system.ask(memory, **asked)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="pairs of texts"):
        system.ask(memory, QUESTION, history=[{"role": "user", "content": "x"}])  # type: ignore[list-item]
    with pytest.raises(VideoError, match="0 frames"):
        system.watch(noise(1)[:0])
    with pytest.raises(OptionError, match="cannot watch a int"):
        system.watch(3)  # type: ignore[arg-type]


def test_text_without_a_video() -> None:
    answer = tiny().ask(None, "What is two and two?", tiny().options(max_new_tokens=4))
    assert len(answer.ids) == 4
    assert answer.evidence == ()
