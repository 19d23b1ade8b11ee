"""What a client asks for: inputs of the front model, checked and frozen.

It decides names, defaults and legal values. It does not know tokens or engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front import upstream
from trtbuild_front.faults import RequestError
from trtbuild_front.limits import MAX_MESSAGES_BYTES, MAX_TEXT_BYTES, MAX_WORD_BYTES, MAX_WORDS, MAX_WORDS_BYTES
from trtbuild_front.parameters import check_parameters

DEFAULT_MAX_TOKENS = 16
_LARGEST_SINGLE = float(np.finfo(np.float32).max)
_LARGEST = 2**31 - 1  # the engine counts in 32 bits
_SPELLINGS = (("min_tokens", "min_length"), ("seed", "random_seed"))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How requests to a model are to be understood.

    Attributes:
        inputs: Names of the model's inputs; parameters with other names are refused. None accepts any parameter.
        is_decoupled: Whether the model may send several responses, which streaming needs.
        echoes_prompt: Whether whole answers begin with the prompt unless ``exclude_input_in_output`` is true.
            Source: TensorRT-LLM, docs of ``exclude_input_in_output`` (default false); streams never begin with it.
    """

    inputs: frozenset[str] | None = None
    is_decoupled: bool = True
    echoes_prompt: bool = False


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One request, as the client meant it. None means "not said".

    Attributes:
        text: The prompt, or None when ``messages`` is given.
        messages: JSON text of a conversation, or None.
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
    """

    text: str | None = None
    messages: str | None = None
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


@dataclass(frozen=True)
class _Number:
    """A numeric input: the engine's name for it and its legal range; ``unset_at`` and below mean "not said"."""

    engine_name: str
    low: float
    high: float = math.inf
    is_low_open: bool = False
    is_integer: bool = False
    unset_at: float = -math.inf

    def is_unset(self, value: float) -> bool:
        return self.unset_at > -math.inf and value <= self.unset_at

    def check(self, name: str, value: float) -> int | float:
        above = value > self.low if self.is_low_open else value >= self.low
        is_single = self.is_integer or abs(value) <= _LARGEST_SINGLE
        if not math.isfinite(value) or not above or value > self.high or not is_single:
            bound = ">" if self.is_low_open else ">="
            upper = f" and <= {self.high:g}" if self.high < math.inf else ""
            raise RequestError(f"{name}: expected a number {bound} {self.low:g}{upper}, got {value:g}")
        return int(value) if self.is_integer else float(value)


_SAMPLING = {
    "temperature": _Number("temperature", 0.0),
    "top_k": _Number("runtime_top_k", 0, _LARGEST, is_integer=True),
    # Source: TensorRT-LLM, inflight_batcher_llm/src/utils.cc getSamplingConfigFromTensors: top_p <= 0 is reset.
    "top_p": _Number("runtime_top_p", 0.0, 1.0, is_low_open=True, unset_at=0.0),
    "repetition_penalty": _Number("repetition_penalty", 0.0, is_low_open=True),
    "presence_penalty": _Number("presence_penalty", -2.0, 2.0),
    "frequency_penalty": _Number("frequency_penalty", -2.0, 2.0),
    "length_penalty": _Number("len_penalty", -math.inf),
    "seed": _Number("seed", 0, 2**64 - 1, is_integer=True),
}


def read_text(name: str, value: object, limit_bytes: int) -> str:
    """Return the text of a string element; one that is too long is not copied.

    Raises:
        RequestError: It is too long, or no UTF-8.
    """
    if not isinstance(value, (bytes, str)):
        raise RequestError(f"{name}: expected text, got {type(value).__name__.rstrip('0123456789_')}")
    if len(value) > limit_bytes:
        raise RequestError(f"{name}: expected at most {limit_bytes} bytes, got {len(value)}")
    try:
        return value.decode() if isinstance(value, bytes) else value.encode().decode()
    except UnicodeError as error:
        raise RequestError(f"{name}: expected UTF-8 text, got bytes that are not ({error})") from error


def read_words(name: str, items: npt.NDArray[Any]) -> tuple[str, ...]:
    """Return the strings of a list input; empty ones mean "none", as clients send them.

    Raises:
        RequestError: There are too many, one is too long, all are too long together, or one is no UTF-8.
    """
    if items.size > MAX_WORDS:
        raise RequestError(f"{name}: expected at most {MAX_WORDS} strings, got {items.size}")
    words = tuple(text for item in items.reshape(-1) if (text := read_text(name, item, MAX_WORD_BYTES)))
    total = sum(len(word.encode()) for word in words)
    if total > MAX_WORDS_BYTES:
        raise RequestError(f"{name}: expected at most {MAX_WORDS_BYTES} bytes in all strings together, got {total}")
    return words


