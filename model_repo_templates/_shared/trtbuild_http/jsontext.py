"""JSON of requests and answers, the same with and without orjson: strict UTF-8, no NaN, no lone surrogates."""

from __future__ import annotations

import json
from typing import Any

from trtbuild_http.optional import orjson

_LINE_ENDS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\x85\u2028\u2029")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def loads(data: bytes) -> Any:
    """Return the value that a JSON text holds.

    Raises:
        ValueError: It is not JSON; the message says where.
    """
    if orjson is not None:
        value: Any = orjson.loads(data)
        return value
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if b"\\ud" in data or b"\\uD" in data:  # escapes can spell half a character, which no text may hold
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def dumps(value: Any) -> bytes:
    """Return ``value`` as compact JSON."""
    if orjson is not None:
        text: bytes = orjson.dumps(value)
        return text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def dumps_text(text: str) -> bytes:
    """Return ``text`` as a JSON string for an event: what is written once per token.

    Clients that cut a stream into lines with Python's ``splitlines`` take three characters for line ends that JSON need
    not escape, so they are escaped.
    """
    if orjson is not None:
        data: bytes = orjson.dumps(text)
    else:
        data = str(json.encoder.encode_basestring(text)).encode("utf-8")
    if not text.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data
