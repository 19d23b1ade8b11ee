"""OpenAI-style endpoints: ``/v1/completions`` and ``/v1/chat/completions``, as gateways offer.

Source: OpenAI API reference, chat completions streaming: ``data:`` chunks with ``choices[0].delta.content``, a last
chunk with ``usage`` where ``stream_options.include_usage`` was sent, then ``data: [DONE]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from trtbuild.event_stream import EventParser
from trtclient.apis.generate import parse_object
from trtclient.errors import RequestFailure, classify
from trtclient.generation import Generation, OnPiece, Piece
from trtclient.http1 import HttpClient, failure_of, is_event_stream
from trtclient.response import Head


class OpenAiApi:
    """A model behind an OpenAI-style server."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        is_chat: bool,
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
    ) -> None:
        base = url.rstrip("/")
        self._http = HttpClient(base if base.endswith("/v1") else f"{base}/v1", headers=headers, ca_file=ca_file)
        self._model = model
        self._is_chat = is_chat

    async def generate(self, request: Generation, on_piece: OnPiece) -> None:
        """Send ``request`` and hand over its pieces; see :class:`trtclient.generation.Api`."""
        is_chat = self._is_chat or request.messages is not None
        answer = _Answer(on_piece)
        path = "/chat/completions" if is_chat else "/completions"
        body = json.dumps(request_body(request, self._model, is_chat=is_chat)).encode()
        head = await self._http.request(path, answer.take, body=body)
        if head.status == 404 and answer.is_foreign:
            raise RequestFailure("protocol", f"404: this server has no OpenAI-style API: it does not know /v1{path}")
        answer.finish(head)

    async def close(self) -> None:
        """Drop what is still connected."""
        await self._http.close()


def request_body(request: Generation, model: str, *, is_chat: bool) -> dict[str, object]:
    """Return the body of ``request`` for either endpoint."""
    body: dict[str, object] = {"model": model, "stream": request.stream, **request.parameters}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if not is_chat:
        body["prompt"] = request.text or ""
    elif request.messages is not None:
        body["messages"] = [dict(message) for message in request.messages]
    else:
        body["messages"] = [{"role": "user", "content": request.text or ""}]
    return body


def piece_of(at_s: float, values: Mapping[str, object]) -> Piece:
    """Return the piece in one chunk or in a whole answer."""
    text, reason = "", ""
    choices = values.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        choice = choices[0]
        holder = choice.get("delta") or choice.get("message") or {}
        text = str(choice.get("text") or (holder.get("content") if isinstance(holder, dict) else "") or "")
        reason = str(choice.get("finish_reason") or "")
    usage = values.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return Piece(
        at_s=at_s,
        text=text,
        finish_reason=reason,
        prompt_tokens=prompt if isinstance(prompt, int) else None,
        completion_tokens=completion if isinstance(completion, int) else None,
    )


class _Answer:
    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._events = EventParser()
        self._body = bytearray()
        self._at_s = 0.0
        self._is_stream = False
        self._is_done = False
        self._has_piece = False

    def take(self, head: Head, at_s: float, data: bytes) -> None:
        self._is_stream = is_event_stream(head)
        if not self._is_stream:
            self._body += data
            self._at_s = at_s
            return
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self._is_done = True
            else:
                self._give(at_s, event)

    @property
    def is_foreign(self) -> bool:
        """Whether an error is not in OpenAI's form, an object in ``error``: Triton answers {"error": "Not Found"}."""
        try:
            return not isinstance(json.loads(self._body).get("error"), dict)
        except (ValueError, AttributeError, RecursionError):
            return True

    def finish(self, head: Head) -> None:
        if head.status != 200:
            raise failure_of(head, bytes(self._body))
        if not self._is_stream:
            self._give(self._at_s, bytes(self._body))
        elif not self._is_done:
            raise RequestFailure("disconnected", "the stream ended without data: [DONE]")
        elif not self._has_piece:
            raise RequestFailure("protocol", "the server answered 200 without a response")

    def _give(self, at_s: float, raw: bytes) -> None:
        values = parse_object(raw)
        error = values.get("error")
        if error:
            message = str(error.get("message", error) if isinstance(error, dict) else error)
            raise RequestFailure(classify(message), message)
        self._has_piece = True
        self._on_piece(piece_of(at_s, values))
