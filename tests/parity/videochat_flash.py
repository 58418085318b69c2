"""Stages of VideoChat-Flash from frames to answer, at the tolerances of its golden cases.

T frames, B clips or crops, F frames of a clip, N tokens of a clip, S sequence, L layers, D width, V
vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from longtake.folder import pick_device
from longtake.parts.between import DropBetween, Row
from longtake.parts.cache import GrowingCache
from longtake.parts.dropping import Schedule
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.splice import embed_pieces, flat_ids
from longtake.staged import blocks_of
from longtake.systems import open_system
from longtake.systems.videochat_flash import VideoChatFlash, time_message
from longtake.types import Frames, Memory, VisualTokens
from longtake.video.clips import in_clips
from longtake.video.sample import Footage, part_of
from tests.parity.cases import Case, StageResult, close, equal, worst
from tests.remembering import remembering

PIXELS = 1e-6
FEATURES = 1e-4
"""Of tower features, merged and projected tokens, embeddings, hidden states."""
LOGITS = 3e-4
VIDEO, IMAGE = "video", "image"


@lru_cache(maxsize=3)
def opened(checkpoint: Path) -> VideoChatFlash:
    """The checkpoint in float32."""
    system = open_system(checkpoint, device=pick_device("cpu"), dtype=torch.float32)
    return remembering(cast(VideoChatFlash, system))


def schedule_of(case: Case) -> Schedule | None:
    """The case's video-level compression; null is off whatever config.json says."""
    said = case.spec["llm_compress"]
    if said is None:
        return None
    return Schedule(kind=said["type"], layers=tuple(said["layers"]), ratios=tuple(said["ratios"]))


def system_of(case: Case) -> VideoChatFlash:
    """The case's checkpoint with the case's compression."""
    return replace(opened(case.checkpoint.resolve()), drop=schedule_of(case))


def modalities(case: Case) -> list[str]:
    """What stands at each placeholder."""
    return list(case.spec.get("modalities", [VIDEO]))


def frames_of(case: Case, name: str = "frames_u8") -> Frames:
    """Frames of a case, those that were sampled where it says so; a second apart."""
    pictures = case.pictures(name)
    if "frame_indices" in case.tensors:
        pictures = pictures[case.tensors["frame_indices"]]
    index_T = torch.arange(len(pictures))
    return Frames(pixels_TCHW=pictures, seconds_T=index_T.double(), index_T=index_T)


def sources(case: Case) -> list[tuple[str, Tensor | Frames]]:
    """Raw pictures behind each placeholder, with what they are."""
    found: list[tuple[str, Tensor | Frames]] = []
    videos = sorted(name for name in case.tensors if re.fullmatch(r"frames\d*_u8", name))
    for number, kind in enumerate(modalities(case)):
        if kind == VIDEO:
            found.append((kind, frames_of(case, videos.pop(0))))
        else:
            found.append((kind, case.pictures(f"image{number}_u8")))
    return found


def crops_alone(case: Case) -> bool:
    """Whether images are cut into a mosaic rather than padded."""
    return str(case.spec.get("image_mode", "anyres_nopad")) == "anyres_nopad"


def pixels_of(case: Case) -> list[Tensor]:
    """Pixels of each placeholder: clips [B, F, 3, h, w] of a video, crops [B, 1, 3, h, w]."""
    system, found = system_of(case), []
    for kind, raw in sources(case):
        if kind == IMAGE:
            found.append(system.crops(cast(Tensor, raw), crops_alone(case))[:, None])
            continue
        fitted = system.fit(iter([cast(Frames, raw)]))
        clips = [bytes_BFCHW for bytes_BFCHW, _ in in_clips(fitted, 4)]
        flat = system.processor.normalise(torch.cat(clips).flatten(0, 1))
        found.append(flat.unflatten(0, (-1, 4)))
    return found


def visuals_of(case: Case) -> list[VisualTokens]:
    """What the language model reads, the way the system makes it."""
    system, found = system_of(case), []
    for kind, raw in sources(case):
        if kind == IMAGE:
            found.append(system.see_image(cast(Tensor, raw), crops_alone(case)))
            continue
        stream = system.see(system.fit(iter([cast(Frames, raw)])))
        found.append(VisualTokens.join(list(system.compress(stream))))
    return found


def named(tensors: dict[str, Tensor], stem: str, number: int, count: int) -> Tensor | None:
    """A tensor of one placeholder: numbered where there are several."""
    return tensors.get(stem if count == 1 and stem in tensors else stem_of(stem, number))


def stem_of(stem: str, number: int) -> str:
    """`pixel_values_strided` of placeholder 1 is `pixel_values_1_strided`."""
    for tail in ("_strided", "_sub"):
        if stem.endswith(tail):
            return f"{stem.removesuffix(tail)}_{number}{tail}"
    return f"{stem}_{number}"


