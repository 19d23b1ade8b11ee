"""Tokens out: the tensors of a request's responses, and how an error reaches its client.

It decides what every response holds, what only the last one holds, and what is left out because it was not
requested. Which tokens leave together is decided in ``model.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
COUNTS = ("num_input_tokens", "num_output_tokens")
"""Outputs of the last response that ``return_<name>`` asks for."""
_ZERO = np.zeros((1, 1), np.int32)
_TIMES = ("first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


@dataclass
class Pending:
    """A request that has not been answered to its end.

    Attributes:
        sender: Where responses go.
        outputs: Names of the tensors the client wants.
        echo: Tokens that its only response begins with: the prompt, unless ``exclude_input_in_output``.
        tokens: Arrived and not sent yet; with ``streaming`` off, all of them.
        counts: Which of the outputs ``num_input_tokens`` and ``num_output_tokens`` were asked for.
        sent: Number of tokens generated and sent.
        is_unwanted: Its client has gone or stopped it, and the engine was asked to end it.
        end: The engine's last event, once it is there.
    """

    key: int
    request_id: str
    sender: Any
    options: dict[str, Any]
    outputs: frozenset[str]
    is_streaming: bool
    wants_times: bool
    counts: frozenset[str]
    arrival_ns: int
    echo: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    cumulated: float = 0.0
    sent: int = 0
    is_unwanted: bool = False
    end: dict[str, Any] | None = None


def send_part(pending: Pending, tokens: list[int], log_probs: list[float], end: dict[str, Any] | None) -> None:
    """Send new tokens, and the end if it has come."""
    if end is not None and "error" in end:
        code = pb_utils.TritonError.INVALID_ARG if end.get("invalid") else pb_utils.TritonError.INTERNAL
        code = pb_utils.TritonError.UNAVAILABLE if end.get("retryable") else code
        send_error(pending.sender, end["error"], code)
        return
    if not tokens and end is None:
        return
    pending.sent += len(tokens)
    outputs = _outputs(pending, tokens, log_probs)
    if end is not None:
        outputs.update(_last_outputs(pending, end))
    tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in pending.outputs]
    response = pb_utils.InferenceResponse(output_tensors=tensors)
    _send(pending.sender, response, FINAL if end is not None else 0)


def _outputs(pending: Pending, tokens: list[int], log_probs: list[float]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what every response holds."""
    sequence = pending.echo + tokens
    outputs = {
        "output_ids": np.array([[sequence]], np.int32),
        "sequence_length": np.array([[len(sequence)]], np.int32),
        "batch_index": _ZERO,
        "sequence_index": _ZERO,
    }
    if pending.options["log_probs"]:
        pending.cumulated += sum(log_probs)
        outputs["cum_log_probs"] = np.array([[pending.cumulated]], np.float32)
        if log_probs or not pending.is_streaming:  # the end of a stream may come without a token
            outputs["output_log_probs"] = np.array([[log_probs]], np.float32)
    return outputs


def _last_outputs(pending: Pending, end: dict[str, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield what only the last response holds, as far as the client asked for it."""
    for name, count in zip(COUNTS, (len(pending.options["input_ids"]), pending.sent), strict=True):
        if name in pending.counts:
            yield name, np.array([[count]], np.int32)
    if pending.wants_times:
        yield "arrival_time_ns", np.array([[pending.arrival_ns]], np.int64)
        for name, value in zip(_TIMES, end["times"], strict=True):
            yield name, np.array([[value]], np.int64)


def send_error(sender: Any, message: str, code: Any) -> None:
    """End a request with an error."""
    if code == pb_utils.TritonError.UNAVAILABLE:  # in the text too: a gRPC stream carries nothing else
        message = f"UNAVAILABLE: {message}"
    _send(sender, pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), FINAL)


def _send(sender: Any, response: Any, flags: int) -> None:
    try:
        sender.send(response, flags=flags)
    except pb_utils.TritonModelException as error:  # a failed send to one client must not stop the responses of others
        pb_utils.Logger.log_warn(f"a response could not be sent: {error}")
