"""Turn ids into text as they are written: whole characters only, and stop texts cut off."""

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for a character whose bytes are not all there yet."""


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop text in it, and whether there was one."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def held_back(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the start of a stop text."""
    return max(
        (size for word in stop for size in range(1, len(word)) if text.endswith(word[:size])),
        default=0,
    )


class TextStream:
    """Text of a growing list of ids; `push` returns what can be shown now.

    A character whose bytes are not all there, and text that may be the start of a stop text, wait
    for the next token. Each push decodes only the last few ids, so a long answer costs no more per
    token.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._from = 0
        """First id of the window that is decoded again."""
        self._read = 0
        """Ids whose text is in `_text`."""
        self._text = ""
        self._shown = 0
        self.stopped = False
        """A stop text has been written."""

    def push(self, token: int) -> str:
        """Add one id; returns the new text to show."""
        self._ids.append(token)
        known = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if len(now) > len(known) and not now.endswith(BROKEN):
            self._text += now[len(known) :]
            self._from, self._read = self._read, len(self._ids)
        return self._show(final=False)

    def finish(self) -> str:
        """What was held back, once no more ids will come."""
        known = self._decode(self._ids[self._from : self._read])
        self._text += self._decode(self._ids[self._from :])[len(known) :]
        self._read = len(self._ids)
        return self._show(final=True)

    def _show(self, final: bool) -> str:
        if self.stopped:
            return ""
        self._text, self.stopped = cut_at_stop(self._text, self._stop)
        wait = 0 if final or self.stopped else held_back(self._text, self._stop)
        start, self._shown = self._shown, max(self._shown, len(self._text) - wait)
        return self._text[start : self._shown]
