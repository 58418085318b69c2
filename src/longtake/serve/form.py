"""multipart/form-data, read as it comes: the file's bytes go straight on, fields are kept."""

from __future__ import annotations

from collections.abc import Callable

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from longtake.serve.faults import Refusal

MOST_PARTS = 16
MOST_FIELD_BYTES = 1024


class Form:
    """One body. `feed` it all; then `fields` and `name` say what came besides the bytes."""

    def __init__(self, content_type: str, write: Callable[[bytes], None]) -> None:
        """Raises Refusal if the type has no boundary."""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 200:
            raise Refusal(400, "invalid_form", "the multipart body names no boundary")
        self.fields: dict[str, str] = {}
        self.name: str | None = None
        """File name of the part "file"; None before it came."""
        self._write = write
        self._parts = 0
        self._field: str | None = None
        self._value = b""
        self._header = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_word,
                "on_header_end": self._header_end,
                "on_headers_finished": self._started,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, block: bytes) -> None:
        """Take the next bytes. Raises Refusal."""
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise Refusal(400, "invalid_form", "the body is no multipart form") from error

    def close(self) -> None:
        """Raise Refusal unless the form is whole and held a file."""
        if not self._whole:
            raise Refusal(400, "body_incomplete", "the multipart body breaks off")
        if self.name is None:
            raise Refusal(400, "invalid_form", 'the form has no part "file" with a file name')

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Refusal(400, "invalid_form", f"the form has more than {MOST_PARTS} parts")
        self._headers = {}
        self._field, self._value = None, b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bounded(self._header)

    def _header_word(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._bounded(self._header_value)

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._header_value
        self._header = self._header_value = b""
        if len(self._headers) > MOST_PARTS:
            raise Refusal(400, "invalid_form", "a part of the form has too many headers")

    def _started(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != "file":
            self._field = field
        elif self.name is not None or b"filename" not in options:
            raise Refusal(400, "invalid_form", 'the form has one part "file", with a file name')
        else:
            self.name = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._write(data[start:end])
            return
        self._value += data[start:end]
        self._bounded(self._value)

    def _end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._whole = True

    def _bounded(self, value: bytes) -> None:
        if len(value) > MOST_FIELD_BYTES:
            raise Refusal(400, "invalid_form", "a field of the form is too long")
