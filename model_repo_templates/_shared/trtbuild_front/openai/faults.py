"""How the faults of the front model are told in OpenAI's terms: a status, the field, and when to try again.

It decides statuses. What is a fault of whom is decided where faults are raised.
"""

from __future__ import annotations

import re

from trtbuild_http.errors import ApiError

from trtbuild_front.faults import BusyError, EngineError, OverloadError, RequestError

FULL_RETRY_S = 1
"""A full queue moves all the time."""

DOWN_RETRY_S = 2
"""Another replica can take the request at once; an engine takes a few seconds to come back."""

_PARAM = re.compile(r"([a-z_]{1,40})[\[.:]")
_NAMES = {
    "text_input": "prompt",
    "stop_words": "stop",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "bad_words_list": "bad_words",
    "stop_words_list": "stop",
    "min_length": "min_tokens",
    "random_seed": "seed",
    "output_log_probs": "logprobs",
    "return_log_probs": "logprobs",
}
"""What a field of OpenAI's requests is called further down."""

_WORDS = {"send text_input": "use /v1/completions", "this model takes text_input only": "use /v1/completions"}
"""Advice for clients of Triton's protocols, and the same for clients of this API."""


def as_api_error(fault: Exception) -> ApiError:
    """Return the error that a client of this API gets."""
    if isinstance(fault, ApiError):
        return fault
    message = str(fault)
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if isinstance(fault, RequestError):
        found = _PARAM.match(message)
        if found is None:
            return ApiError(400, message)
        name = _NAMES.get(found[1], found[1])
        return ApiError(400, name + message[len(found[1]) :], param=name)
    if isinstance(fault, BusyError):
        return ApiError(429, message, code="queue_full", retry_after_s=FULL_RETRY_S)
    if isinstance(fault, OverloadError):
        return ApiError(503, message, code="unavailable", retry_after_s=DOWN_RETRY_S)
    if isinstance(fault, EngineError):
        return ApiError(500, message, code="engine_failed")
    return ApiError(500, f"the request failed unexpectedly: {type(fault).__name__}")
