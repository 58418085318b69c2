"""Stages of LLaVA-OneVision in both layouts, at the tolerances of its golden cases.

A case names a pair of checkpoints: the authors' layout is compared at every stage, that of
transformers at its end.

T frames or crops, P patches, N visual tokens, S sequence, L layers, D width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from longtake.engine import prefill
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.splice import Piece, embed_pieces, flat_ids
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import Frames, VisualTokens
from longtake.video.anyres import image_crops
from tests.parity.cases import Case, StageResult, close, equal
from tests.parity.longva import open_changed

PIXELS = 1e-6
FEATURES = 2e-5
"""Of features, tokens, embeddings and hidden states; RELATIVE of a value comes on top."""
RELATIVE = 1e-4
LOGITS = 2e-4
VIDEO, IMAGE = "video", "image"
SUB = 16
"""Every so many pixels are stored."""
HF_FIELDS = {"image_aspect_ratio": "vision_aspect_ratio"}
"""Fields that transformers calls otherwise; those it has not are not compared with it."""


# -- what a case is -------------------------------------------------------------------------------


def checkpoint_of(case: Case, layout: str) -> Path:
    """The folder of a layout: beside the case, or in the folder of LLaVA-OneVision's cases."""
    name = f"checkpoint-{case.spec['checkpoint']}-{layout}"
    beside = case.path.resolve().parent
    bases = [beside.with_name(beside.name.replace("visual_context_window", "llava_onevision"))]
    for folder in (beside, *bases, beside.with_name("llava_onevision")):
        if (folder / name / "config.json").exists():
            return folder / name
    raise FileNotFoundError(f"{name} is neither in {beside} nor in llava_onevision beside it")


def system_of(case: Case, layout: str = "lmms") -> LlavaOneVision:
    """The case's checkpoint in float32, with the case's fields in place of its config's."""
    changes = dict(case.spec.get("config_overrides") or {})
    if layout == "hf":
        changes = {HF_FIELDS.get(name, name): value for name, value in changes.items()}
    opened = open_changed(checkpoint_of(case, layout), json.dumps(changes, sort_keys=True))
    return cast(LlavaOneVision, opened)


def modalities(case: Case) -> list[str]:
    """What stands at each placeholder."""
    return list(case.spec["modalities"])


def pictures(case: Case, number: int) -> Tensor:
    """Raw pictures at a placeholder: [T, 3, H, W] of a video, [3, H, W] of an image."""
    kind = "frames" if modalities(case)[number] == VIDEO else "image"
    return case.pictures(f"{kind}_u8.{number}")


def frames_of(pictures_TCHW: Tensor) -> Frames:
    """A video of these, a second apart."""
    index_T = torch.arange(len(pictures_TCHW))
    return Frames(pixels_TCHW=pictures_TCHW, seconds_T=index_T.double(), index_T=index_T)


def seen(case: Case, system: LlavaOneVision, number: int, alone: bool = True) -> VisualTokens:
    """All tokens at a placeholder, the way the system makes them.

    The original cuts several images as it cuts one, unless the case's fields say otherwise.
    """
    raw = pictures(case, number)
    if modalities(case)[number] == IMAGE:
        return system.see_image(raw, alone)
    pooled = system.compress(system.see(system.fit(iter([frames_of(raw)]))))
    return VisualTokens.join(list(system.arrange(pooled)))


def visuals_of(case: Case, system: LlavaOneVision, alone: bool = True) -> list[VisualTokens]:
    """What the language model reads of all placeholders."""
    return [seen(case, system, number, alone) for number in range(len(modalities(case)))]


def pixels_of(case: Case, system: LlavaOneVision, number: int) -> Tensor:
    """Normalised pixels [T, 3, h, w] of a video's frames or an image's crops."""
    raw = pictures(case, number)
    if modalities(case)[number] == VIDEO:
        return system.processor(raw)
    config = system.config
    return image_crops(raw, config.aspect, config.pinpoints, system.processor)


def near(stage: str, got: Tensor, want: Tensor) -> StageResult:
    """Compare by FEATURES + RELATIVE * value: differences of large values count for less."""
    if got.shape != want.shape:
        return close(stage, got, want, FEATURES)
    weight = 1.0 + want.abs() * (RELATIVE / FEATURES)
    return close(stage, got / weight, want / weight, FEATURES)


