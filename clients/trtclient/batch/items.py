"""The input file: one request per line, read once to check it and again, line by line, when its turn comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbuild.errors import SpecError
from trtclient.generation import Generation

_TEXT_NAMES = ("text", "prompt", "text_input")
_NOT_PARAMETERS = {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "stream", "stream_options"}
_HINT = 'one request per line: {"id": "q1", "text": "2 + 2 =", "reference": "4"}, or "messages": [{"role": ...}]'


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What applies to every line that does not say otherwise."""

    model: str
    max_tokens: int
    system: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Item:
    """Where a request is in the input file, and what it is.

    Attributes:
        id: The line's own ``id`` or ``custom_id``, else its number from 1.
        offset: Of its line, in bytes.
        key: Hash of all that decides the answer; another key is another question.
    """

    id: str
    offset: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the input."""

    id: str
    request: Generation
    references: tuple[str, ...] = ()


def parse_line(raw: bytes, number: int, path: Path, defaults: Defaults) -> Entry:
    """Return the request on line ``number``; the project's own form or that of OpenAI's batch files.

    Raises:
        SpecError: It is neither.
    """

    def wrong(why: str) -> SpecError:
        return SpecError(f"{path}, line {number}: {why}", hint=_HINT)

    try:
        row = json.loads(raw)
    except ValueError as error:
        raise wrong(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise wrong(f"expected an object, got {type(row).__name__}")
    body: dict[str, Any] = row.get("body", row)
    texts = [body[name] for name in _TEXT_NAMES if name in body]
    messages = body.get("messages")
    if len(texts) + (messages is not None) != 1:
        raise wrong(f"expected one of text, prompt, text_input and messages, got {len(texts) + bool(messages)}")
    if texts and not isinstance(texts[0], str):
        raise wrong(f"expected the prompt as text, got {type(texts[0]).__name__}")
    own = {name: body[name] for name in body if name not in _NOT_PARAMETERS} if "body" in row else row.get("parameters")
    if not isinstance(own or {}, dict):
        raise wrong(f"expected parameters as an object, got {type(own).__name__}")
    request = Generation(
        text=texts[0] if texts and not defaults.system else None,
        messages=_messages(texts, messages, defaults.system, wrong),
        max_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or defaults.max_tokens,
        parameters={**defaults.parameters, **(own or {})},
    )
    reference = row.get("reference", [])
    references = tuple(str(one) for one in (reference if isinstance(reference, list) else [reference]))
    return Entry(id=str(row.get("id", row.get("custom_id", number))), request=request, references=references)


def _messages(texts: list[str], messages: Any, system: str, wrong: Any) -> tuple[dict[str, str], ...] | None:
    """Return the conversation to send, or None for a plain prompt; a system message makes a prompt a question."""
    head = ({"role": "system", "content": system},) if system else ()
    if messages is None:
        return (*head, {"role": "user", "content": texts[0]}) if system else None
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and "role" in m and "content" in m for m in messages
    ):
        raise wrong("expected messages as a list of objects with role and content")
    return (*(() if messages and messages[0]["role"] == "system" else head), *messages)


def key_of(request: Generation, model: str) -> str:
    """Return a hash of all that decides the answer to ``request``."""
    said = [model, request.text, request.messages, request.max_tokens, dict(request.parameters)]
    canonical = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Input:
    """A checked input file. Only its index is held in memory."""

    def __init__(self, path: Path, defaults: Defaults, *, shard: tuple[int, int] = (0, 1)) -> None:
        """Read and check every line; keep those of ``shard`` (index, count), which takes every count-th.

        Raises:
            SpecError: A line is wrong, or two have the same id.
        """
        self.path = path
        self._defaults = defaults
        self.items: list[Item] = []
        self._numbers: dict[str, int] = {}
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SpecError(
                f"cannot read {path}: {error.strerror}", hint="trtclient batch INPUT.jsonl -o OUT.jsonl"
            ) from error
        try:
            self._index(shard)
        except SpecError:
            self._file.close()
            raise

    def _index(self, shard: tuple[int, int]) -> None:
        offset = taken = 0
        for number, raw in enumerate(self._file, 1):
            start, offset = offset, offset + len(raw)
            if not raw.strip():
                continue
            entry = parse_line(raw, number, self.path, self._defaults)
            if entry.id in self._numbers:
                raise SpecError(
                    f"{self.path}, line {number}: the id {entry.id!r} is on line {self._numbers[entry.id]} too",
                    hint="ids tell answers apart: make them unique, or leave them all out",
                )
            self._numbers[entry.id] = number
            if taken % shard[1] == shard[0]:
                key = key_of(entry.request, self._defaults.model)
                self.items.append(Item(id=entry.id, offset=start, key=key))
            taken += 1
        if not self.items:
            raise SpecError(f"{self.path} holds no request" + (" of this shard" if shard[1] > 1 else ""), hint=_HINT)

    def read(self, item: Item) -> Entry:
        """Return the request of an item."""
        self._file.seek(item.offset)
        return parse_line(self._file.readline(), self._numbers[item.id], self.path, self._defaults)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