class _Inputs:
    """Reads one-element and list inputs; both spellings of renamed ones."""

    def __init__(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        self._values = dict(values)
        for name, old_name in _SPELLINGS:
            if old_name in self._values:
                if name in self._values:
                    raise RequestError(f"{name} and {old_name} are two spellings of one input; send one of them")
                self._values[name] = self._values.pop(old_name)

    def one(self, name: str) -> Any:
        """Return the only element of an input, or None when it was not sent."""
        array = self._values.get(name)
        if array is None:
            return None
        if array.size != 1:
            raise RequestError(f"{name}: expected one value, got {array.size} (shape {list(array.shape)})")
        return array.reshape(-1)[0]

    def number(self, name: str) -> Any:
        """Return the only element of a numeric input, or None when it was not sent."""
        value = self.one(name)
        if value is not None and not isinstance(value, (bool, int, float, np.bool_, np.number)):
            raise RequestError(f"{name}: expected a number, got text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.number(name)
        return default if value is None else bool(value)

    def text(self, name: str, limit_bytes: int) -> str | None:
        value = self.one(name)
        return None if value is None else read_text(name, value, limit_bytes)

    def integer(self, name: str, low: int) -> int | None:
        value = self.number(name)
        if value is None:
            return None
        if not math.isfinite(value):
            raise RequestError(f"{name}: expected a whole number, got {value}")
        if int(value) < low:
            raise RequestError(f"{name}: expected at least {low}, got {int(value)}")
        if int(value) > _LARGEST:
            raise RequestError(f"{name}: expected at most {_LARGEST}, got {int(value)}")
        return int(value)

    def words(self, name: str) -> tuple[str, ...]:
        array = self._values.get(name)
        return () if array is None else read_words(name, array)


def parse_request(
    values: Mapping[str, npt.NDArray[Any]], dialect: Dialect | None = None, parameters: str = ""
) -> GenerationRequest:
    """Return the request that is in the inputs of the front model (any shapes with the right number of elements).

    Args:
        values: The inputs.
        dialect: How they are meant.
        parameters: The request parameters, as the Python backend hands them over.

    Raises:
        RequestError: An input is missing, unknown, twice there or out of range; the message names it.
    """
    dialect = dialect or Dialect()
    if dialect.inputs is not None:
        check_parameters(parameters, dialect.inputs)
    upstream.refuse(values, upstream.NEVER_SERVED)
    inputs = _Inputs(values)
    text, messages = inputs.text("text_input", MAX_TEXT_BYTES), inputs.text("messages", MAX_MESSAGES_BYTES)
    if messages is not None and text == "":  # clients that fill every mandatory input
        text = None
    if (text is None) == (messages is None):
        got = "neither" if text is None else "both"
        raise RequestError(f"expected text_input or messages, got {got}; send one of the two")
    sampling = {
        number.engine_name: number.check(name, value)
        for name, number in _SAMPLING.items()
        if (value := inputs.number(name)) is not None and not number.is_unset(value)
    }
    stream = inputs.flag("stream", False)
    if stream and not dialect.is_decoupled:
        raise RequestError(
            "stream: this model is served with decoupled: false and answers once; leave stream out, or serve it with "
            "decoupled: true"
        )
    end_id = inputs.integer("end_id", -1)
    pad_id = inputs.integer("pad_id", -1)
    return GenerationRequest(
        text=text,
        messages=messages,
        max_tokens=inputs.integer("max_tokens", 1),
        stream=stream,
        sampling=sampling,
        min_tokens=inputs.integer("min_tokens", 0) or 0,
        stop_words=inputs.words("stop_words"),
        bad_words=inputs.words("bad_words"),
        end_id=end_id,
        pad_id=pad_id,
        return_log_probs=inputs.flag("return_log_probs", False),
        return_perf_metrics=inputs.flag("return_perf_metrics", False),
        is_prompt_echoed=_is_echoed(inputs, dialect, stream),
        for_engine=upstream.for_engine(values),
    )


def _is_echoed(inputs: _Inputs, dialect: Dialect, stream: bool) -> bool:
    if dialect.echoes_prompt:
        return not stream and not inputs.flag("exclude_input_in_output", False)
    return not inputs.flag("exclude_input_in_output", True)
