"""VideoChat-Flash's tables: which frames, which grids, which token ids. All must be equal."""

from __future__ import annotations

from typing import Any

import torch

from longtake.errors import LongtakeError
from longtake.folder import load_tokenizer
from longtake.parts.chat import QWEN_1_5
from longtake.parts.splice import flat_ids, pieces_of
from longtake.train.hico import expand, said, tokens_of
from longtake.types import VisualTokens
from longtake.video.anyres import best_resolution
from longtake.video.sample import Footage, PerSecond, part_of
from tests.parity.cases import Case, StageResult, equal
from tests.parity.videochat_flash import time_message


def check_sampling_table(case: Case) -> list[StageResult]:
    """Indices, duration and message of every row; where the original raises, so must this."""
    rows: list[dict[str, Any]] = case.spec["rows"]
    ours = [sampled(row) for row in rows]
    wanted = [
        None if "error" in row else (row["indices"], row["duration"], row["message"].strip())
        for row in rows
    ]
    return [equal("rows", ours, wanted)]


def sampled(row: dict[str, Any]) -> tuple[list[int], float, str] | None:
    """What the rule makes of one row; None if it refuses."""
    rule = PerSecond(group=row["local_num_frames"], least=row["min_num_frames"])
    try:
        part = part_of(
            Footage(frames=row["vlen"], fps=row["fps"]), *(row.get("clip") or (None, None))
        )
        # the original overrides whoever wants fewer than its least
        chosen = rule(part, max(row["max_num_frames"], row["min_num_frames"]))
    except LongtakeError:
        return None
    return chosen, part.seconds, time_message(part.seconds, len(chosen))


def check_anyres_table(case: Case) -> list[StageResult]:
    """The grid of every size."""
    rows: list[dict[str, Any]] = case.spec["rows"]
    ours = []
    for row in rows:
        tile = row["tile"]
        grids = [(tile * i, tile * j) for i in range(1, 7) for j in range(1, 7)]
        chosen = best_resolution((row["width"], row["height"]), grids)
        ours.append([list(chosen), [chosen[0] // tile, chosen[1] // tile]])
    return [equal("rows", ours, [[row["best_resolution_wh"], row["grid_wh"]] for row in rows])]


def check_text_table(case: Case) -> list[StageResult]:
    """Ids of prompts, and expanded conversations, ids and labels of training."""
    folder = next(case.path.parent.glob("*/tokenizer_config.json")).parent
    tokenizer = load_tokenizer(folder)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    results = []
    for row in case.spec["rows"]["prompts"]:
        history = [words for _, words in row["history"] or []]
        turns = list(zip(history[::2], history[1::2], strict=True))
        prompt = QWEN_1_5.prompt(row["user"], turns)
        visuals = [no_tokens()] * prompt.count("<image>")
        ids = flat_ids(pieces_of(prompt, visuals, encode))
        results += [
            equal("prompt", [prompt], [row["prompt"]]),
            equal("prompt ids", ids, row["input_ids"]),
        ]
    for row in case.spec["rows"]["train"]:
        expanded = expand([said(one) for one in row["conversations"]], row["time_msg"])
        tokens = tokens_of(expanded, tokenizer)
        results += [
            equal("expanded", expanded, [said(one) for one in row["expanded"]]),
            equal("ids", list(tokens.ids), row["input_ids"]),
            equal("labels", list(tokens.labels), row["labels"]),
        ]
    return results


def no_tokens() -> VisualTokens:
    """A stand-in for a visual."""
    return VisualTokens(features_ND=torch.zeros(0, 1), counts=(), seconds=())
