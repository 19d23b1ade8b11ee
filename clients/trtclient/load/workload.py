"""What each request says: a pure function of the options, the seed and the request's number."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trtbuild.errors import SpecError
from trtclient.generation import Generation, Messages
from trtclient.load.schedule import Arrival
from trtclient.values import Lengths

_TEXT = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea body information
"""
_WORDS = _TEXT.split()
DEFAULT_TOKENS_PER_WORD = 1.3


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a file."""

    text: str | None = None
    messages: Messages | None = None
    max_tokens: int | None = None


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Return the prompts of a file: plain lines, or ``.jsonl`` with ``text``/``prompt``/``text_input`` or ``messages``.

    Raises:
        SpecError: It cannot be read, or holds none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the prompts in {path}: {error}", hint="one prompt per line, or .jsonl") from error
    if not lines:
        raise SpecError(f"{path} holds no prompt", hint="one prompt per line, or .jsonl")
    if path.suffix != ".jsonl":
        return tuple(Prompt(text=line) for line in lines)
    return tuple(_prompt(path, number, line) for number, line in enumerate(lines, 1))


def _prompt(path: Path, number: int, line: str) -> Prompt:
    hint = 'for example {"text": "Once upon a time", "max_tokens": 32} or {"messages": [{"role": "user", ...}]}'
    try:
        row = json.loads(line)
        text = next((row[name] for name in ("text", "prompt", "text_input") if name in row), None)
        messages, max_tokens = row.get("messages"), row.get("max_tokens")
    except (ValueError, AttributeError, TypeError) as error:
        raise SpecError(f"{path}, line {number}: {error}", hint=hint) from error
    if (text is None) == (messages is None):
        raise SpecError(f"{path}, line {number}: expected text or messages, one of them", hint=hint)
    return Prompt(text=text, messages=tuple(messages) if messages is not None else None, max_tokens=max_tokens)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Makes the requests.

    Attributes:
        prompts: Taken in turn; empty: made up, of ``prompt_tokens`` length.
        prompt_tokens: Length of a made-up prompt.
        max_tokens: Length of an answer.
        is_length_forced: Whether the answer must not end earlier (``min_tokens`` is sent too).
        tokens_per_word: Of the model's tokenizer, for made-up prompts.
        parameters: Sent with every request.
        seed: Same seed, same requests.
        stream: Whether to ask for pieces.
    """

    prompts: tuple[Prompt, ...] = ()
    prompt_tokens: Lengths = field(default_factory=lambda: Lengths(shape="fixed", a=64))
    max_tokens: Lengths = field(default_factory=lambda: Lengths(shape="fixed", a=64))
    is_length_forced: bool = False
    tokens_per_word: float = DEFAULT_TOKENS_PER_WORD
    parameters: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    stream: bool = True

    def request(self, arrival: Arrival) -> Generation:
        """Return the request of one arrival."""
        source = random.Random(f"{self.seed}/{arrival.index}")  # noqa: S311 - not for secrets
        prompt = self.prompts[arrival.index % len(self.prompts)] if self.prompts else None
        length = arrival.prompt_tokens or self.prompt_tokens.draw(source)
        output = arrival.max_tokens or (prompt.max_tokens if prompt else None) or self.max_tokens.draw(source)
        parameters = {**self.parameters, "min_tokens": output} if self.is_length_forced else self.parameters
        return Generation(
            text=prompt.text if prompt else words(source, length, self.tokens_per_word),
            messages=prompt.messages if prompt else None,
            max_tokens=output,
            parameters=parameters,
            stream=self.stream,
        )


def words(source: random.Random, tokens: int, tokens_per_word: float) -> str:
    """Return about ``tokens`` tokens of plain words; no two prompts begin alike, so no prefix cache helps."""
    return " ".join(source.choices(_WORDS, k=max(1, round(tokens / tokens_per_word))))
