"""JSON of requests and answers, the same with and without orjson: strict UTF-8, no NaN, no lone surrogates."""

from __future__ import annotations

import json
from typing import Any

from trtbuild_http.optional import orjson


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
