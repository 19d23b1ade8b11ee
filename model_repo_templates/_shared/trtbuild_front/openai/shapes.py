"""Answers in OpenAI's JSON, whole and in events: everything that does not change from piece to piece is written once.

It decides bytes. When what is sent is decided in ``answers.py``.

Source: OpenAI's API reference: chat completion object, chat completion chunk, completion object, streaming.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtbuild_http.jsontext import dumps, dumps_text

from trtbuild_front.generation import Piece
from trtbuild_front.openai.spelling import Spell, chat_log_probs, completion_log_probs

DONE = b"[DONE]"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the two protocols.

    Attributes:
        is_chat: Whether answers are messages.
        id_prefix: Of the answer's id.
        whole, chunk: The ``object`` of an answer, and of an event.
    """

    is_chat: bool
    id_prefix: str
    whole: str
    chunk: str


CHAT = Kind(is_chat=True, id_prefix="chatcmpl-", whole="chat.completion", chunk="chat.completion.chunk")
COMPLETION = Kind(is_chat=False, id_prefix="cmpl-", whole="text_completion", chunk="text_completion")


class Shape:
    """How one request is answered."""

    def __init__(
        self,
        kind: Kind,
        *,
        model: str,
        fingerprint: str,
        spell: Spell | None,
        top: int,
        includes_usage: bool,
    ) -> None:
        """Write down what every event has.

        Args:
            kind: The protocol.
            model: What the answer calls the model.
            fingerprint: ``system_fingerprint``.
            spell: Spells tokens where log probabilities are wanted.
            top: Of how many tokens at each place.
            includes_usage: Whether every event has a field ``usage``.
        """
        self._kind, self._spell, self._top = kind, spell, top
        self._common = {
            "id": f"{kind.id_prefix}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._head = dumps({**self._common, "object": kind.chunk})[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' if includes_usage else b"]}"
        self._open = b'"delta":{"content":' if kind.is_chat else b'"text":'
        self._close = b"}" if kind.is_chat else b""
        self._text_tail = self._close + b',"logprobs":null,"finish_reason":null}' + self._tail

    @property
    def is_chat(self) -> bool:
        """Whether answers are messages, which begin with a role."""
        return self._kind.is_chat

    def text_head(self, index: int) -> bytes:
        """Return what comes before the text in every event of an answer."""
        return self._head + b'{"index":%d,' % index + self._open

    def text_event(self, head: bytes, piece: Piece) -> bytes:
        """Return the event with a piece's text; ``head`` is the answer's :meth:`text_head`."""
        if self._spell is None:
            return head + dumps_text(piece.text) + self._text_tail
        log_probs = dumps(self._log_probs(piece))
        return (
            head
            + dumps_text(piece.text)
            + self._close
            + b',"logprobs":'
            + log_probs
            + b',"finish_reason":null}'
            + self._tail
        )

    def role_event(self, index: int) -> bytes:
        """Return the first event of an answer in a chat."""
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return self._head + b'{"index":%d,' % index + delta + self._tail

    def last_event(self, index: int, finish_reason: str) -> bytes:
        """Return the event that ends an answer."""
        empty = b'"delta":{}' if self._kind.is_chat else b'"text":""'
        reason = b',"logprobs":null,"finish_reason":%b}' % dumps(finish_reason)
        return self._head + b'{"index":%d,' % index + empty + reason + self._tail

    def usage_event(self, usage: dict[str, int]) -> bytes:
        """Return the event with the counts of tokens."""
        return dumps({**self._common, "object": self._kind.chunk, "choices": [], "usage": usage})

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> bytes:
        """Return the body of an answer that comes at once."""
        choices = [self._choice(index, piece) for index, piece in enumerate(pieces)]
        return dumps({**self._common, "object": self._kind.whole, "choices": choices, "usage": usage})

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        text: dict[str, Any] = {"text": piece.text}
        if self._kind.is_chat:
            text = {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
        log_probs = self._log_probs(piece) if self._spell is not None else None
        return {"index": index, **text, "logprobs": log_probs, "finish_reason": piece.finish_reason}

    def _log_probs(self, piece: Piece) -> dict[str, Any]:
        assert self._spell is not None
        write = chat_log_probs if self._kind.is_chat else completion_log_probs
        return write(piece.tokens, self._spell, self._top)
