"""Plausible mistakes in VideoChat-Flash outside its tower and its merging, each noticed by a case.

Those within them are in tests/parts/test_umt.py, test_internvideo2.py and test_tome.py. Margins are
largest differences of logits, 16 rows written by the original's ids unless it says otherwise.

B clips or crops, M merged tokens, N visual tokens, S sequence, K rows that stay, H heads, E head
width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake import staged
from longtake.parts import dropping
from longtake.parts.between import Row
from longtake.parts.cache import GrowingCache
from longtake.parts.dropping import Schedule
from longtake.parts.layered import StagedCache
from longtake.parts.qwen2 import Attention, Between, Decoder, Layer, Step
from longtake.parts.ranking import ranking_keys, ranking_queries
from longtake.parts.rope import rotate
from longtake.parts.splice import embed_pieces
from longtake.staged import blocks_of
from longtake.systems import videochat_flash as system_file
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import VisualTokens
from longtake.video.anyres import pad_to_square, squashed_crops
from tests.parity import videochat_flash
from tests.parity.cases import Case, close, load_case
from tests.parity.test_variants import failed
from tests.parity.test_videochat_flash import GOLDEN
from tests.parity.videochat_flash import (
    LOGITS,
    check_answer,
    check_language,
    check_pixels,
    check_vision,
    system_of,
    turns_of,
)
from tests.test_staged import in_stages, notes_of

TWO, ONE = "umt224-video16-drop-uniform0attention", "umt224-video16-drop-attention"
EVEN = "umt224-video12-drop-uniform"
DROPS = (TWO, ONE, EVEN, "umt448-video8-drop", "iv2-video8-drop-uniform0attention")

EXACT = {"ids", "read", "positions", "drops", "kept"}
"""Stages of the language model that are equal or not."""


def golden(name: str) -> Case:
    """A case by its name."""
    return load_case(GOLDEN / f"case-{name}.json")


def stored_tokens(case: Case) -> list[VisualTokens]:
    """What the original's tower, merging and projector made of a video; ours do not run."""
    projected_BMD = case.tensors["projected"]
    clips, tokens, _ = projected_BMD.shape
    return [
        VisualTokens(
            features_ND=projected_BMD.flatten(0, 1),
            counts=(tokens,) * clips,
            seconds=tuple(4.0 * clip for clip in range(clips)),
            span=4,
        )
    ]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model reads the original's visual tokens."""
    monkeypatch.setattr(videochat_flash, "visuals_of", stored_tokens)


# -- dropping, in one piece ----------------------------------------------------------------------


