"""Watch a long video once, ask it many questions.

The public names below are imported when they are first used, so that `import longtake`,
`longtake --help` and shell completion stay instant: importing torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longtake.version import __version__

if TYPE_CHECKING:
    from longtake.api import ask, ask_many, load, watch
    from longtake.captions import Caption
    from longtake.errors import (
        AnnotationError,
        CapacityError,
        CheckpointError,
        LongtakeError,
        OptionError,
        PromptError,
        StoreError,
        VideoError,
    )
    from longtake.library import Library
    from longtake.many import Batch
    from longtake.options import Options
    from longtake.planning import plan
    from longtake.store import load_memory, save_memory
    from longtake.stored import Settings, Stored
    from longtake.types import Answer, Frames, Memory, VisualTokens
    from longtake.video.decode import open_video

_HOMES = {
    "ask": "longtake.api",
    "ask_many": "longtake.api",
    "load": "longtake.api",
    "watch": "longtake.api",
    "load_memory": "longtake.store",
    "save_memory": "longtake.store",
    "Batch": "longtake.many",
    "Caption": "longtake.captions",
    "plan": "longtake.planning",
    "open_video": "longtake.video.decode",
    "Library": "longtake.library",
    "Settings": "longtake.stored",
    "Stored": "longtake.stored",
    "Answer": "longtake.types",
    "Frames": "longtake.types",
    "Memory": "longtake.types",
    "Options": "longtake.options",
    "VisualTokens": "longtake.types",
    "LongtakeError": "longtake.errors",
    "VideoError": "longtake.errors",
    "CheckpointError": "longtake.errors",
    "PromptError": "longtake.errors",
    "CapacityError": "longtake.errors",
    "AnnotationError": "longtake.errors",
    "OptionError": "longtake.errors",
    "StoreError": "longtake.errors",
}

__all__ = [
    "AnnotationError",
    "Answer",
    "Batch",
    "CapacityError",
    "Caption",
    "CheckpointError",
    "Frames",
    "Library",
    "LongtakeError",
    "Memory",
    "OptionError",
    "Options",
    "PromptError",
    "Settings",
    "StoreError",
    "Stored",
    "VideoError",
    "VisualTokens",
    "__version__",
    "ask",
    "ask_many",
    "load",
    "load_memory",
    "open_video",
    "plan",
    "save_memory",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longtake' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