# -- stages ---------------------------------------------------------------------------------------


def check_pixels(case: Case) -> list[StageResult]:
    """Resized bytes, and what is made of them on a grid of samples."""
    system, results = system_of(case), []
    for number in range(len(modalities(case))):
        ours = pixels_of(case, system, number)
        bytes_TCHW = case.pictures(f"resized_u8.{number}")
        values = (ours[: len(bytes_TCHW)] * 127.5 + 127.5).round()
        sampled = case.tensors[f"pixel_values_sub.{number}"]
        results += [
            equal("shape", list(ours.shape), case.spec["pixel_values_shape"][number]),
            close("resized", values, bytes_TCHW.float(), 0.0),
            close("pixels", ours[..., ::SUB, ::SUB], sampled, PIXELS),
        ]
    return results


@torch.no_grad()
def check_vision(case: Case) -> list[StageResult]:
    """Tower, projector and, of videos, pooling."""
    system, tensors, results = system_of(case), case.tensors, []
    for number, kind in enumerate(modalities(case)):
        pixels_TCHW = pixels_of(case, system, number)
        features, projected = (
            tensors[f"{name}.{number}"] for name in ("vision_features", "projected")
        )
        looked_TPD = system.model.look(pixels_TCHW[: len(features)])
        results += [
            near("features", looked_TPD, features),
            near("projected", system.model.project(looked_TPD), projected),
        ]
        if kind == VIDEO:
            fitted = system.fit(iter([frames_of(pictures(case, number))]))
            pooled = VisualTokens.join(list(system.compress(system.see(fitted))))
            theirs = tensors[f"pooled.{number}"]
            results += [
                equal("counts", list(pooled.counts), [theirs.shape[1]] * len(theirs)),
                near("pooled", pooled.features_ND, theirs.flatten(0, 1)),
            ]
    return results


def joined(system: LlavaOneVision, pieces: list[Piece]) -> Tensor:
    """Embeddings of a prompt: [S, D]."""
    return torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))


def spans_of(pieces: list[Piece]) -> list[list[int]]:
    """Placeholder's place among the ids, first embedding and length of each visual."""
    spans, place = [], 0
    for number, piece in enumerate(pieces):
        length = len(piece.features_ND) if isinstance(piece, VisualTokens) else len(piece)
        if isinstance(piece, VisualTokens):
            spans.append([len(flat_ids(pieces[:number])), place, length])
        place += length
    return spans


@torch.no_grad()
def last_hidden(system: LlavaOneVision, x_SD: Tensor) -> Tensor:
    """What each layer makes of the last position, the last one normed: [L + 1, D]."""
    decoder = cast(Decoder, system.model.decoder)
    rows = [x_SD[-1]]
    hooks = [
        layer.register_forward_hook(lambda module, given, out: rows.append(out[0, -1]))
        for layer in decoder.layers
    ]
    features_BSD = decoder(x_SD[None], Step(positions_BS=torch.arange(len(x_SD))[None]))
    for hook in hooks:
        hook.remove()
    return torch.stack([*rows[:-1], features_BSD[0, -1]])


@torch.no_grad()
def check_language(case: Case) -> list[StageResult]:
    """Ids, embeddings, hidden states of every layer, logits."""
    system, spec, tensors = system_of(case), case.spec, case.tensors
    pieces = system.pieces(spec["prompt_lmms"], visuals_of(case, system))
    x_SD = joined(system, pieces)
    logits_SV = system.model(inputs_embeds=x_SD[None]).logits[0]
    # a sequence that is too short fails by its length, not by an index
    places = [place for place in tensors["logits_sub_positions"].tolist() if place < len(x_SD)]
    fields = ("placeholder_index", "embed_start", "embed_length")
    wanted = [[item[field] for field in fields] for item in spec["visual_items"]]
    return [
        equal("ids", flat_ids(pieces), tensors["input_ids"].tolist()),
        equal("spans", spans_of(pieces), wanted),
        equal("length", [len(x_SD)], [spec["sequence_length"]]),
        near("embeddings", x_SD, tensors["inputs_embeds"]),
        near("hidden", last_hidden(system, x_SD), tensors["hidden_after_layer_last_pos"]),
        close("last", logits_SV[-1], tensors["logits_last"], LOGITS),
        close("sub", logits_SV[places], tensors["logits_sub"], LOGITS),
    ]


