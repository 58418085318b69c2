"""Stages of LongVA from the tower to the answer, at the tolerances of the golden cases.

T frames, P patches, S sequence, N visual tokens, D width, A tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import json
import math
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.engine import prefill, write
from longtake.folder import pick_device, read_json
from longtake.parts.pooling import grid_pool
from longtake.parts.qwen2 import Step
from longtake.parts.splice import Piece, embed_pieces, flat_ids
from longtake.system import System
from longtake.systems import open_system
from longtake.types import Frames, Options, VisualTokens
from tests.parity.cases import Case, StageResult, close, equal
from tests.parity.pixels import haystack_pixels, pixels_of
from tests.remembering import remembering

FEATURES = 5e-5
"""Of features, visual tokens and embeddings; an independent implementation measured 5e-6."""
LOGITS = 2e-4
"""Of logits; an independent implementation measured 1.8e-5."""

CONFIG_FIELDS = ("mm_", "image_", "rope_", "tokenizer_")
"""Options that stand in for fields of config.json; others say how the case was run."""


def system_of(case: Case) -> System:
    """Load the case's checkpoint in float32, with the case's options in place of its config's."""
    config = read_json(case.checkpoint / "config.json")
    changes = {
        field: value
        for field, value in case.spec["options"].items()
        if field.startswith(CONFIG_FIELDS) and value != config.get(field)
    }
    if changes.get("rope_theta", 0) is None:
        del changes["rope_theta"]  # "no override", not a theta of None
    return open_changed(case.checkpoint.resolve(), json.dumps(changes, sort_keys=True))


@lru_cache(maxsize=2)
def open_changed(checkpoint: Path, changes: str) -> System:
    """Load a checkpoint in float32 as if its config.json had these changes (a JSON object)."""
    device = pick_device("cpu")
    if changes == "{}":
        return remembering(open_system(checkpoint, device=device, dtype=torch.float32))
    config = read_json(checkpoint / "config.json") | json.loads(changes)
    with tempfile.TemporaryDirectory() as changed:
        for path in checkpoint.iterdir():
            if path.name != "config.json":
                (Path(changed) / path.name).symlink_to(path)
        (Path(changed) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return remembering(open_system(Path(changed), device=device, dtype=torch.float32))


def visuals_of(case: Case, system: System) -> list[VisualTokens]:
    """Watch the visual entries of a case the way the system does."""
    visuals: list[VisualTokens] = []
    for pictures in case.visuals():
        if pictures.ndim == 3:
            visuals.append(system.see_image(pictures))
            continue
        index_T = torch.arange(len(pictures))
        frames = Frames(pixels_TCHW=pictures, seconds_T=index_T.double(), index_T=index_T)
        tokens = system.compress(system.see(system.fit(iter([frames]))))
        visuals.append(VisualTokens.join(list(tokens)))
    return visuals


@torch.no_grad()
def check_vision(case: Case) -> list[StageResult]:
    """Tower and visual tokens of a `generate` case; nothing for one of text alone."""
    if not case.spec.get("entries"):
        return []
    system = system_of(case)
    features_TPD = torch.cat([system.model.look(pixels) for pixels in pixels_of(case)])
    tokens_ND = torch.cat([visual.features_ND for visual in visuals_of(case, system)])
    return [
        close("features", features_TPD, case.tensors["vision_features"], FEATURES),
        close("tokens", tokens_ND, case.tensors["visual_tokens"], FEATURES),
    ]


@torch.no_grad()
def check_language(case: Case) -> list[StageResult]:
    """Prompt ids, spliced embeddings and logits of a `generate` case."""
    system = system_of(case)
    pieces = system.pieces(case.spec["prompt"], visuals_of(case, system))
    embeddings_SD = _embeddings(system, pieces)
    results = [
        equal("ids", flat_ids(pieces), case.tensors["input_ids"].tolist()),
        equal("spans", _spans(pieces), case.spec.get("visual_spans") or []),
        equal(
            "length",
            [len(embeddings_SD)],
            [case.spec.get("full_len_before_truncation", case.spec["seq_len"])],
        ),
    ]
    kept_SD = _cut(case, embeddings_SD)
    last_D = prefill(system.model, iter([kept_SD]), system.model.new_cache())
    whole_SV = system.model(inputs_embeds=kept_SD[None]).logits[0]
    probe = whole_SV[case.spec["logits_probe_positions"]]
    return [
        *results,
        close("embeddings", kept_SD, case.tensors["inputs_embeds"], FEATURES),
        close("last", system.model.logits(last_D), case.tensors["logits_last"], LOGITS),
        close("probe", probe, case.tensors["logits_probe"], LOGITS),
    ]


def check_answer(case: Case) -> list[StageResult]:
    """Greedy answer of a `generate` case: the published text, its ids, and those unpenalised."""
    system = system_of(case)
    visuals = visuals_of(case, system)
    length = case.spec["generate_kwargs"]["max_new_tokens"]
    ids = []
    for overrides in ({}, {"repetition_penalty": 1.0}):
        options = system.options(max_new_tokens=length, **overrides)
        if _is_cut(case):
            embeddings_SD = _embeddings(system, system.pieces(case.spec["prompt"], visuals))
            ids.append(_continue(system, _cut(case, embeddings_SD), options))
        else:
            ids.append(list(system.complete(case.spec["prompt"], visuals, options).ids))
    return [
        equal("answer", ids[0], case.tensors["generated_ids"].tolist()),
        equal("no penalty", ids[1], case.tensors["generated_ids_penalty_off"].tolist()),
        equal("text", [system.text(ids[0]).strip()], [case.spec["generated_text_stripped"]]),
    ]


def _continue(system: System, embeddings_SD: Tensor, options: Options) -> list[int]:
    """Write greedily after embeddings that no whole prompt stands for."""
    cache = system.model.new_cache()
    last_D = prefill(system.model, iter([embeddings_SD]), cache)
    written = write(
        system.model, last_D, cache, options, end_ids=system.end_ids, decode=system.text
    )
    return written.ids


def _is_cut(case: Case) -> bool:
    return bool(case.spec.get("full_len_before_truncation", 0) > case.spec["seq_len"])


def _cut(case: Case, embeddings_SD: Tensor) -> Tensor:
    # the original cuts what exceeds tokenizer_model_max_length, the question with it; we refuse to
    return embeddings_SD[: case.spec["seq_len"]]


def _embeddings(system: System, pieces: list[Piece]) -> Tensor:
    return torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))


