"""What a request for text asks for, whatever protocol it came by: a frozen value, and the legal range of each number.

It decides legal values. How a protocol spells them is decided where it is read: ``request.py`` for Triton's tensors,
``openai/`` for OpenAI's JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front.faults import RequestError
from trtbuild_front.shared_prompt import SharedPrompt

LARGEST = 2**31 - 1
"""The engine counts in 32 bits."""

_LARGEST_SINGLE = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One request, as the client meant it. None means "not said".

    Attributes:
        text: The prompt, or None when it is given in another form.
        token_ids: The prompt as tokens, or None.
        messages: JSON text of a conversation, or None.
        template_options: JSON text of what the chat template gets besides ``messages``, see
            :func:`trtbuild_front.text.chat.parse_options`; empty for nothing.
        max_tokens: Most tokens to generate.
        stream: Whether to answer in pieces.
        sampling: Engine inputs by name: ``temperature``, ``runtime_top_k`` ...; only those that the client set.
        min_tokens: Tokens to generate before an end or a stop string counts.
        stop_words: Strings that end the generation; not part of the answer.
        bad_words: Words the engine must not generate.
        end_id: Replaces the model's own end ids.
        pad_id: Replaces the model's own padding id.
        return_log_probs: Whether log probabilities are wanted.
        return_perf_metrics: Whether the times of arrival, scheduling, first and last token are wanted.
        is_prompt_echoed: Whether the answer begins with the prompt.
        for_engine: Further inputs that the engine model takes as they are (LoRA, guided decoding ...).
        stop_token_ids: Tokens that end the generation beside the model's own end ids; not part of the answer.
        token_bias: What is added to the logits of single tokens.
        adds_special_tokens: Whether the tokenizer adds its own (BOS) to the prompt; None for what is usual: to a text,
            and not to what a chat template wrote.
        skips_special_tokens: Whether special tokens are left out of the text.
        wants_tokens: Whether pieces are to say which tokens their text is made of.
        shared: The prompt, where other requests have the same.
        client_id: How the client calls the request; part of the id that the engine model sees.
    """

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: str | None = None
    template_options: str = ""
    max_tokens: int | None = None
    stream: bool = False
    sampling: Mapping[str, int | float] = field(default_factory=dict)
    min_tokens: int = 0
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    end_id: int | None = None
    pad_id: int | None = None
    return_log_probs: bool = False
    return_perf_metrics: bool = False
    is_prompt_echoed: bool = False
    for_engine: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    token_bias: Mapping[int, float] = field(default_factory=dict)
    adds_special_tokens: bool | None = None
    skips_special_tokens: bool = True
    wants_tokens: bool = False
    shared: SharedPrompt | None = field(default=None, compare=False)
    client_id: str = ""


@dataclass(frozen=True)
class Number:
    """A numeric input: the engine's name for it and its legal range; ``unset_at`` and below mean "not said"."""

    engine_name: str
    low: float
    high: float = math.inf
    is_low_open: bool = False
    is_integer: bool = False
    unset_at: float = -math.inf

    def is_unset(self, value: float) -> bool:
        """Return whether a value means "not said"."""
        return self.unset_at > -math.inf and value <= self.unset_at

    def check(self, name: str, value: float) -> int | float:
        """Return a legal value.

        Raises:
            RequestError: It is out of range; the message names the input.
        """
        above = value > self.low if self.is_low_open else value >= self.low
        is_single = self.is_integer or abs(value) <= _LARGEST_SINGLE
        if not math.isfinite(value) or not above or value > self.high or not is_single:
            bound = ">" if self.is_low_open else ">="
            upper = f" and <= {self.high:g}" if self.high < math.inf else ""
            raise RequestError(f"{name}: expected a number {bound} {self.low:g}{upper}, got {value:g}")
        return int(value) if self.is_integer else float(value)


SAMPLING = {
    "temperature": Number("temperature", 0.0),
    "top_k": Number("runtime_top_k", 0, LARGEST, is_integer=True),
    # Source: TensorRT-LLM, inflight_batcher_llm/src/utils.cc getSamplingConfigFromTensors: top_p <= 0 is reset.
    "top_p": Number("runtime_top_p", 0.0, 1.0, is_low_open=True, unset_at=0.0),
    "min_p": Number("min_p", 0.0, 1.0, unset_at=0.0),
    "repetition_penalty": Number("repetition_penalty", 0.0, is_low_open=True),
    "presence_penalty": Number("presence_penalty", -2.0, 2.0),
    "frequency_penalty": Number("frequency_penalty", -2.0, 2.0),
    "length_penalty": Number("len_penalty", -math.inf),
    "seed": Number("seed", 0, 2**64 - 1, is_integer=True),
}
"""By the name that clients use; the same in both protocols."""