def check_answer(case: Case) -> list[StageResult]:
    """Greedy ids, with the checkpoint's repetition penalty and without one."""
    system, tensors = system_of(case), case.tensors
    visuals, results = visuals_of(case, system), []
    runs: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("answer", "generated_ids", {"repetition_penalty": 1.0}),
        ("penalised", "generated_ids_rp105", {}),
    )
    for stage, name, overrides in runs:
        wanted = tensors[name].tolist()
        options = system.options(max_new_tokens=len(wanted), **overrides)
        answer = system.complete(case.spec["prompt_lmms"], visuals, options)
        results.append(equal(stage, list(answer.ids), until_end(wanted, system)))
    text = system.text(tensors["generated_ids"].tolist())
    return [*results, equal("text", [text.strip()], [case.spec["text"].strip()])]


def until_end(ids: list[int], system: LlavaOneVision) -> list[int]:
    """Ids up to the first that ends an answer; the original wrote on behind it."""
    ends = [place for place, token in enumerate(ids) if token in system.end_ids]
    return ids[: ends[0] + 1] if ends else ids


def check_watched(case: Case) -> list[StageResult]:
    """Where the prompt is what `watch` and `ask` make of a question: as users get it."""
    system, prompt = system_of(case), str(case.spec["prompt_lmms"])
    template, lead = system.template, "<image>\n"
    begins, ends = template.head() + lead, template.end + template.assistant
    question = prompt.removeprefix(begins).removesuffix(ends)
    if prompt != begins + question + ends or template.end in question:
        return []
    raw = pictures(case, 0)
    source = frames_of(raw) if modalities(case)[0] == VIDEO else raw
    memory = system.watch(source, max_frames=len(raw))
    wanted = case.tensors["generated_ids"].tolist()
    options = system.options(max_new_tokens=len(wanted), repetition_penalty=1.0)
    answer = system.ask(memory, question, options)
    return [equal("watched", list(answer.ids), until_end(wanted, system))]


# -- the layout of transformers -------------------------------------------------------------------


@torch.no_grad()
def check_transformers(case: Case) -> list[StageResult]:
    """Ids, logits over all rows and greedy ids of the same weights in the other layout."""
    if not case.spec["hf"]["available"]:
        return []
    system = system_of(case, "hf")
    # transformers pads each of several images by itself
    alone = modalities(case).count(IMAGE) == 1
    visuals = visuals_of(case, system, alone)
    chat = str(case.spec["hf"]["prompt_hf_chat_template"]).replace("<video>", "<image>")
    return [
        *compare_hf(case, system, visuals, case.spec["prompt_lmms"], "hf"),
        *compare_hf(case, system, visuals, chat, "hf_chat"),
    ]


def compare_hf(
    case: Case, system: LlavaOneVision, visuals: list[VisualTokens], prompt: str, name: str
) -> list[StageResult]:
    """One prompt in the layout of transformers."""
    tensors, words = case.tensors, name.replace("_", " ")
    pieces = system.pieces(prompt, visuals)
    last_D = prefill(system.model, iter([joined(system, pieces)]), system.model.new_cache())
    wanted = tensors[f"{name}_generated_ids"].tolist()
    options = system.options(max_new_tokens=len(wanted))
    answer = system.complete(prompt, visuals, options)
    ids = expanded(pieces, modalities(case), system.folder.config)
    return [
        equal(f"{words} ids", ids, tensors[f"{name}_input_ids"].tolist()),
        close(f"{words} last", system.model.logits(last_D), tensors[f"{name}_logits_last"], LOGITS),
        equal(f"{words} answer", list(answer.ids), until_end(wanted, system)),
    ]


def expanded(pieces: list[Piece], kinds: list[str], config: Mapping[str, Any]) -> list[int]:
    """Ids as transformers holds them: one image or video token for each visual token."""
    token = {kind: config[f"{kind}_token_index"] for kind in (IMAGE, VIDEO)}
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, VisualTokens):
            ids += [token[kinds[piece.visual]]] * len(piece.features_ND)
        else:
            ids += piece
    return ids
