"""Reading further than trained: other positions over the same weights, and the option for it."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.api import load
from longtake.errors import OptionError, PromptError
from longtake.extend import extended, extension
from longtake.mixing import Stretch, Turn
from longtake.model import LongtakeModel
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.rope import Linear, Ntk, Rope, Yarn, rotate
from longtake.system import System
from tests.tiny import CHECKPOINT, noise, tiny

QUESTION = "What is in the video?"
FOUR = Yarn(factor=4.0, original=32768)
VIDEO_XL = CHECKPOINT.parents[1] / "video_xl" / "checkpoint"


def positions_of(system: System) -> Rope:
    return system.model.rope


# -- the model ------------------------------------------------------------------------------------


def logits(model: LongtakeModel, count: int = 40) -> torch.Tensor:
    ids = torch.arange(count)[None] % 50
    with torch.no_grad():
        return model(ids).logits


def test_positioned_shares_every_weight_and_leaves_the_first_alone() -> None:
    model = tiny().model
    rope, before, parts = model.rope, logits(model), dict(model.named_modules())
    other = model.positioned(replace(rope, scaling=FOUR))
    assert type(other) is type(model)
    assert type(other.decoder) is type(model.decoder)
    ours, theirs = dict(other.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert {name: w.data_ptr() for name, w in ours.items()} == {
        name: w.data_ptr() for name, w in theirs.items()
    }
    assert other.state_dict().keys() == model.state_dict().keys()
    assert (other.rope.scaling, model.rope) == (FOUR, rope)
    assert dict(model.named_modules()) == parts
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(other), before)
    back = other.positioned(rope)
    assert torch.equal(logits(back), before)


@pytest.mark.parametrize("training", [True, False])
def test_positioned_is_a_whole_model(training: bool) -> None:
    model = load(CHECKPOINT, device="cpu", dtype="bfloat16").model.train(training)
    other = model.positioned(replace(model.rope, scaling=FOUR))
    assert (other.training, other.decoder.training) == (training, training)
    assert (other.device, other.dtype) == (model.device, model.dtype)
    assert other.compute_dtype == model.compute_dtype
    assert other.usable_vocab == model.usable_vocab
    # a part put into one is not put into the other
    other.projector = torch.nn.Identity()
    assert not isinstance(model.projector, torch.nn.Identity)
    other.eval()
    ids = torch.arange(12)[None]
    options = {"max_new_tokens": 4, "do_sample": False, "repetition_penalty": 1.0}
    written = other.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    expected = ids
    with torch.no_grad():
        for _ in range(written.shape[1] - 12):
            last = other(expected).logits[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, last], 1)
    assert torch.equal(written, expected)


def test_positioned_needs_no_weights_to_be_there() -> None:
    system = load(CHECKPOINT, device="meta").variant(extend="yarn:4")
    assert positions_of(system).scaling == FOUR
    assert all(weight.is_meta for weight in system.model.parameters())


def test_rows_that_move_keep_their_length() -> None:
    """A mixture turns keys back and on; with a gain it must not scale them twice."""
    torch.manual_seed(0)
    model = tiny().variant(extend="yarn:4").model
    keys = torch.randn(1, 2, 12, 16)

    def turned(rows: Any, at: Any) -> torch.Tensor:
        step = Step(positions_BS=torch.as_tensor(at)[None])
        assert isinstance(model.decoder, Decoder)
        return rotate(keys[:, :, rows], model.decoder.table(step, torch.float32))

    rows = [0, 1, 2, 7, 8, 9]
    parts = [Stretch(False, 0, 3), Stretch(True, 7, 10)]
    moved = Turn.of(model, parts)(turned(rows, rows))
    # two rotations in fp32 of numbers of size 1
    torch.testing.assert_close(moved, turned(rows, range(6)), rtol=0, atol=3e-6)


# -- the option -----------------------------------------------------------------------------------

PLAIN = Rope(theta=1e6, positions=32768)
OWN = Rope(theta=1e6, positions=32768, scaling=Yarn(factor=2.0, original=32768, beta_fast=16.0))


@pytest.mark.parametrize("before", [PLAIN, OWN])
@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        ("none", None),
        ("yarn", FOUR),
        ("yarn:4", FOUR),
        ("yarn:4.0", FOUR),
        ("yarn:1.5", Yarn(factor=1.5, original=32768)),
        ("yarn:1", None),
        ("yarn:1.0", None),
        ("linear", Linear(factor=4.0)),
        ("linear:2.5", Linear(factor=2.5)),
        ("linear:1", None),
        ("ntk", Ntk(factor=4.0)),
        ("ntk:8", Ntk(factor=8.0)),
        ("ntk:1", None),
        ("visual-window", None),  # each request has its own
        ("visual-window:fig2", None),
    ],
)
def test_what_may_be_said(before: Rope, said: str, scaling: Linear | Ntk | Yarn | None) -> None:
    assert extension(said, before) == replace(before, scaling=scaling)


def test_the_length_trained_on_is_the_checkpoints() -> None:
    long = Rope(theta=1e7, positions=1010000)
    assert extension("yarn:4", long).scaling == Yarn(factor=4.0, original=1010000)


@pytest.mark.parametrize(
    "said", ["", "bogus", "Yarn", "dynamic:2", "visual", "visual-windows", "4", ":4", 4, ["yarn"]]
)
def test_an_unknown_kind(said: object) -> None:
    with pytest.raises(OptionError, match=r"extend .* is unknown; choose none, linear:N, ntk:N, y"):
        extension(said, PLAIN)


@pytest.mark.parametrize(
    "factor",
    ["", "x", "0", "0.5", "-4", "inf", "nan", "1e400", "1_0", " 4", "4x", "9" * 400, "4:4", "\n"],
)
def test_a_factor_that_means_nothing(factor: str) -> None:
    for kind in ("yarn", "linear", "ntk"):
        with pytest.raises(OptionError, match="extend needs a number from 1") as caught:
            extension(f"{kind}:{factor}", PLAIN)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize("window", [1, 50, 12345, 32768, 224000])
@pytest.mark.parametrize("first", ["yarn:1.1", "yarn:3", "linear:2.7", "ntk:999999"])
def test_what_was_chosen_before_is_replaced(window: int, first: str) -> None:
    model = tiny().model
    longer, reach = extended(model, window, first)
    assert reach == round(window * longer.rope.factor)
    again, reach = extended(longer, reach, "yarn:4")
    assert (again.rope.scaling, reach) == (FOUR, 4 * window)
    back, reach = extended(again, reach, "none")
    assert (back.rope, reach) == (model.rope, window)


def test_a_window_that_nobody_states_stays_unknown() -> None:
    assert extended(tiny().model, None, "yarn:4")[1] is None


def test_a_variant_reads_further() -> None:
    system = replace(tiny(), window=50)
    longer = system.variant(extend="yarn:2")
    assert longer.window == 100
    assert system.watch(noise(4), max_frames=4).stats.warnings != ()
    assert longer.watch(noise(4), max_frames=4).stats.warnings == ()
    assert positions_of(system).scaling is None
    # other options leave it, and it leaves them
    packed = longer.variant(kv="int8")
    assert (packed.window, positions_of(packed)) == (100, positions_of(longer))
    assert packed.variant(extend="none").kv == "int8"
    assert packed.variant(extend="none").window == 50


@pytest.mark.parametrize("said", ["none", "yarn:1"])
def test_no_extension_is_the_checkpoint_itself(said: str) -> None:
    system = tiny()
    same = system.variant(extend=said)
    assert same.model is system.model
    assert (same.window, same.fingerprint) == (system.window, system.fingerprint)


def test_it_is_the_same_as_a_config_that_asks_for_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "long", copy_function=shutil.copyfile))
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"type": "yarn", "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    system, longer, stated = tiny(), tiny().variant(extend="yarn:4"), load(folder, device="cpu")
    assert positions_of(longer) == positions_of(stated)
    options = system.options(max_new_tokens=8)

    def answer(by: System) -> tuple[int, ...]:
        return by.ask(by.watch(noise(8), max_frames=8), QUESTION, options).ids

    assert answer(longer) == answer(stated)
    assert answer(longer) != answer(system)
    # and the config's can be turned off
    assert answer(stated.variant(extend="none")) == answer(system)


def test_a_memory_answers_only_at_the_positions_it_was_made_with() -> None:
    system = tiny()
    longer = system.variant(extend="yarn:4")
    assert longer.fingerprint != system.fingerprint
    assert longer.fingerprint != system.variant(extend="yarn:2").fingerprint
    assert longer.fingerprint == system.variant(extend="yarn:2").variant(extend="yarn").fingerprint
    memory = longer.watch(noise(2), max_frames=2)
    with pytest.raises(PromptError, match="other options"):
        system.ask(memory, QUESTION)
    with pytest.raises(PromptError, match="other options"):
        longer.ask(system.watch(noise(2), max_frames=2), QUESTION)


# -- a system with options of its own -------------------------------------------------------------


@cache
def video_xl() -> System:
    return load(VIDEO_XL, device="cpu")


def test_video_xl_takes_it_beside_its_own() -> None:
    system: Any = video_xl().variant(ratio=8, extend="yarn:2")
    assert positions_of(system).factor == 2.0
    assert system.window == 2 * (video_xl().window or 0)
    assert system.condense.ratios.choices == (8,)
    memory = system.watch(noise(12), max_frames=12)
    assert len(system.ask(memory, QUESTION, system.options(max_new_tokens=4)).ids) == 4
    with pytest.raises(PromptError, match="other options"):
        video_xl().variant(ratio=8).ask(memory, QUESTION)
    with pytest.raises(OptionError, match="extend 'far' is unknown"):
        video_xl().variant(extend="far")
    with pytest.raises(OptionError, match="it has kv, extend, ratio"):
        video_xl().variant(far=1)