def check_sampling(case: Case) -> list[StageResult]:
    """Indices of a chat's video; nothing of another case."""
    if case.kind != "chat":
        return []
    spec = case.spec
    footage = Footage(frames=spec["vlen"], fps=spec["fps"])
    part = part_of(footage, *(spec["clip"] or (None, None)))
    chosen = list(system_of(case).sample(part, max(64, spec["max_num_frames"])))
    return [equal("sampled", chosen, case.tensors["frame_indices"].tolist())]


def check_pixels(case: Case) -> list[StageResult]:
    """Preprocessed pixels on a grid, and the whole first frame where it is there."""
    results, pixels = [], pixels_of(case)
    for number, ours in enumerate(pixels):
        flat, step = ours.flatten(0, 1), ours.shape[-1] // 32
        theirs = named(case.tensors, "pixel_values_strided", number, len(pixels))
        if theirs is None:
            continue
        if case.kind == "chat":
            flat, step = flat[::8], 14
        results.append(close("pixels", flat[..., ::step, ::step], theirs, PIXELS))
    first = pixels[0].flatten(0, 1)[0]
    for name, part in (("frame0", first), ("frame0_even", first[:, ::2, ::2])):
        if (theirs := case.tensors.get(f"pixel_values_{name}")) is not None:
            results.append(close(name, part, theirs, PIXELS))
    return results


@torch.no_grad()
def check_vision(case: Case) -> list[StageResult]:
    """Tower features, merged tokens and their sizes, projected tokens."""
    system, tensors, pixels = system_of(case), case.tensors, pixels_of(case)
    looked = [system.model.look(part) for part in pixels]
    results = check_features(case, looked)
    for number, part in enumerate(pixels):
        merged = system.merge(part)
        projected = system.model.project(merged.features_BMD)
        sizes = named(tensors, "tome_sizes", number, len(pixels))
        if sizes is not None:
            ours = merged.sizes_BM.int().flatten().tolist()
            results.append(equal("sizes", ours, sizes.int().flatten().tolist()))
        if (tokens := named(tensors, "tome_tokens", number, len(pixels))) is not None:
            results.append(close("merged", merged.features_BMD, tokens, FEATURES))
        if (theirs := named(tensors, "projected", number, len(pixels))) is not None:
            results.append(close("projected", projected, theirs, FEATURES))
        elif "projected_sub" in tensors:
            results.append(
                close("projected", projected[:, ::8], tensors["projected_sub"], FEATURES)
            )
    return results


def check_features(case: Case, looked: list[Tensor]) -> list[StageResult]:
    """Tower features in the order of the original's calls: all images, then all videos."""
    kinds, tensors = modalities(case), case.tensors
    calls = []
    for kind in (IMAGE, VIDEO):
        parts = [part for part, is_kind in zip(looked, kinds, strict=True) if is_kind == kind]
        calls += [torch.cat(parts)] if parts else []
    results = []
    for number, ours in enumerate(calls):
        whole = named(tensors, "vision_features", number, len(calls))
        some = named(tensors, "vision_features_sub", number, len(calls))
        stride = case.spec.get("vision_sub_stride") or (49 if ours.shape[1] % 49 == 0 else 64)
        if whole is not None:
            results.append(close("features", ours, whole, FEATURES))
        if some is not None:
            results.append(close("features", ours[:, ::stride], some, FEATURES))
    return results


@dataclass(frozen=True)
class Turn:
    """One prompt of a case and what came of it."""

    prompt: str
    tensors: dict[str, Tensor]
    """By their names without the turn's number."""
    text: str | None
    """What was answered."""


def turns_of(case: Case) -> list[Turn]:
    """The prompt of a case, or each of a chat's."""
    if case.kind != "chat":
        return [Turn(case.spec["prompt"], case.tensors, case.spec.get("generated_text"))]
    spec, system = case.spec, system_of(case)
    footage = Footage(frames=spec["vlen"], fps=spec["fps"])
    part = part_of(footage, *(spec["clip"] or (None, None)))
    message = time_message(part.seconds, spec["n_sampled"])
    turns, history = [], []
    for number, said in enumerate(spec["turns"]):
        question = said["question"]
        if not number:
            question = f"<image>\n{message} {question}"
        start = f"turn{number}_"
        tensors = {
            name.removeprefix(start): tensor
            for name, tensor in case.tensors.items()
            if name.startswith(start)
        }
        turns.append(Turn(system.template.prompt(question, history), tensors, said["output_text"]))
        history.append((question, said["output_text"]))
    return turns


@torch.no_grad()
def check_language(case: Case) -> list[StageResult]:
    """Ids, embeddings, hidden states of every layer, drops, logits: read at once."""
    return [result for turn in turns_of(case) for result in check_turn(case, turn)]


