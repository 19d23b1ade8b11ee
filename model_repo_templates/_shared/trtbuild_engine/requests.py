"""Tensors in: what a request asks for, checked, in the words of the engine process.

It decides names, ranges and defaults of the engine model's inputs: those of TensorRT-LLM's C++ backend. It does not
know the engine; what an engine cannot do is refused by its worker.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

SECRET_VARIABLE = "TRTBUILD_ENGINE_SECRET"  # noqa: S105 - the variable's name
_SECRET_PARAMETER = "trtbuild_engine_secret"  # noqa: S105 - the parameter's name


class InvalidRequestError(Exception):
    """A request that can never work, in words for its sender."""


class Inputs:
    """The tensors of one request, checked."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return a tensor, None when it was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        return None if tensor is None else tensor.as_numpy()

    def number(self, name: str, default: Any, low: float, high: float, *, is_raised: bool = False) -> Any:
        """Return a scalar as a Python number, or ``default``; with ``is_raised``, ``low`` for anything below.

        Raises:
            InvalidRequestError: It is not one number between ``low`` and ``high``.
        """
        values = self.array(name)
        if values is None or values.size == 0:
            return default
        value = values.reshape(-1)[0].item()
        if values.size != 1:
            raise InvalidRequestError(f"{name}: expected one value, got {values.size}")
        value = low if is_raised and value < low else value
        if not low <= value <= high:  # also refuses NaN
            raise InvalidRequestError(f"{name}: expected {_plain(low)} to {_plain(high)}, got {_plain(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a scalar as a truth value, or ``default``."""
        values = self.array(name)
        return default if values is None or not values.size else bool(values.reshape(-1)[0])

    def spelling(self, name: str, older: str) -> str:
        """Return under which of its two names an input was sent.

        Raises:
            InvalidRequestError: Under both.
        """
        if self.array(older) is None:
            return name
        if self.array(name) is not None:
            raise InvalidRequestError(f"{name} and {older} are two spellings of one input; send one of them")
        return older

    def words(self, name: str) -> list[list[int]]:
        """Return a word list of TensorRT-LLM's form: ``int32[2, n]``, ids one after the other, then where each ends.

        Source: TensorRT-LLM, ``to_word_list_format``; unused places hold -1.
        """
        values = self.array(name)
        if values is None or values.size == 0:
            return []
        if values.ndim < 2 or values.shape[-2] != 2 or values.size != 2 * values.shape[-1]:
            raise InvalidRequestError(f"{name}: expected int32[2, n], got shape {list(values.shape)}")
        ids, ends = (row.tolist() for row in values.reshape(2, -1))
        words, start = [], 0
        for end in ends:
            if end < 0:
                break
            if not start <= end <= len(ids):
                raise InvalidRequestError(f"{name}: offsets must rise up to {len(ids)}, got {ends}")
            if end > start:
                words.append(ids[start:end])
            start = end
        return words


def is_from_front(request: Any, secret: str) -> bool:
    """Return whether a request carries the secret that this server's model processes share."""
    try:
        shown = json.loads(request.parameters() or "{}").get(_SECRET_PARAMETER)
    except ValueError:  # a client may send any text as a parameter, also what is no Unicode
        return False
    return isinstance(shown, str) and hmac.compare_digest(shown.encode(errors="replace"), secret.encode())


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def read_options(inputs: Inputs) -> dict[str, Any]:
    """Return a request's options as the engine process takes them.

    Raises:
        InvalidRequestError: A tensor is missing or out of range.
    """
    ids = inputs.array("input_ids")
    if ids is None:
        raise InvalidRequestError("input_ids: missing")
    if ids.ndim > 1 and ids.size != ids.shape[-1]:
        raise InvalidRequestError(f"input_ids: expected one prompt per request, got shape {list(ids.shape)}")
    flat = ids.reshape(-1).tolist()
    used = inputs.number("input_lengths", len(flat), 0, len(flat))
    new = inputs.number("request_output_len", None, 1, 2**31 - 1)
    if new is None:
        raise InvalidRequestError("request_output_len: missing")
    for name in ("beam_width", "num_return_sequences"):
        if inputs.number(name, 1, 0, 2**31 - 1) > 1:
            raise InvalidRequestError(f"{name}: this engine has no beam search, expected 1")
    for name in ("return_context_logits", "return_generation_logits"):
        if inputs.flag(name):
            raise InvalidRequestError(f"{name}: this engine returns no logits; leave {name} out")
    min_tokens = inputs.number(inputs.spelling("min_tokens", "min_length"), 0, 0, 2**31 - 1)
    options = {
        "input_ids": flat[:used],
        "request_output_len": new,
        "repetition_penalty": inputs.number("repetition_penalty", 1.0, 1e-6, 1e6),
        "presence_penalty": inputs.number("presence_penalty", 0.0, -2.0, 2.0),
        "frequency_penalty": inputs.number("frequency_penalty", 0.0, -2.0, 2.0),
        "log_probs": inputs.flag("return_log_probs"),
        "stop_words": inputs.words("stop_words_list"),
        "min_tokens": min(min_tokens, new),
    }
    end_id = inputs.number("end_id", -1, -(2**31), 2**31 - 1)
    if end_id >= 0:
        options["end_id"] = end_id
    options["bad_words"] = inputs.words("bad_words_list")
    _check_bad_words(options)
    return {**options, **_sampling(inputs)}


def _sampling(inputs: Inputs) -> dict[str, Any]:
    """Return how tokens are chosen, with TensorRT-LLM's meaning of absent and zero values.

    Nothing, ``top_k`` 1, or ``temperature`` 0 is greedy; ``top_k`` 0 is no limit; ``top_p`` 0 or less is no limit
    beside a ``top_k``. Without a seed each request draws its own.
    """
    temperature = inputs.number("temperature", 1.0, 0.0, 1e6)
    top_k = inputs.number("runtime_top_k", 0, 0, 2**31 - 1)
    top_p = inputs.number("runtime_top_p", 0.0, 0.0, 1.0, is_raised=True)
    min_p = inputs.number("min_p", 0.0, 0.0, 1.0)
    seed = inputs.number(inputs.spelling("seed", "random_seed"), None, 0, 2**64 - 1)
    if top_k == 1 or temperature == 0.0 or (top_k == 0 and top_p == 0.0):
        return {"sample": False}
    return {
        "sample": True,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p or 1.0,
        "min_p": min_p,
        "seed": secrets.randbits(63) if seed is None else seed,
        "is_seeded": seed is not None,
    }


def _check_bad_words(options: dict[str, Any]) -> None:
    """Refuse what would have to count tokens across the restarts that some bad words need (see ``engine_worker``)."""
    words = options["bad_words"]
    needs_restarts = any(len(word) > 1 for word in words) or bool(words and options["min_tokens"])
    if needs_restarts and (options["presence_penalty"] or options["frequency_penalty"]):
        raise InvalidRequestError(
            "bad_words_list: with sequences of tokens or min_tokens, this engine takes no presence_penalty and no "
            "frequency_penalty"
        )
