"""Triton's generate extension over HTTP: ``/v2/models/<model>/generate`` and ``generate_stream``.

Source: Triton Inference Server, protocol extension "generate"; inputs and outputs are those of the front model
(docs/architecture.md), and of upstream's ``ensemble`` and ``tensorrt_llm_bls`` as far as they have them.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping

from trtbuild.event_stream import EventParser
from trtclient.errors import RequestFailure, classify
from trtclient.generation import Generation, OnPiece, Piece
from trtclient.http1 import HttpClient, failure_of, is_event_stream
from trtclient.response import Head


class GenerateApi:
    """A model behind Triton's HTTP port."""

    def __init__(
        self, url: str, model: str, *, headers: Mapping[str, str] | None = None, ca_file: str | None = None
    ) -> None:
        self._http = HttpClient(url, headers=headers, ca_file=ca_file)
        self._path = f"/v2/models/{urllib.parse.quote(model, safe='')}/"

    async def generate(self, request: Generation, on_piece: OnPiece) -> None:
        """Send ``request`` and hand over its pieces; see :class:`trtclient.generation.Api`."""
        answer = _Answer(on_piece)
        path = self._path + ("generate_stream" if request.stream else "generate")
        head = await self._http.request(path, answer.take, body=json.dumps(request_body(request)).encode())
        answer.finish(head)

    async def close(self) -> None:
        """Drop what is still connected."""
        await self._http.close()


def request_body(request: Generation) -> dict[str, object]:
    """Return the front model's inputs for ``request``."""
    body: dict[str, object] = {"stream": request.stream, **request.parameters}
    if request.messages is not None:
        body["messages"] = json.dumps([dict(message) for message in request.messages], ensure_ascii=False)
    else:
        body["text_input"] = request.text or ""
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    return body


def piece_of(at_s: float, values: Mapping[str, object]) -> Piece:
    """Return the piece in one response's outputs."""
    text, reason = values.get("text_output", ""), values.get("finish_reason") or ""
    prompt, completion = values.get("prompt_tokens"), values.get("completion_tokens")
    return Piece(
        at_s=at_s,
        text=text if isinstance(text, str) else "".join(map(str, text)) if isinstance(text, list) else "",
        finish_reason=str(reason),
        prompt_tokens=prompt if isinstance(prompt, int) else None,
        completion_tokens=completion if isinstance(completion, int) else None,
    )


def parse_object(raw: bytes) -> dict[str, object]:
    """Return the JSON object in ``raw``.

    Raises:
        RequestFailure: It is none.
    """
    try:
        values = json.loads(raw.decode())  # json would guess the encoding of bytes, every time
    except (ValueError, RecursionError):  # the second: brackets without end
        values = None
    if not isinstance(values, dict):
        raise RequestFailure("protocol", f"expected a JSON object, got {raw[:80]!r}")
    return values


class _Answer:
    """Reads either kind of answer; which one, its content type says."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._events = EventParser()
        self._body = bytearray()
        self._at_s = 0.0
        self._is_stream: bool | None = None
        self._has_piece = False

    def take(self, head: Head, at_s: float, data: bytes) -> None:
        if self._is_stream is None:
            self._is_stream = is_event_stream(head)
        if not self._is_stream:
            self._body += data
            self._at_s = at_s
            return
        for event in self._events.feed(data):
            self._give(at_s, event)

    def finish(self, head: Head) -> None:
        if head.status != 200:
            raise failure_of(head, bytes(self._body))
        if not self._is_stream and self._body:
            self._give(self._at_s, bytes(self._body))
        if not self._has_piece:
            raise RequestFailure("protocol", "the server answered 200 without a response")

    def _give(self, at_s: float, raw: bytes) -> None:
        values = parse_object(raw)
        if "error" in values:
            message = str(values["error"])
            raise RequestFailure(classify(message), message)
        self._has_piece = True
        self._on_piece(piece_of(at_s, values))
