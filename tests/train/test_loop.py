"""The loop: a resumed run equals an uninterrupted one, frozen parts stay, recipes and overrides."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from longtake.errors import CheckpointError, OptionError
from longtake.model import LongtakeModel
from longtake.train.config import Moment, Outcome, Start, TrainConfig
from longtake.train.loop import load_recipe, override, read_state, schedule, train
from longtake.train.plot import plot_log
from longtake.train.text import TextStage

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@dataclass(frozen=True, kw_only=True)
class Interrupted(TextStage):
    """A text stage that breaks off before a step."""

    before: int

    def learn(self, model: LongtakeModel, tokenizer: Tokenizer, moment: Moment) -> Outcome:
        if moment.step == self.before:
            raise InterruptedError
        return super().learn(model, tokenizer, moment)


@dataclass(frozen=True, kw_only=True)
class Unchecked(TextStage):
    """A text stage whose check costs nothing."""

    def check(
        self, model: LongtakeModel, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> Mapping[str, float]:
        return {"draw": float(rng.integers(1000))}


def tiny(out: Path) -> TrainConfig:
    stage = Unchecked(tokens=300, longest=3)
    return TrainConfig(
        stage=stage, out=out, steps=4, rate=1e-3, log_every=1, save_every=2, warmup=2
    )


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = tiny(tmp_path / "whole")
    train(whole)
    broken = replace(whole, out=tmp_path / "broken")
    with pytest.raises(InterruptedError):
        train(replace(broken, stage=Interrupted(tokens=300, longest=3, before=3)))
    assert read_state(broken.out / "state.pt")["step"] == 2
    train(broken, resume=True)
    states = [read_state(config.out / "state.pt") for config in (whole, broken)]
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name
    logs = [
        [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()][-1]
        for config in (whole, broken)
    ]
    assert logs[0]["check_draw"] == logs[1]["check_draw"]
    assert logs[0]["loss"] == logs[1]["loss"]


def test_only_the_stage_s_parts_change(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run")
    train(replace(config, steps=1))
    train(replace(config, steps=2, out=tmp_path / "other"))
    one, two = (read_state(tmp_path / name / "state.pt")["model"] for name in ("run", "other"))
    changed = {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"decoder", "lm_head"}
    assert torch.equal(one["decoder.embed_tokens.weight"], two["decoder.embed_tokens.weight"])


def test_a_start_brings_the_parts_it_names(tmp_path: Path) -> None:
    first = tiny(tmp_path / "first")
    train(first)
    start = Start(file=first.out / "state.pt", parts=("lm_head.",))
    train(replace(first, out=tmp_path / "next", starts=(start,), steps=1, rate=1e-12, decay=0.0))
    old, new = (read_state(tmp_path / name / "state.pt")["model"] for name in ("first", "next"))
    torch.testing.assert_close(new["lm_head.weight"], old["lm_head.weight"], atol=1e-9, rtol=0)
    name = "decoder.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(new[name], old[name])


def test_missing_starts_and_names_raise(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run")
    gone = Start(file=tmp_path / "gone.pt", parts=("lm_head.",))
    with pytest.raises(CheckpointError, match="run the earlier stage"):
        train(replace(config, starts=(gone,)))


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(tmp_path: Path) -> None:
    config = replace(tiny(tmp_path / "run"), steps=1)
    with pytest.raises(OptionError, match="holds no run"):
        train(config, resume=True)
    train(config)
    with pytest.raises(OptionError, match="holds a run already"):
        train(config)


def test_overrides_replace_plain_fields_and_nothing_else(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    changed = override(config, ["steps=10", "rate=0.5", "out=elsewhere"])
    assert (changed.steps, changed.rate, changed.out) == (10, 0.5, Path("elsewhere"))
    for wrong in ("steps", "steps=ten", "stage=1", "speed=3", "steps=0"):
        with pytest.raises(OptionError):
            override(config, [wrong])


@pytest.mark.parametrize("name", ["default_text", "default_read", "default_video"])
def test_recipes_load_and_are_short(name: str) -> None:
    file = RECIPES / f"{name}.py"
    assert load_recipe(file).out == Path("runs") / name
    assert len(file.read_text().splitlines()) < 80


def test_what_is_no_recipe_raises(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    for path in (empty, tmp_path / "gone.py"):
        with pytest.raises(OptionError):
            load_recipe(path)


def test_schedule_rises_then_falls_to_the_floor(tmp_path: Path) -> None:
    config = replace(tiny(tmp_path), steps=100, warmup=10, floor=0.1)
    rates = [schedule(step, config) for step in range(101)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


def test_a_log_becomes_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log, target = tmp_path / "log.jsonl", tmp_path / "loss.png"
    entries = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    entries[2] |= {"check_word": 0.5}
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    plot_log(log, target)
    with Image.open(target) as picture:
        assert picture.size == (990, 660)
