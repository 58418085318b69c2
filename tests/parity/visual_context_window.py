"""Window extension and progressive pooling: tables, pooled frames, and whole answers.

T frames, P patches, N visual tokens, S sequence, E half of a head's width, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from longtake.engine import prefill
from longtake.extend import FIXED, VisualWindow
from longtake.parts.pooling import ProgressivePool
from longtake.parts.qwen2 import Decoder
from longtake.parts.rope import Rope, Yarn, frequencies, rope_table
from longtake.parts.splice import flat_ids
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import VisualTokens
from tests.parity.cases import Case, StageResult, close, equal, worst
from tests.parity.llava_onevision import (
    PIXELS,
    SUB,
    frames_of,
    joined,
    near,
    system_of,
    until_end,
)

POOLED = 1e-5
TABLES = 1e-6
"""Of cosines and sines, and of frequencies as a share of their value."""
LOGITS = 3e-4


def relative(stage: str, got: Tensor, want: Tensor) -> StageResult:
    """Compare by shares of what is wanted."""
    return close(stage, got.double() / want, torch.ones_like(want), TABLES)


def number(stage: str, got: float, want: float, tolerance: float) -> StageResult:
    """Compare two numbers."""
    one, other = (torch.tensor(value, dtype=torch.float64) for value in (got, want))
    return close(stage, one, other, tolerance)


# -- tables ---------------------------------------------------------------------------------------


def check_rope(case: Case) -> list[StageResult]:
    """Frequencies, ramps and tables of every setting and method."""
    found: dict[str, list[StageResult]] = {}
    for setting in case.spec["settings"]:
        for result in rope_results(setting, case.tensors):
            found.setdefault(result.stage, []).append(result)
    return [worst(results) for results in found.values()]


def rope_results(setting: dict[str, Any], tensors: dict[str, Tensor]) -> list[StageResult]:
    """One setting."""
    name, scale, width = setting["name"], setting["scale"], setting["head_dim"]
    plain = Rope(theta=setting["base"])
    results = [relative("plain", frequencies(width, plain), tensors[f"{name}.theta"])]
    for method in ("linear", "ntk"):
        rope = plain.stretched(FIXED[method](scale, plain))
        theirs = tensors[f"{name}.{method}.inv_freq"]
        results.append(relative(method, frequencies(width, rope), theirs))
    for ramp in ("dim", "rotations"):
        yarn = Yarn(
            factor=scale,
            original=setting["visual_window"],
            beta_fast=setting["beta"],
            beta_slow=setting["alpha"],
            ramp=cast(Any, ramp),
        )
        rope, stem = plain.stretched(yarn), f"{name}.{ramp}"
        theirs = tensors[f"{stem}.inv_freq"]
        table = rope_table(torch.tensor([setting["positions"]]), theirs.float(), torch.float32)
        half = width // 2
        results += [
            relative(ramp, frequencies(width, rope), theirs),
            close("cosines", table.cos[0, 0, :, :half], tensors[f"{stem}.cos_f32"], TABLES),
            close("sines", table.sin[0, 0, :, :half], tensors[f"{stem}.sin_f32"], TABLES),
            number("gain", rope.gain, setting["attention_scale_yarn"], TABLES),
        ]
        if scale > 1.0:  # else nothing is stretched
            kept_E = yarn.kept(1.0 / frequencies(width, plain), plain.theta)
            results.append(close(f"{ramp} kept", kept_E, tensors[f"{stem}.gamma"], TABLES))
        if ramp == "dim":
            ours = yarn.edges(width, plain.theta)
            results.append(equal("edges", list(ours), setting["ramp_dim_low_high"]))
    return results


def check_pool(case: Case) -> list[StageResult]:
    """Progressive pooling of stored features: values, counts, and what was foreseen."""
    spec, tensors = case.spec, case.tensors
    pool, features_TPD = pool_of(spec), tensors["features"]
    frames, patches = features_TPD.shape[:2]
    results = []
    for chunk in (1, 3, frames):  # the stream may be cut anywhere
        parts = [
            VisualTokens(
                features_ND=part.flatten(0, 1),
                counts=(patches,) * len(part),
                seconds=(0.0,) * len(part),
            )
            for part in features_TPD.split(chunk)
        ]
        pooled = VisualTokens.join(list(pool(iter(parts))))
        results += [
            equal("counts", list(pooled.counts), tensors["tokens_per_frame"].tolist()),
            close("tokens", pooled.features_ND, tensors["tokens"], POOLED),
        ]
    planned = [pool.planned(frames, patches)]
    return [*results, equal("planned", planned, [spec["total_tokens"]])]


def pool_of(spec: dict[str, Any]) -> ProgressivePool:
    """A pooling as cases state it."""
    return ProgressivePool(
        high=spec["stride_high"], low=spec["stride_low"], group=spec["K"], mode=spec["mode"]
    )


def check_counts(case: Case) -> list[StageResult]:
    """Tokens of every row of the table."""
    rows = case.spec["rows"]
    ours = [
        pool_of(row | {"mode": "bilinear"}).planned(row["frames"], row["grid"] ** 2) for row in rows
    ]
    return [equal("tokens", ours, [row["tokens"] for row in rows])]


# -- whole answers --------------------------------------------------------------------------------


def asked_of(case: Case, layout: str = "lmms") -> LlavaOneVision:
    """The case's system as a user would ask for it; the checkpoint's own where nothing is asked."""
    spec = case.spec
    system = replace(system_of(case, layout), compress=pool_of(spec["pool"]))
    if spec["method"] != "vcwe":
        model = system.model
        rope = model.rope.stretched(FIXED[spec["method"]](spec["scale"], model.rope))
        return replace(system, model=model.positioned(rope))
    extend = VisualWindow(
        window=spec["visual_window"],
        target="auto" if spec["target_auto"] else spec["target"],
        ramp=spec["ramp"],
        temperature=spec["temperature"],
    )
    return replace(system, extend=extend)


def scaled_of(case: Case, layout: str = "lmms") -> LlavaOneVision:
    """The same with the case's own target, whatever the number of tokens."""
    asked = asked_of(case, layout)
    return replace(asked.scaled(case.spec["target"]), extend=None)