def _spans(pieces: list[Piece]) -> list[list[int]]:
    spans, place = [], 0
    for piece in pieces:
        if isinstance(piece, VisualTokens):
            spans.append([place, place + len(piece.features_ND)])
            place += len(piece.features_ND)
        else:
            place += len(piece)
    return spans


@torch.no_grad()
def check_haystack(case: Case) -> list[StageResult]:
    """V-NIAH: embeddings of frames and needles, every cell's logits, decisions and scores."""
    system, spec, tensors = system_of(case), case.spec, case.tensors
    haystack_TPD, needles_NPD = (
        grid_pool(system.encode(pixels_TCHW), spec["options"]["pooling_size"])
        for pixels_TCHW in haystack_pixels(case)
    )
    logits = torch.full_like(tensors["answer_logits"], math.nan)
    prompts: list[list[Tensor]] = []
    for row, cell in enumerate(spec["cells"]):
        before_TPD = haystack_TPD[: cell["query_frame_idx"]]
        after_TPD = haystack_TPD[cell["query_frame_idx"] : cell["num_frames"]]
        prompts.append([])
        for needle, needle_PD in enumerate(needles_NPD):
            visual_ND = torch.cat([before_TPD, needle_PD[None], after_TPD]).flatten(0, 1)
            prompt_SD = _haystack_prompt(system, spec, visual_ND, spec["questions"][needle])
            answer = system.tokens(spec["answers"][needle])
            logits[row, needle, : len(answer)] = _teacher_forced(system, prompt_SD, answer)
            prompts[-1].append(prompt_SD)
    middle = len(prompts) // 2
    return [
        close("haystack tokens", haystack_TPD, tensors["haystack_embeddings"], FEATURES),
        close("needle tokens", needles_NPD, tensors["needle_embeddings"], FEATURES),
        close("first prompt", prompts[0][0], tensors["prompt_embeds_first_q0"], FEATURES),
        close("middle prompt", prompts[middle][0], tensors["prompt_embeds_mid_q0"], FEATURES),
        close("last prompt", prompts[-1][0], tensors["prompt_embeds_last_q0"], FEATURES),
        *_haystack_logits(logits, tensors["answer_logits"]),
        *_haystack_scores(system, spec, logits),
    ]


def _haystack_prompt(
    system: System, spec: dict[str, Any], visual_ND: Tensor, question: str
) -> Tensor:
    before_SD = system.embed_text(spec["preprompt"])
    question_SD, after_SD = system.embed_text(question), system.embed_text(spec["postprompt"])
    return torch.cat([before_SD, visual_ND, question_SD, after_SD])


def _teacher_forced(system: System, prompt_SD: Tensor, answer: tuple[int, ...]) -> Tensor:
    """Logits [A, V] of the positions that predict an answer, over all rows of the head."""
    model = system.model
    x_BSD = torch.cat([prompt_SD, model.embed(torch.tensor(answer))])[None]
    step = Step(positions_BS=torch.arange(x_BSD.shape[1])[None])
    features_SD = model.decoder(x_BSD, step)[0]
    # this script of the original keeps the padding rows that `usable_vocab` leaves out
    return F.linear(features_SD[len(prompt_SD) - 1 : -1], model.lm_head.weight)


def _haystack_logits(ours: Tensor, theirs: Tensor) -> list[StageResult]:
    there = ~theirs.isnan()
    return [
        equal("answer lengths", ours.isnan().flatten().tolist(), (~there).flatten().tolist()),
        close("answer logits", ours[there], theirs[there], LOGITS),
    ]


def _haystack_scores(system: System, spec: dict[str, Any], logits: Tensor) -> list[StageResult]:
    """Right is an answer all of whose tokens win; a cell scores its share of right answers."""
    answers = [list(system.tokens(answer)) for answer in spec["answers"]]
    predicted = [
        [row[: len(answer)].argmax(-1).tolist() for row, answer in zip(cell, answers, strict=True)]
        for cell in logits
    ]
    right = [
        [int(ids == answer) for ids, answer in zip(cell, answers, strict=True)]
        for cell in predicted
    ]
    scores = [sum(cell) / len(cell) for cell in right]
    return [
        equal("answer ids", answers, spec["answer_ids"]),
        equal("predicted", predicted, [cell["pred_ids"] for cell in spec["cells"]]),
        equal("right", right, [cell["correct"] for cell in spec["cells"]]),
        equal("scores", scores, [cell["Score"] for cell in spec["all_accuracies"]]),
        equal("average", [sum(scores) / len(scores)], [spec["average_accuracy"]]),
    ]
