"""The tensor contract of an engine model: TensorRT-LLM's C++ Triton backend, and whatever speaks like it.

It decides names, types and shapes on the engine's side. It does not know connections or text.

Source: TensorRT-LLM, ``triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt``: input and output
names; ``min_length`` and ``random_seed`` became ``min_tokens`` and ``seed`` in 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trtbuild_front.faults import RequestError
from trtbuild_front.metrics.accounting import EngineTimes
from trtbuild_front.transport import kserve

_OLD_NAMES = {"min_tokens": "min_length", "seed": "random_seed"}
_IGNORED_IF_ABSENT = frozenset({"input_lengths", "pad_id", "len_penalty", "stop_words_list", "end_id"})
SECRET_VARIABLE = "TRTBUILD_ENGINE_SECRET"  # noqa: S105 - the variable's name
"""Environment variable with what an engine model that takes requests from its front model only expects of them.

``trtbuild serve`` sets it for the server, whose model processes inherit it."""

SECRET_PARAMETER = "trtbuild_engine_secret"  # noqa: S105 - the parameter's name
TIME_OUTPUTS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


@dataclass(frozen=True, kw_only=True)
class EngineContract:
    """What the engine model's configuration says.

    Attributes:
        model: Name of the engine model.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        has_batch_dimension: Whether tensors begin with a batch dimension (``max_batch_size`` > 0).
        max_input_len: Longest prompt, in tokens.
        max_seq_len: Longest prompt plus generation, in tokens.
        secret: What the engine model knows its front model by; empty for one that does not ask.
    """

    model: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    has_batch_dimension: bool
    max_input_len: int
    max_seq_len: int
    secret: str = field(default="", repr=False)

    @property
    def longest_prompt(self) -> int:
        """Most tokens of a prompt that leaves room for one more."""
        return min(self.max_input_len, self.max_seq_len - 1)


@dataclass(slots=True, kw_only=True)
class Update:
    """What one response of the engine brings.

    Attributes:
        token_ids: Tokens since the last response.
        log_probs: Their log probabilities, when asked for.
        cum_log_prob: Sum of log probabilities so far, when asked for.
        times_ns: In the last response of an engine that measures, in the order of :data:`TIME_OUTPUTS`, in
            nanoseconds of a clock of its own.
        error: The engine's refusal; empty on success.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    cum_log_prob: float | None = None
    times_ns: tuple[int, ...] = ()
    error: str = ""


def word_list(words: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Return ``int32[2, n]``: all ids one after another, and where each word ends (padded with -1)."""
    flat = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return np.array([flat, ends + [-1] * (len(flat) - len(ends))], np.int32)


def stop_message(contract: EngineContract, request_id: str) -> bytes:
    """Return the message that ends a running request, or nothing where the engine model does not know such.

    It is a request of its own; the engine looks at ``stop`` and the id only, but the server wants the mandatory inputs.
    """
    if "stop" not in contract.inputs:
        return b""
    one = np.array([1], np.int32)
    inputs = {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": np.array([True])}
    return encode_call(inputs, contract, request_id, with_log_probs=False)


def encode_call(
    inputs: Mapping[str, kserve.Array], contract: EngineContract, request_id: str, with_log_probs: bool
) -> bytes:
    """Return the message that asks the engine model; inputs that it has under an older name are sent under that.

    Raises:
        RequestError: It has no such input, and leaving it out would change the result.
    """
    sent: dict[str, kserve.Array] = {}
    for name, value in inputs.items():
        known = name if name in contract.inputs else _OLD_NAMES.get(name, name)
        if known in contract.inputs:
            sent[known] = value[np.newaxis] if contract.has_batch_dimension else value
        elif name not in _IGNORED_IF_ABSENT:
            raise RequestError(f"{name}: the engine model {contract.model!r} has no such input")
    wanted = ["output_ids", *TIME_OUTPUTS]
    if with_log_probs:
        wanted += ["output_log_probs", "cum_log_probs"]
    wanted = [name for name in wanted if name in contract.outputs]
    proof = {SECRET_PARAMETER: contract.secret} if contract.secret else {}
    return kserve.encode_request(contract.model, request_id, sent, wanted, proof)


def read_update(message: bytes) -> Update:
    """Return what a ``ModelStreamInferResponse`` of the engine says.

    Raises:
        ValueError: It is not such a message.
    """
    response = kserve.decode_response(message)
    outputs = response.outputs
    ids = outputs.get("output_ids")
    if len(outputs) == 1 and ids is not None and not response.error:  # all but the last message of a plain request
        return Update(token_ids=tuple(ids.reshape(-1).tolist()))
    log_probs = outputs.get("output_log_probs")
    cumulative = outputs.get("cum_log_probs")
    return Update(
        token_ids=tuple(ids.reshape(-1).tolist()) if ids is not None else (),
        log_probs=tuple(log_probs.reshape(-1).tolist()) if log_probs is not None else (),
        cum_log_prob=float(cumulative.reshape(-1)[-1]) if cumulative is not None and cumulative.size else None,
        times_ns=_times([outputs.get(name) for name in TIME_OUTPUTS]),
        error=response.error,
    )


def _times(arrays: list[kserve.Array | None]) -> tuple[int, ...]:
    values = tuple(int(array.reshape(-1)[0]) for array in arrays if array is not None and array.size)
    return values if len(values) == len(TIME_OUTPUTS) and min(values) > 0 else ()


def engine_times(times_ns: Sequence[int]) -> EngineTimes | None:
    """Return the share of waiting and of computing in what an :class:`Update` says, None where it says nothing."""
    if not times_ns:
        return None
    arrival, scheduled, _, last = times_ns
    return EngineTimes(waited_s=(scheduled - arrival) / 1e9, computed_s=(last - scheduled) / 1e9)
