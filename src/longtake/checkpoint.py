"""Weights of published folders: load strictly, save back under the published names.

Only safetensors are opened. Names are mapped by a system's table of (published prefix, own
prefix); a name that is missing, left over or of another shape raises.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging as transformers_logging

from longtake.errors import CheckpointError
from longtake.folder import DTYPES, Folder
from longtake.model import Blueprint, LongtakeConfig, LongtakeModel
from longtake.places import read_json

Keys = Sequence[tuple[str, str]]
"""(published prefix, own prefix) pairs; the first that fits a name renames it."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a folder names its weights."""

    keys: Keys
    """Published prefix, own prefix."""
    ignored: Sequence[str] = ()
    """Anchored patterns of published names that are expected and unused."""
    absent: tuple[str, ...] = ()
    """Own prefixes that the folder does not hold; the caller loads them."""

    def found(self, shapes: Mapping[str, Any]) -> dict[str, Any]:
        """The published names that count, in our spelling. Raises CheckpointError for twins."""
        leftovers = re.compile("|".join(self.ignored) or r"(?!)")
        found: dict[str, Any] = {}
        for name, value in shapes.items():
            if leftovers.match(name):
                continue
            own = rename(name, self.keys)
            if own in found:
                raise CheckpointError(f"two weights stand for {own}, {name} and one more; keep one")
            found[own] = value
        return found

    def needed(self, model: LongtakeModel) -> dict[str, tuple[int, ...]]:
        """Names and shapes the folder must hold: all but what is absent, or tied to another."""
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        return {
            name: tuple(weight.shape)
            for name, weight in model.state_dict().items()
            if name not in tied and not name.startswith(self.absent or "\n")
        }


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every published tensor, from the safetensors headers alone."""
    files = weight_files(path)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is not a whole safetensors file ({error}); download it again"
            ) from error
    return shapes


def published_shapes(folder: Folder) -> dict[str, tuple[int, ...]]:
    """`weight_shapes` of a folder; nothing if it is bare and holds no weights."""
    return {} if folder.bare and not holds_weights(folder.path) else weight_shapes(folder.path)


def holds_weights(path: Path) -> bool:
    """Whether all weights lie beside the config."""
    try:
        weight_files(path)
    except CheckpointError:
        return False
    return True


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, by its index where there is one."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        if (path / "model.safetensors").exists():
            raise CheckpointError(
                f"{path} holds model.safetensors and an index of other files; remove the stale one"
            )
        files = [path / name for name in indexed_names(index)]
    else:
        files = [path / "model.safetensors"]
    for file in files:
        if not file.is_file():
            hint = "; only safetensors are read" if any(path.glob("*.bin")) else ""
            raise CheckpointError(f"{path} lacks {file.name}{hint}")
    return files


STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""safetensors' names of the dtypes."""


def indexed_names(index: Path) -> list[str]:
    """The files a weight index names. Raises CheckpointError unless all lie beside it."""
    weight_map = read_json(index).get("weight_map")
    named: list[Any] = list(weight_map.values()) if isinstance(weight_map, dict) else [None]
    for name in named:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, expected files of its own folder")
    return sorted(set(named))


def rename(name: str, keys: Keys) -> str:
    """A published weight name in our spelling."""
    for published, own in keys:
        if name.startswith(published):
            return own + name.removeprefix(published)
    return name


def check_names(shapes: Mapping[str, tuple[int, ...]], model: LongtakeModel, names: Names) -> None:
    """Raise CheckpointError unless published names and shapes are just what the model needs."""
    needed, found = names.needed(model), names.found(shapes)
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)  # some folders hold a copy of the tied head
    wrong = sorted(n for n in needed.keys() & found.keys() if needed[n] != found[n])
    problems = [
        ("missing", sorted(needed.keys() - found.keys())),
        ("unexpected", sorted(found.keys() - needed.keys())),
        ("of another shape", wrong),
    ]
    told = [
        f"{len(those)} {what} ({', '.join(those[:3])}{', ...' if len(those) > 3 else ''})"
        for what, those in problems
        if those
    ]
    if told:
        raise CheckpointError(f"the weights do not fit the config: {'; '.join(told)}")


