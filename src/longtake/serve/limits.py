"""What the server takes at most, each number in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

from longtake.errors import OptionError

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every bound of the server; sizes in bytes, times in seconds. All must be positive."""

    upload_bytes: int = 4 * GIB
    """One uploaded or fetched file."""
    body_bytes: int = 64 * MIB
    """A JSON body, data URLs included."""
    held_bytes: int = 512 * MIB
    """All JSON bodies that are being read or looked at."""
    stored_bytes: int = 64 * GIB
    """All kept uploads together."""
    memory_bytes: int = 4 * GIB
    """Memories held ready to answer; the ones used longest ago are dropped, and read again."""
    video_seconds: float = 6 * 3600.0
    """Length of a video."""
    pixels: int = 7680 * 4320
    """Pixels of one picture of a video, or of an image."""
    frames: int = 10_000
    """Frames sampled of a video."""
    media: int = 8
    """Videos and images in one request."""
    messages: int = 256
    """Messages in one request."""
    words: int = 32_768
    """Characters of all messages in one request."""
    new_tokens: int = 4096
    """Tokens of an answer."""
    waiting: int = 64
    """Questions waiting or being answered; more are told to come back."""
    rows: int = 16
    """Questions answered side by side."""
    watching: int = 8
    """Videos waiting to be watched or being watched."""
    transfers: int = 8
    """Files that are uploaded or fetched at the same time."""
    connections: int = 512
    """Open connections."""
    header_seconds: float = 10.0
    """Until a request's headers are there."""
    body_seconds: float = 30.0
    """Between two pieces of a body."""
    transfer_seconds: float = 7200.0
    """From a body's first byte to its last."""
    fetch_seconds: float = 600.0
    """Fetching a file from an address."""
    answer_seconds: float = 600.0
    """From a request to the end of its answer; watching included."""
    drain_seconds: float = 20.0
    """Given to answers that are under way when the server is stopped."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise OptionError(f"{field.name} must be a number above 0, got {value}")
