"""A published model folder: finding it, its configs, its tokenizer, and the tower it names.

Only JSON and tokenizer files are read here; code in a folder is never run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import AutoTokenizer, PreTrainedConfig

from longtake.choices import DTYPE_NAMES, check_choice
from longtake.errors import CheckpointError, OptionError
from longtake.parts.clip import KNOWN as CLIPS
from longtake.parts.fields import mapping, real, text, whole
from longtake.parts.siglip import KNOWN as SIGLIPS
from longtake.places import config_of, local_model, read_json

SMALL_FILES = ["*.json", "*.txt", "*.model"]
HUB_FILES = [*SMALL_FILES, "*.safetensors"]
DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A model folder, read but not loaded."""

    path: Path
    config: Mapping[str, Any]
    """config.json."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """generation_config.json, empty if there is none."""
    bare: bool = False
    """Only sizes are wanted, so that weights, tokenizer and processor may be missing."""


def find(name: str, *, bare: bool = False) -> Path:
    """A local folder, or a hub id that is looked up in the cache and then on the hub.

    `bare`: without weights. Raises CheckpointError if there is neither.
    """
    path = local_model(name)
    if path is not None:
        return path
    files, enough = (SMALL_FILES, "config.json") if bare else (HUB_FILES, "*.safetensors")
    try:
        cached = Path(snapshot_download(name, allow_patterns=files, local_files_only=True))
        if any(cached.glob(enough)):
            return cached
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except GatedRepoError as error:
        raise CheckpointError(f"{name!r} asks for a licence; accept it on the hub first") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(f"no folder and no hub repository is called {name!r}") from error
    except Exception as error:
        raise CheckpointError(
            f"no folder is called {name!r} and the hub cannot be reached "
            f"({type(error).__name__}); download it first and give its folder"
        ) from error


def read_folder(path: Path, bare: bool = False) -> Folder:
    """config.json and, where there is one, generation_config.json."""
    config = config_of(path)
    file = path / "generation_config.json"
    generation = read_json(file) if file.exists() else {}
    for name in ("repetition_penalty", "temperature", "top_p"):
        real(generation, name, 1.0)
    if generation.get("top_k"):
        whole(generation, "top_k")
    return Folder(path=path, config=config, generation=generation, bare=bare)


def pick_dtype(name: str) -> torch.dtype | None:
    """A dtype by name; None for "auto" (as stored). Raises OptionError for another name."""
    if name == "auto":
        return None
    check_choice("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def pick_device(name: str) -> torch.device:
    """A device by name; "auto" is CUDA where there is one. OptionError if it is not usable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {name!r} cannot be used here ({reason}); try cpu") from error
    return device


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


class Tokenizer(Protocol):
    """What a system asks of a tokenizer."""

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> list[int]:
        """Token ids of a text; `split_special_tokens`: none of them is a special token's."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids."""

    def __len__(self) -> int:
        """Tokens, the added ones included."""


@dataclass(frozen=True)
class Wordless:
    """Stands for a tokenizer that a bare folder lacks; counts about as many tokens as one."""

    vocab: int

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> list[int]:
        """A token for each word, run of digits or mark, and of a word for each 8 letters."""
        words = re.findall(r"<\|\w+\|>|[^\W\d_]{1,8}|\d|[^\w\s]|\n+", text)
        return [0] * len(words)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Nothing: there are no words."""
        return ""

    def __len__(self) -> int:
        """As many as the config's vocabulary."""
        return self.vocab


def tokenizer_of(folder: Folder) -> Tokenizer:
    """The folder's tokenizer, or, of a bare folder without one, `Wordless`."""
    if folder.bare and not any((folder.path / name).exists() for name in TOKENIZER_FILES):
        words = mapping(folder.config, "text_config") or folder.config
        return Wordless(whole(words, "vocab_size"))
    return load_tokenizer(folder.path)


def load_tokenizer(path: Path) -> Tokenizer:
    """The folder's tokenizer. Raises CheckpointError in one line if it is missing or broken."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            path,
            # a config of ours, or it would look into the folder's and warn that it knows no such
            # model
            config=PreTrainedConfig(),
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CheckpointError(f"the tokenizer of {path} cannot be read ({reason[0]})") from error
    checked: Tokenizer = tokenizer
    return checked


def end_ids(folder: Folder, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer, by generation_config.json, else config.json.

    Raises CheckpointError if neither names one.
    """
    stated = {**mapping(folder.config, "text_config"), **folder.config, **folder.generation}
    ids = stated.get("eos_token_id")
    ids = [ids] if isinstance(ids, int) else ids
    if folder.bare and not ids:
        return frozenset()
    if not ids or not all(isinstance(one, int) for one in ids):
        raise CheckpointError(f"{folder.path} names no eos_token_id, so no answer would end")
    return frozenset(ids)


@dataclass(frozen=True, kw_only=True)
class TowerFiles:
    """A stand-alone vision tower: its config and processor, and where its weights would be."""

    config: Mapping[str, Any]
    pixels: Mapping[str, Any]
    """preprocessor_config.json."""
    name: str
    """Its folder or hub id, looked up only when its weights are needed."""

    def weights(self) -> Path:
        """The folder to load weights from. Raises CheckpointError if there is none."""
        try:
            return find(self.name)
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint holds no tower weights and {error}; give vision_tower a folder"
            ) from error


TOWERS = CLIPS | SIGLIPS
"""Towers that need no folder of their own."""


def find_tower(folder: Folder, given: str | None, unnamed: str = "") -> TowerFiles:
    """The tower a checkpoint names: the one given, else its vision_tower/ folder, else by name.

    `unnamed`: the name where it states none. Raises CheckpointError if it cannot be found.
    """
    beside = folder.path / "vision_tower"
    name = text(folder.config, "mm_vision_tower", "") or unnamed
    if given is None and (beside / "config.json").exists():
        return read_tower(beside)
    known = [hub for hub in TOWERS if name.split("/")[-1] == hub.split("/")[-1]]
    if given is None and known:  # also where it lay on somebody's disk: Video-XL names that path
        config, pixels = TOWERS[known[0]]
        return TowerFiles(config=config, pixels=pixels, name=known[0])
    return read_tower(find(given or name, bare=folder.bare))


def read_tower(path: Path) -> TowerFiles:
    """A tower's folder."""
    return TowerFiles(
        config=read_json(path / "config.json"),
        pixels=read_json(path / "preprocessor_config.json"),
        name=str(path),
    )


def digest(folder: Folder, how: str) -> str:
    """A short digest of a folder's config and weights (samples of each file) and of `how`."""
    total = hashlib.sha256(how.encode())
    total.update(json.dumps(dict(folder.config), sort_keys=True).encode())
    for file in sorted(folder.path.glob("*.safetensors")):
        total.update(f"{file.name} {file.stat().st_size}".encode())
        for sample in samples_of(file):
            total.update(sample)
    return total.hexdigest()[:16]


def samples_of(file: Path, pieces: int = 16, size: int = 2**16) -> Iterator[bytes]:
    """Evenly spread pieces of a file; all of it if it is small."""
    length = file.stat().st_size
    with file.open("rb") as stream:
        for piece in range(pieces):
            stream.seek(max(0, (length - size) * piece // (pieces - 1)))
            yield stream.read(size)


def require(field_name: str, value: object, choices: Sequence[object]) -> None:
    """Raise CheckpointError unless a config's field has one of these values."""
    if value not in choices:
        named = ", ".join("null" if choice is None else repr(choice) for choice in choices)
        raise CheckpointError(f"config.json: {field_name} is {value!r}, expected {named}")