@contextmanager
def quiet_loader() -> Iterator[None]:
    """Keep transformers' loader silent for a while: the names are checked here, more strictly."""
    loud = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(loud)
        if bars:
            transformers_logging.enable_progress_bar()


def load_model(
    folder: Folder,
    plan: Blueprint,
    names: Names,
    device: torch.device,
    dtype: torch.dtype | None,
) -> LongtakeModel:
    """Load a published folder strictly. `dtype` None keeps the stored one.

    Raises CheckpointError on any missing, unexpected or mismatched name, and on damaged files.
    """
    config = LongtakeConfig.of(plan.sizes, plan.tied)
    with torch.device("meta"):
        skeleton = LongtakeModel(config, plan)
    if shapes := published_shapes(folder):
        check_names(shapes, skeleton, names)
    if device.type == "meta":  # `inspect` wants shapes, not fifteen gigabytes
        torch.nn.Module.to(skeleton, dtype or stored_dtype(folder))
        return skeleton
    with quiet_loader():
        loaded: tuple[LongtakeModel, dict[str, Any]] = LongtakeModel.from_pretrained(  # type: ignore[assignment]
            folder.path,
            plan,
            config=config,
            key_mapping={f"^{re.escape(published)}": own for published, own in names.keys},
            dtype=dtype or stored_dtype(folder),
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    model, info = loaded
    unset = set(info["missing_keys"]) & names.needed(skeleton).keys()
    if unset or info["mismatched_keys"]:
        raise CheckpointError(f"the loader left {len(unset)} weights of {folder.path} unset")
    torch.nn.Module.to(model, device)  # the host's own `to` is wrapped beyond typing
    model.train(False)
    return model


def stored_dtype(folder: Folder) -> torch.dtype:
    """The dtype that config.json states, else that of the stored weights, else fp32.

    Where neither is there it is bf16, in which all published weights are stored.
    """
    stated = str(folder.config.get("torch_dtype", folder.config.get("dtype")))
    if stated in DTYPES:
        return DTYPES[stated]
    if folder.bare and not holds_weights(folder.path):
        return torch.bfloat16
    with safe_open(weight_files(folder.path)[0], framework="pt") as tensors:
        kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return next((DTYPES[STORED[kind]] for kind in kinds if kind in STORED), torch.float32)


def load_part(part: nn.Module, path: Path, names: Names) -> None:
    """Load one part (a stand-alone tower) from its own folder, strictly."""
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(path):
        try:
            weights |= names.found(load_file(file))
        except SafetensorError as error:
            raise CheckpointError(f"{file} is not a whole safetensors file ({error})") from error
    try:
        part.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the weights of {path} do not fit: {first}") from error


def published_state(model: LongtakeModel, keys: Keys) -> dict[str, torch.Tensor]:
    """The weights under their published names; a tied head is left out, as published."""
    back = [(own, published) for published, own in keys]
    tied = model.config.tie_word_embeddings
    return {
        rename(name, back): weight
        for name, weight in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


def save_model(model: LongtakeModel, keys: Keys, config: Mapping[str, Any], target: Path) -> None:
    """Write weights (sharded safetensors) and config.json in the published layout.

    Written aside and renamed file by file, so that a reader never sees half a file.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
        save_torch_state_dict(published_state(model, keys), aside)
        text = json.dumps(dict(config), indent=2) + "\n"
        (Path(aside) / "config.json").write_text(text, encoding="utf-8")
        new = sorted(Path(aside).iterdir())
        for file in new:
            file.chmod(0o644)  # the temporary folder's files are private
            shutil.move(file, target / file.name)
    stale = {*target.glob("model*.safetensors"), *target.glob("model.safetensors.index.json")}
    for file in stale - {target / kept.name for kept in new}:
        file.unlink()