def watched(case: Case, system: LlavaOneVision) -> tuple[VisualTokens, VisualTokens]:
    """The video's tokens, pooled, and with its newline."""
    fitted = system.fit(iter([frames_of(case.pictures("frames_u8"))]))
    pooled = VisualTokens.join(list(system.compress(system.see(fitted))))
    return pooled, VisualTokens.join(list(system.arrange(iter([pooled]))))


@torch.no_grad()
def check_seen(case: Case) -> list[StageResult]:
    """Pixels, pooled tokens, embeddings."""
    system, spec, tensors = asked_of(case), case.spec, case.tensors
    pixels_TCHW = system.processor(case.pictures("frames_u8"))
    pooled, tokens = watched(case, system)
    pieces = system.pieces(spec["prompt"], [tokens])
    planned = [system.planned(len(pixels_TCHW)), system.arranged(len(pixels_TCHW))]
    x_SD = joined(system, pieces)
    return [
        close("pixels", pixels_TCHW[..., ::SUB, ::SUB], tensors["pixel_values_sub"], PIXELS),
        near("tokens", pooled.features_ND, tensors["visual_tokens"]),
        equal("counts", list(pooled.counts), tensors["tokens_per_frame"].tolist()),
        equal("planned", planned, [spec["visual_tokens"], len(tokens.features_ND)]),
        equal("ids", flat_ids(pieces), tensors["input_ids"].tolist()),
        near("embeddings", x_SD, tensors["inputs_embeds"]),
        equal("length", [len(x_SD)], [spec["sequence_length"]]),
    ]


@torch.no_grad()
def check_extended(case: Case) -> list[StageResult]:
    """What positions are stretched for, frequencies, logits with and without, in both layouts."""
    spec, tensors, asked = case.spec, case.tensors, asked_of(case)
    rope = scaled_of(case).model.rope
    width = cast(Decoder, asked.model.decoder).config.head_dim
    results = [
        relative("frequencies", frequencies(width, rope), tensors["inv_freq"]),
        number("gain", rope.gain, spec["attention_scale"], TABLES),
        number("factor", rope.factor, spec["scale"], TABLES),
    ]
    if spec["method"] == "vcwe" and spec["target_auto"]:
        frames = len(case.pictures("frames_u8"))
        target = asked.target_for(spec["visual_tokens"], asked.nominal(frames))
        results.append(equal("target", [target], [spec["target"]]))
    plain = tensors["logits_last_without_extension"]
    for layout in ("lmms", "hf"):
        _, tokens = watched(case, asked_of(case, layout))
        for stage, system, wanted in (
            (f"{layout} last", scaled_of(case, layout), tensors["logits_last"]),
            (f"{layout} plain", system_of(case, layout), plain),
        ):
            pieces = system.pieces(spec["prompt"], [tokens])
            last_D = prefill(system.model, iter([joined(system, pieces)]), system.model.new_cache())
            # the other layout has more rows, of no token
            ours = system.model.logits(last_D)[: len(wanted)]
            results.append(close(stage, ours, wanted, LOGITS))
    return results


def check_extended_answer(case: Case) -> list[StageResult]:
    """Greedy ids of the whole prompt, and, as users get them, of a memory and a question."""
    spec = case.spec
    wanted = case.tensors["generated_ids"].tolist()
    results = []
    for layout in ("lmms", "hf"):
        system = scaled_of(case, layout)
        options = system.options(max_new_tokens=len(wanted), repetition_penalty=1.0)
        _, tokens = watched(case, system)
        answer = system.complete(spec["prompt"], [tokens], options)
        results.append(equal(f"{layout} answer", list(answer.ids), until_end(wanted, system)))
    asked, template = asked_of(case), asked_of(case).template
    begins, ends = template.head() + "<image>\n", template.end + template.assistant
    question = str(spec["prompt"]).removeprefix(begins).removesuffix(ends)
    # a user's target is never below what is read
    reached = spec["method"] != "vcwe" or spec["target"] >= spec["visual_tokens"]
    if spec["prompt"] != begins + question + ends or not reached:
        return results
    frames = case.pictures("frames_u8")
    memory = asked.watch(frames_of(frames), max_frames=len(frames))
    answer = asked.ask(memory, question, options)
    again = asked.ask(memory, question, options)
    return [
        *results,
        equal("watched", list(answer.ids), until_end(wanted, asked)),
        equal("asked again", list(again.ids), until_end(wanted, asked)),
    ]