@dataclass(kw_only=True)
class Twin:
    """The drop of one sequence written once more, with room for mistakes; passes without them."""

    decoder: Decoder
    schedule: Schedule
    rows: Sequence[Row]
    mistake: str = ""
    kept: list[list[Tensor]] = field(default_factory=list)
    places: dict[int, Tensor] = field(default_factory=dict)
    """Of each layer a stage begins with: where its rows stand."""

    def __call__(self, layer: int, x_BSD: Tensor, step: Step) -> tuple[Tensor, Step]:
        """In the place of `DropBetween`."""
        reached = layer + 1 + {"early": 1, "late": -1}.get(self.mistake, 0)
        if reached not in self.schedule.layers:
            return x_BSD, step
        if layer + 1 in self.places:
            return x_BSD, self.written(layer + 1, step)
        drop = self.schedule.layers.index(reached)
        stay_K = self.stay(drop, layer + 1, x_BSD[0], step)
        self.kept.append([stay_K])
        self.places[layer + 1] = self.placed(stay_K, step)
        positions_BS = self.places[layer + 1][None]
        return x_BSD[:, stay_K], replace(step, positions_BS=positions_BS)

    def stay(self, drop: int, layer: int, x_SD: Tensor, step: Step) -> Tensor:
        """Rows that stay, by whatever rule the drop has."""
        start, left, stay = self.start, self.left(drop), self.left(drop + 1)
        if self.schedule.is_even(drop):
            floors = [i * left // stay for i in range(stay)]
            spread = [i * (left - 1) // (stay - 1) for i in range(stay)]
            rows_K = torch.tensor(floors if self.mistake == "floor" else spread)
        else:
            looks_S = self.looks(layer, x_SD, step, slice(start, start + left))
            rows_K = looks_S[start : start + left].topk(stay).indices
            rows_K = rows_K if self.mistake == "unsorted" else rows_K.sort().values
        first = 0 if self.mistake == "from the first row" else start
        before, after = torch.arange(first), torch.arange(first + left, len(x_SD))
        return torch.cat([before, rows_K + first, after])

    @property
    def start(self) -> int:
        """Where the video begins."""
        return self.rows[0].blocks[0].start

    def left(self, stage: int) -> int:
        """Rows of the video in a stage."""
        share = self.rows[0].blocks[0].tokens * self.schedule.ratios[stage]
        return round(share) if self.mistake == "rounded" else int(share)

    def placed(self, stay_K: Tensor, step: Step) -> Tensor:
        """Positions of rows that stay."""
        if self.mistake.startswith("old positions"):
            return step.positions_BS[0][stay_K]
        if self.mistake == "anew at the video":
            return torch.cat([torch.arange(self.start), torch.arange(len(stay_K) - self.start)])
        return torch.arange(len(stay_K))

    def written(self, layer: int, step: Step) -> Step:
        """A written token comes behind what its layer holds."""
        behind, held = self.places[layer], cast(GrowingCache, step.cache).get_seq_length(layer)
        if self.mistake == "one clock":
            return step
        place = held if self.mistake.endswith("by length") else int(behind[-1]) + 1
        place += 0 if self.mistake.endswith("by length") else held - len(behind)
        return replace(step, positions_BS=torch.tensor([[place]]))

    def looks(self, layer: int, x_SD: Tensor, step: Step, video: slice) -> Tensor:
        """How much each row is looked at: [S]."""
        block = cast(Layer, self.decoder.layers[layer - (self.mistake == "layer before")])
        own, table = cast(Attention, block.self_attn), self.decoder.table(step, x_SD.dtype)
        x_SD = x_SD if self.mistake == "no norm" else block.input_layernorm(x_SD)
        q, k = (
            proj(x_SD).unflatten(-1, (-1, own.head_dim)).transpose(0, 1)[None]
            for proj in (own.q_proj, own.k_proj)
        )
        if self.mistake != "no rope":
            q, k = rotate(q, table), rotate(k, table)
        groups = q.shape[1] // k.shape[1]
        k_HSE = k[0].repeat_interleave(groups, 0)
        if self.mistake == "heads interleaved":
            k_HSE = k[0].repeat(groups, 1, 1)
        scores_HSS = q[0] @ k_HSE.transpose(1, 2)
        if self.mistake != "no scale":
            scores_HSS /= own.head_dim**0.5
        unseen_SS = torch.ones(len(x_SD), len(x_SD), dtype=torch.bool).triu(1)
        if self.mistake == "video alone":
            unseen_SS[:, : video.start], unseen_SS[:, video.stop :] = True, True
        scores_HSS.masked_fill_(unseen_SS, float("-inf"))
        asking = {
            "all rows": slice(None),
            "question": slice(video.stop, None),
            "last of the video": slice(video.stop - 1, video.stop),
        }.get(self.mistake, slice(-1, None))
        weights_HS = scores_HSS[:, asking].softmax(-1).mean(1)
        return weights_HS.amax(0) if self.mistake == "largest head" else weights_HS.mean(0)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("name", DROPS)
def test_the_twin_without_a_mistake_passes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(videochat_flash, "DropBetween", Twin)
    assert failed(check_language(golden(name))) == {}


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("mistake", "name", "least", "exact"),
    [
        ("old positions", TWO, 7.0, {"positions", "kept"}),
        ("anew at the video", TWO, 6.0, {"positions", "kept"}),
        ("one clock", TWO, 8.0, {"positions"}),
        ("layer before", TWO, 3.0, {"kept"}),
        ("early", TWO, 7.0, {"read", "positions", "kept"}),
        ("late", TWO, 5.5, {"read", "positions", "kept"}),
        ("all rows", TWO, 2.5, {"kept"}),
        ("question", TWO, 2.5, {"kept"}),
        ("last of the video", TWO, 3.5, {"kept"}),
        # in one head a softmax over fewer keys changes no order: the mean over heads tells
        ("video alone", TWO, 1.4, {"kept"}),
        ("largest head", TWO, 1.9, {"kept"}),
        ("unsorted", TWO, 3.5, {"kept"}),
        ("from the first row", TWO, 7.0, {"kept"}),
        ("no norm", TWO, 2.2, {"kept"}),
        ("no rope", TWO, 3.2, {"kept"}),
        ("no scale", TWO, 2.5, {"kept"}),
        ("heads interleaved", TWO, 2.4, {"kept"}),
        ("floor", EVEN, 4.5, {"kept"}),
        ("rounded", EVEN, 3.5, {"read", "positions", "kept"}),  # the other cases divide
    ],
)
def test_a_mistake_in_one_piece_is_noticed(
    monkeypatch: pytest.MonkeyPatch, mistake: str, name: str, least: float, exact: set[str]
) -> None:
    monkeypatch.setattr(videochat_flash, "DropBetween", partial(Twin, mistake=mistake))
    results = check_language(golden(name))
    assert set(failed(results)) & EXACT == exact
    assert next(result.error for result in results if result.stage == "logits") >= least


@pytest.mark.parametrize(
    ("mistake", "name", "stated"),
    [
        ("old positions, written by length", TWO, 23.2),
        ("layer before", ONE, 20.0),
        ("floor", EVEN, 18.3),
    ],
)
@torch.no_grad()
def test_margins_are_those_of_the_readme(mistake: str, name: str, stated: float) -> None:
    """Each row written by the mistake's own ids; 0.05 is the README's rounding."""
    case = golden(name)
    system, decoder = system_of(case), cast(Decoder, system_of(case).model.decoder)
    pieces = system.pieces(case.spec["prompt"], stored_tokens(case))
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    rows, schedule = [Row(len(x_SD), blocks_of(notes_of(pieces).entries, 0))], system.drop
    assert schedule is not None
    between: Between = Twin(decoder=decoder, schedule=schedule, rows=rows, mistake=mistake)
    logits, ids, x_BSD, cache = [], [], x_SD[None], GrowingCache()
    for _ in range(16):
        past = cache.get_seq_length()
        step = Step(positions_BS=torch.arange(past, past + x_BSD.shape[1])[None], cache=cache)
        logits.append(system.model.logits(decoder(x_BSD, step, between)[0, -1]))
        ids.append(int(logits[-1].argmax()))
        x_BSD = system.model.embed(torch.tensor([ids[-1:]]))
    error = float((torch.stack(logits) - case.tensors["step_logits"]).abs().max())
    assert error == pytest.approx(stated, abs=0.06)
    assert ids != case.tensors["generated_ids"].tolist()


# -- dropping, as users get it -------------------------------------------------------------------


def shifted(by: int) -> Callable[[Case], Schedule | None]:
    """The case's schedule, some layers later."""
    right = videochat_flash.schedule_of

    def wrong(case: Case) -> Schedule | None:
        schedule = right(case)
        assert schedule is not None
        return replace(schedule, layers=tuple(layer + by for layer in schedule.layers))

    return wrong


def largest_head(scores_HQN: Tensor) -> Tensor:
    """Instead of the mean."""
    return scores_HQN.softmax(-1).amax((0, 1))


def one_head(scores_HQN: Tensor) -> Tensor:
    """Instead of the mean."""
    return scores_HQN.softmax(-1)[0, 0]


def head_unseen(scores_HQN: Tensor) -> Tensor:
    """The text before the video, 20 tokens in every case, is left out of the softmax."""
    return torch.cat([torch.zeros(20), scores_HQN[..., 20:].softmax(-1).mean((0, 1))])


def floors(left: int, stay: int) -> Tensor:
    """Instead of a linspace."""
    return torch.arange(stay) * left // stay


STAGED: dict[str, tuple[str, float, list[tuple[Any, str, Any]]]] = {
    "early": (TWO, 7.0, [(videochat_flash, "schedule_of", shifted(-1))]),
    "late": (TWO, 5.5, [(videochat_flash, "schedule_of", shifted(1))]),
    "one clock": (TWO, 6.0, [(StagedCache, "shift", lambda self, layer, x, step: (x, step))]),
    "layer before": (
        TWO,
        3.0,
        [
            (staged, "ranking_queries", lambda d, n, *rest: ranking_queries(d, n - 1, *rest)),
            (staged, "ranking_keys", lambda d, n, *rest: ranking_keys(d, n - 1, *rest)),
        ],
    ),
    "largest head": (TWO, 1.9, [(staged, "looks", largest_head)]),
    "one head": (TWO, 2.5, [(staged, "looks", one_head)]),
    "head unseen": ("umt448-video8-drop", 0.8, [(staged, "looks", head_unseen)]),
    "floor": (EVEN, 4.5, [(dropping, "even_rows", floors)]),
    "rounded": (
        EVEN,
        3.5,
        [(Schedule, "counts", lambda self, n: tuple(round(n * r) for r in self.ratios))],
    ),
}
"""Of each mistake: a case, the least difference of logits, and what is put in the place of what."""


def staged_logits(case: Case) -> Tensor:
    """Logits behind a memory and a question, before each of the original's ids."""
    pieces = system_of(case).pieces(case.spec["prompt"], stored_tokens(case))
    return in_stages(system_of(case), pieces, case.tensors["generated_ids"].tolist())[0]


@pytest.mark.parametrize("name", DROPS)
def test_stages_without_a_mistake_pass(name: str) -> None:
    case = golden(name)
    assert close("logits", staged_logits(case), case.tensors["step_logits"], LOGITS).ok


@pytest.mark.parametrize("mistake", STAGED)
def test_a_mistake_in_stages_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    name, least, changes = STAGED[mistake]
    for place, attribute, value in changes:
        monkeypatch.setattr(place, attribute, value)
    tensors, logits = golden(name).tensors, staged_logits(golden(name))
    assert float((logits - tensors["step_logits"]).abs().max()) >= least
    assert logits.argmax(-1).tolist() != tensors["generated_ids"].tolist()


# -- before the language model -------------------------------------------------------------------


def everything(case: Case) -> dict[str, float]:
    """Largest error of every stage that is off."""
    results = [*check_pixels(case), *check_vision(case), *check_language(case)]
    wrong = [result for result in results if not result.ok]
    return {r.stage: max(o.error for o in wrong if o.stage == r.stage) for r in wrong}


@pytest.mark.parametrize("name", ["umt224-video8", "umt224-image-anyres", "umt224-image-multi-pad"])
def test_bilinear_resizing_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = golden(name)
    right = system_of(case)
    bilinear = replace(right.processor, resample=Image.Resampling.BILINEAR)
    monkeypatch.setattr(videochat_flash, "opened", lambda path: replace(right, processor=bilinear))
    found = everything(case)
    assert {"pixels", "features", "sizes", "merged", "projected", "logits"} <= set(found)
    assert found["features"] > 0.25  # the README states 0.31 of a video
    assert found["merged"] > 3.0  # 4.0
    assert found["projected"] > 4.5  # 5.3
    assert found["logits"] > 2.0


def crop_by_crop(system: VideoChatFlash, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
    """All of a crop, then the next one."""
    crops_BMD = system.encode(system.crops(image_CHW, alone)[:, None])
    return of_an_image(crops_BMD.flatten(0, 1))


def base_last(system: VideoChatFlash, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
    """The mosaic, then the whole image."""
    right = SEE_IMAGE(system, image_CHW, alone)
    return of_an_image(right.features_ND.roll(-64, 0))


def of_an_image(features_ND: Tensor) -> VisualTokens:
    """As one entry."""
    return VisualTokens(features_ND=features_ND, counts=(len(features_ND),), seconds=(0.0,))


def rows_for_columns(system: VideoChatFlash, image_CHW: Tensor) -> int:
    """Height taken for width."""
    return COLUMNS(system, image_CHW.transpose(1, 2))


SEE_IMAGE, COLUMNS = VideoChatFlash.see_image, VideoChatFlash.columns
MOSAICS: dict[str, tuple[str, float, str, Any]] = {
    # umt448's mosaic has one column, where both orders are one
    "crop by crop": ("umt224-image-anyres", 3.5, "see_image", crop_by_crop),
    "base last": ("umt224-image-anyres", 4.5, "see_image", base_last),
    "rows for columns": ("umt448-image-anyres", 3.5, "columns", rows_for_columns),
}
"""Of each mistake: a case, the least difference of logits, what is put in the place of what."""


@pytest.mark.parametrize("mistake", MOSAICS)
def test_another_mosaic_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    name, least, attribute, value = MOSAICS[mistake]
    monkeypatch.setattr(VideoChatFlash, attribute, value)
    results = check_language(golden(name))
    # the same tokens in another order, so neither the tower nor merging tells
    assert set(failed(results)) == {"embeddings", "hidden", "logits"}
    assert next(result.error for result in results if result.stage == "logits") >= least


def test_crops_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base last, or the grid column by column, already among the pixels."""
    for name, order in (("umt224-image-anyres", [1, 2, 0]), ("umt448-image-anyres", [0, 2, 1])):

        def wrong(*given: Any, order: list[int] = order) -> Tensor:
            return squashed_crops(*given)[order]

        monkeypatch.setattr(system_file, "squashed_crops", wrong)
        assert {"pixels", "logits"} <= set(everything(golden(name)))


@pytest.mark.parametrize(
    ("colour", "least"), [((0, 0, 0), 9.0), ((255, 255, 255), 9.0), ((124, 116, 104), 0.9)]
)
def test_another_colour_around_images_is_noticed(
    monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int], least: float
) -> None:
    """Black, white, the mean rounded: the original truncates it to (123, 116, 103)."""
    monkeypatch.setattr(system_file, "pad_to_square", lambda image, _: pad_to_square(image, colour))
    found = everything(golden("umt224-image-multi-pad"))
    assert {"pixels", "features", "sizes"} <= set(found)
    assert found["logits"] >= least


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stored")
def test_no_penalty_is_noticed() -> None:
    case = golden("umt224-video8-rep105")
    changed = replace(case, spec=case.spec | {"repetition_penalty": 1.0})
    assert {"answer"} <= set(failed(check_answer(changed)))
    assert failed(check_answer(case)) == {}


@pytest.mark.usefixtures("stored")
def test_a_penalty_on_the_prompt_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a case: both rules write the same there, the chat's too, so the penalty is raised.

    Nothing is written yet when the first token is chosen, so it is the original's at any penalty.
    """
    case = golden("umt224-video8-rep105")
    first = case.tensors["generated_ids"].tolist()[:1]
    system, turn = system_of(case), turns_of(case)[0]
    options = system.options(max_new_tokens=1, repetition_penalty=2.0)
    for counts_prompt in (False, True):
        monkeypatch.setattr(VideoChatFlash, "penalises_prompt", counts_prompt)
        answer = system.complete(turn.prompt, stored_tokens(case), options)
        assert (list(answer.ids) == first) is not counts_prompt
