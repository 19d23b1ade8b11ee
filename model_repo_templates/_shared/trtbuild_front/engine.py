"""The tensor contract of an engine model: TensorRT-LLM's C++ Triton backend, and whatever speaks like it.

It decides names, types and shapes on the engine's side. It does not know connections or text.

Source: TensorRT-LLM, ``triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt``: input and output
names; ``min_length`` and ``random_seed`` became ``min_tokens`` and ``seed`` in 1.0.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trtbuild_front.faults import RequestError
from trtbuild_front.metrics.accounting import EngineTimes
from trtbuild_front.request import GenerationRequest
from trtbuild_front.text.model import TextModel, TooManyTokensError, size_bytes
from trtbuild_front.transport import kserve

_OLD_NAMES = {"min_tokens": "min_length", "seed": "random_seed"}
_IGNORED_IF_ABSENT = frozenset({"input_lengths", "pad_id", "len_penalty", "stop_words_list", "end_id"})
_INPUT_TYPES = {"runtime_top_k": np.int32, "seed": np.uint64, "random_seed": np.uint64}
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


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A request made ready for the engine.

    Attributes:
        token_count: Tokens of the prompt.
        max_tokens: Most tokens to generate, with the default and the engine's limit applied.
        end_ids: Ids that end the generation.
        engine_end_ids: Those of them at which the engine stops by itself.
        body: The ``ModelInferRequest``.
        request_id: Its id, by which the engine can be told to stop.
        echo_ids: Tokens whose text the answer begins with.
    """

    token_count: int
    max_tokens: int
    end_ids: tuple[int, ...]
    engine_end_ids: tuple[int, ...]
    body: bytes
    request_id: str
    echo_ids: tuple[int, ...] = ()


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


def check_size(request: GenerationRequest, text: TextModel, contract: EngineContract) -> int:
    """Return the bytes of a prompt or a conversation that is worth tokenizing or rendering.

    Raises:
        RequestError: It is so long that it cannot fit.
    """
    if request.text is not None:
        size = size_bytes(request.text)
        text.check_text("text_input", size, contract.longest_prompt)
    else:
        size = size_bytes(request.messages or "")
        text.check_messages(size, contract.longest_prompt)
    return size


def _tokens(request: GenerationRequest, text: TextModel, contract: EngineContract, rendered: str | None) -> list[int]:
    name = "text_input" if request.text is not None else "messages"
    longest = contract.longest_prompt
    if request.text is None and rendered is None:
        rendered = text.render(request.messages or "", longest)
    try:
        if request.text is not None:
            ids = text.encode(request.text, most_tokens=longest)
        else:
            ids = text.encode(rendered or "", most_tokens=longest, adds_special_tokens=False)
    except TooManyTokensError as error:
        raise RequestError(f"{name}: the prompt has {error.seen}; this engine takes at most {longest}") from None
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error
    if not ids:
        raise RequestError(f"{name}: the prompt is empty: it has no tokens")
    return ids


def _check_id(name: str, value: int | None, text: TextModel) -> None:
    if value is not None and value >= text.vocab_size:
        raise RequestError(
            f"{name}: expected a token of the model, below {text.vocab_size}, or -1 for none; got {value}"
        )


def _engine_inputs(
    request: GenerationRequest,
    text: TextModel,
    contract: EngineContract,
    *,
    ids: list[int],
    max_tokens: int,
    end_ids: tuple[int, ...],
) -> dict[str, kserve.Array]:
    """Return what the engine gets, under the names of TensorRT-LLM 1.0; what is not set is left out."""
    inputs: dict[str, kserve.Array] = {
        "input_ids": np.array(ids, np.int32),
        "input_lengths": np.array([len(ids)], np.int32),
        "request_output_len": np.array([max_tokens], np.int32),
        "streaming": np.array([True]),
    }
    # The engine stops at one id by itself; further ones go as stop words, which every engine finds.
    if end_ids:
        inputs["end_id"] = np.array(end_ids[:1], np.int32)
        pad_id = next(i for i in (request.pad_id, text.pad_id, end_ids[0]) if i is not None)
        inputs["pad_id"] = np.array([pad_id], np.int32)
    if end_ids[1:]:
        inputs["stop_words_list"] = word_list([(number,) for number in end_ids[1:]])
    if request.bad_words:
        inputs["bad_words_list"] = word_list([one for word in request.bad_words for one in text.encode_word(word)])
    if request.min_tokens:
        inputs["min_tokens"] = np.array([request.min_tokens], np.int32)
    if request.return_log_probs:
        inputs["return_log_probs"] = np.array([True])
    for key, value in request.sampling.items():
        inputs[key] = np.array([value], _INPUT_TYPES.get(key, np.float32))
    # Asked for whether the client does or not: waiting and computing are told apart by the engine's own times.
    if "return_perf_metrics" in contract.inputs:
        inputs["return_perf_metrics"] = np.array([True])
    inputs.update(request.for_engine)
    # The prompt, where it is wanted, is decoded here: the engine need not send it back.
    if "exclude_input_in_output" in contract.inputs:
        inputs["exclude_input_in_output"] = np.array([True])
    return inputs


def prepare(
    request: GenerationRequest,
    text: TextModel,
    contract: EngineContract,
    default_max_tokens: int,
    rendered: str | None = None,
) -> Prompt:
    """Return the prompt in tokens and the message that asks the engine for its continuation.

    Args:
        request: What the client wants.
        text: The model's tokenizer.
        contract: What the engine takes.
        default_max_tokens: For a prompt whose client does not say.
        rendered: The prompt of the request's conversation, if it was rendered before.

    Raises:
        RequestError: Empty or too long, or it asks for what the engine cannot do.
    """
    check_size(request, text, contract)
    _check_id("end_id", request.end_id, text)
    _check_id("pad_id", request.pad_id, text)
    ids = _tokens(request, text, contract, rendered)
    room = contract.max_seq_len - len(ids)
    wanted = request.max_tokens or (room if request.messages is not None else default_max_tokens)
    max_tokens = min(wanted, room)
    end_ids = text.end_ids if request.end_id is None else tuple(i for i in (request.end_id,) if i >= 0)
    inputs = _engine_inputs(request, text, contract, ids=ids, max_tokens=max_tokens, end_ids=end_ids)
    echo_ids = tuple(ids) if request.is_prompt_echoed and request.text is not None else ()
    request_id = secrets.token_hex(8)
    body = _encode(inputs, contract, request_id, request.return_log_probs)
    known = tuple(end_ids[:1] if "end_id" in contract.inputs else ())
    known += tuple(end_ids[1:] if "stop_words_list" in contract.inputs else ())
    return Prompt(
        token_count=len(ids),
        max_tokens=max_tokens,
        end_ids=end_ids,
        engine_end_ids=known,
        body=body,
        request_id=request_id,
        echo_ids=echo_ids,
    )


def stop_message(contract: EngineContract, request_id: str) -> bytes:
    """Return the message that ends a running request, or nothing where the engine model does not know such.

    It is a request of its own; the engine looks at ``stop`` and the id only, but the server wants the mandatory inputs.
    """
    if "stop" not in contract.inputs:
        return b""
    one = np.array([1], np.int32)
    inputs = {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": np.array([True])}
    return _encode(inputs, contract, request_id, with_log_probs=False)


def _encode(inputs: dict[str, kserve.Array], contract: EngineContract, request_id: str, with_log_probs: bool) -> bytes:
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