def check_turn(case: Case, turn: Turn) -> list[StageResult]:
    """One prompt read in one piece, with the decoder's `between=`, and written by its ids."""
    system, tensors = system_of(case), turn.tensors
    pieces = system.pieces(turn.prompt, visuals_of(case))
    x_SD = torch.cat(list(embed_pieces(pieces, system.model.embed, system.model.device)))
    results = [equal("ids", flat_ids(pieces), tensors["input_ids"].tolist())]
    if "inputs_embeds" in tensors:
        results.append(close("embeddings", x_SD, tensors["inputs_embeds"], FEATURES))
    if "inputs_embeds_sub" in tensors:
        results.append(close("embeddings", x_SD[::16], tensors["inputs_embeds_sub"], FEATURES))
    done = one_shot(system, pieces, x_SD, tensors["generated_ids"].tolist())
    results += [
        equal("read", done.lengths, tensors["prefill_len_per_layer"].tolist()),
        close("hidden", done.last_LD, tensors["prefill_hidden_last"], FEATURES),
        close("logits", done.logits, tensors["step_logits"], LOGITS),
        equal("positions", done.positions, tensors["decode_positions"].tolist()),
    ]
    kept = [name for name in tensors if re.fullmatch(r"drop\d+_keep", name)]
    results.append(equal("drops", [len(done.kept)], [len(kept)]))
    for number, ours in enumerate(done.kept):
        results.append(equal("kept", ours.tolist(), tensors[f"drop{number}_keep"].tolist()))
    return results


@dataclass(frozen=True)
class Run:
    """What one reading in one piece gives."""

    lengths: list[int]
    """Tokens each layer read."""
    last_LD: Tensor
    """What each layer made of the last token."""
    kept: list[Tensor]
    """Rows that stayed in each drop."""
    logits: Tensor
    positions: list[list[int]]
    """Of each written token in each layer."""


def one_shot(system: VideoChatFlash, pieces: list[Any], x_SD: Tensor, written: list[int]) -> Run:
    """Read embeddings at once and write the given ids."""
    decoder, cache = cast(Decoder, system.model.decoder), GrowingCache()
    notes = _notes(pieces)
    between = None
    if system.drop is not None:
        row = Row(len(x_SD), blocks_of(notes, 0))
        between = DropBetween(decoder=decoder, schedule=system.drop, rows=[row])
    lengths: list[int] = []
    last: list[Tensor] = []
    places: list[list[int]] = []

    def noted(module: Any, given: Any, out: Tensor) -> None:
        places[-1].append(int(given[1].positions_BS[0, -1]))
        if len(places) == 1:
            lengths.append(out.shape[1])
            last.append(out[0, -1])

    hooks = [layer.register_forward_hook(noted) for layer in decoder.layers]
    logits, x_BSD = [], x_SD[None]
    for token in written:
        places.append([])
        past = cache.get_seq_length()
        positions = torch.arange(past, past + x_BSD.shape[1])[None]
        out = decoder(x_BSD, Step(positions_BS=positions, cache=cache), between)
        logits.append(system.model.logits(out[0, -1]))
        x_BSD = system.model.embed(torch.tensor([[token]]))
    for hook in hooks:
        hook.remove()
    kept = [] if between is None else [rows[0] for rows in between.kept]
    return Run(lengths, torch.stack(last), kept, torch.stack(logits), places[1:])


def _notes(pieces: list[Any]) -> list[Any]:
    from longtake.engine import Notes

    notes = Notes()
    list(notes.of(iter(pieces), 0))
    return notes.entries


@torch.no_grad()
def check_answer(case: Case) -> list[StageResult]:
    """Greedy ids as users get them: a memory of all up to the last visual, then a question."""
    system, results = system_of(case), []
    for turn in turns_of(case):
        wanted = turn.tensors["generated_ids"].tolist()
        penalty = float(case.spec["repetition_penalty"])
        options = system.options(max_new_tokens=len(wanted), repetition_penalty=penalty)
        answer = system.complete(turn.prompt, visuals_of(case), options)
        results.append(equal("answer", list(answer.ids), wanted))
        if turn.text is not None:
            ours = system.text(wanted).strip()
            results.append(equal("text", [ours], [turn.text.strip()]))
    return results


def check_watched(case: Case) -> list[StageResult]:
    """A chat as users have it: watched once, every turn asked of the memory."""
    if case.kind != "chat":
        return []
    system, spec = system_of(case), case.spec
    pictures = case.pictures("frames_u8")
    index_T = torch.arange(len(pictures))
    frames = Frames(pixels_TCHW=pictures, seconds_T=index_T.double() / spec["fps"], index_T=index_T)
    start, end = spec["clip"] or (None, None)
    limit = max(64, spec["max_num_frames"])
    memory: Memory = system.watch(frames, max_frames=limit, start=start, end=end)
    history: list[tuple[str, str]] = []
    results = []
    for number, said in enumerate(spec["turns"]):
        wanted = case.tensors[f"turn{number}_generated_ids"].tolist()
        options = system.options(max_new_tokens=len(wanted))
        answer = system.ask(memory, said["question"], options, history)
        history.append((said["question"], said["output_text"]))
        results.append(equal("watched", list(answer.ids), wanted))
    return [worst(results)]
