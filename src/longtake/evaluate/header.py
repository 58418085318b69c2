"""What results depend on, for their headers: the system, what it runs on, the files it saw."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

from longtake.evaluate.results import Row
from longtake.folder import samples_of
from longtake.keys import weights_of
from longtake.system import System
from longtake.version import __version__


def about(system: System, given: Row | None = None) -> Row:
    """What a system is and what it runs on, for headers.

    `given`: the options that were given to its `variant`; some shape no memory, but what is mixed
    of it. The fingerprint knows the model's folder, `weights` a tower from elsewhere too.
    """
    return {
        "longtake": __version__,
        "system": system.name,
        "fingerprint": system.fingerprint,
        "weights": weights_of(system)[:16],
        "given": dict(given or {}),
        "dtype": str(system.model.compute_dtype).removeprefix("torch."),
        "device": system.model.device.type,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "av")},
        },
    }


def identity_of(source: str | Path) -> str:
    """Name, size and digest of samples of a file; of a folder, its files' names and sizes.

    An address as it is; a file that cannot be read is called so.
    """
    path, total = Path(source), hashlib.sha256()
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            size = sum(file.stat().st_size for file in files)
            total.update("\n".join(f"{one.name} {one.stat().st_size}" for one in files).encode())
        elif path.is_file():
            size = path.stat().st_size
            for sample in samples_of(path):
                total.update(sample)
        else:
            return str(source)
    except OSError:
        return f"{path.name} unreadable"
    return f"{path.name} {size} {total.hexdigest()[:16]}"
