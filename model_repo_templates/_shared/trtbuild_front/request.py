"""What a client of Triton asks for: inputs of the front model, checked and frozen.

It decides names and defaults. It does not know tokens or engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front import upstream
from trtbuild_front.faults import RequestError
from trtbuild_front.generation_request import LARGEST, SAMPLING, GenerationRequest
from trtbuild_front.limits import MAX_MESSAGES_BYTES, MAX_TEXT_BYTES, MAX_WORD_BYTES, MAX_WORDS, MAX_WORDS_BYTES
from trtbuild_front.parameters import check_parameters

DEFAULT_MAX_TOKENS = 16
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
        if int(value) > LARGEST:
            raise RequestError(f"{name}: expected at most {LARGEST}, got {int(value)}")
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
        for name, number in SAMPLING.items()
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
