"""A request made ready for the engine: checked by size, in tokens, in one message.

It decides what the engine is asked for. How the message looks is ``engine.py``'s.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from trtbuild_front.engine import EngineContract, encode_call, word_list
from trtbuild_front.faults import RequestError
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.text.model import TextModel, TooManyTokensError, size_bytes
from trtbuild_front.transport import kserve

FORBIDDING_BIAS = -100.0
"""A bias that excludes a token. Source: OpenAI's API reference, ``logit_bias``."""

_INPUT_TYPES = {"runtime_top_k": np.int32, "seed": np.uint64, "random_seed": np.uint64}


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


def check_size(request: GenerationRequest, text: TextModel, contract: EngineContract) -> int:
    """Return the bytes of a prompt or a conversation that is worth tokenizing or rendering.

    Raises:
        RequestError: It is so long that it cannot fit.
    """
    if request.token_ids is not None:
        return 0
    if request.text is not None:
        size = size_bytes(request.text)
        text.check_text("text_input", size, contract.longest_prompt)
    else:
        size = size_bytes(request.messages or "") + size_bytes(request.template_options)
        text.check_messages(size, contract.longest_prompt)
    return size


def _given_tokens(ids: tuple[int, ...], text: TextModel, longest: int) -> list[int]:
    if len(ids) > longest:
        raise RequestError(f"prompt: {len(ids)} tokens; this engine takes at most {longest}")
    outside = next((number for number in ids if not 0 <= number < text.vocab_size), None)
    if outside is not None:
        raise RequestError(f"prompt: expected tokens from 0 to {text.vocab_size - 1}, got {outside}")
    if not ids:
        raise RequestError("prompt: it is empty: it has no tokens")
    return list(ids)


def tokens_of(
    request: GenerationRequest, text: TextModel, contract: EngineContract, rendered: str | None = None
) -> list[int]:
    """Return the prompt of a request in tokens.

    Args:
        request: What the client wants.
        text: The model's tokenizer.
        contract: What the engine takes.
        rendered: The prompt of the request's conversation, if it was rendered before.

    Raises:
        RequestError: It is empty or too long, or has what is no token or no text.
    """
    name = "text_input" if request.text is not None else "messages"
    longest = contract.longest_prompt
    if request.token_ids is not None:
        return _given_tokens(request.token_ids, text, longest)
    if request.text is None and rendered is None:
        rendered = text.render(request.messages or "", longest, request.template_options)
    try:
        prompt = request.text if request.text is not None else rendered or ""
        adds = request.text is not None if request.adds_special_tokens is None else request.adds_special_tokens
        ids = text.encode(prompt, most_tokens=longest, adds_special_tokens=adds)
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


def _token_bias(
    request: GenerationRequest, text: TextModel, contract: EngineContract
) -> tuple[dict[str, kserve.Array], list[int]]:
    """Return the engine's input for a request's bias of single tokens, or else the tokens that it forbids.

    Source: TensorRT-LLM's C++ backend has ``embedding_bias``, one number per token of the vocabulary.
    """
    bias = {number: value for number, value in request.token_bias.items() if value}
    for number in bias:
        if not 0 <= number < text.vocab_size:
            raise RequestError(f"logit_bias: expected tokens from 0 to {text.vocab_size - 1}, got {number}")
    if bias and "embedding_bias" in contract.inputs:
        row = np.zeros(text.vocab_size, np.float32)
        row[list(bias)] = list(bias.values())
        return {"embedding_bias": row}, []
    other = next((number for number, value in bias.items() if value > FORBIDDING_BIAS), None)
    if other is not None:
        raise RequestError(
            f"logit_bias: this engine can forbid tokens ({FORBIDDING_BIAS:g}) and do nothing else with them; got "
            f"{bias[other]:g} for token {other}"
        )
    return {}, sorted(bias)


def _end_ids(request: GenerationRequest, text: TextModel) -> tuple[int, ...]:
    own = text.end_ids if request.end_id is None else tuple(i for i in (request.end_id,) if i >= 0)
    for number in request.stop_token_ids:
        _check_id("stop_token_ids", number, text)
    return tuple(dict.fromkeys((*own, *request.stop_token_ids)))


def _request_id(client_id: str) -> str:
    """Return an id that no other request has, with what the client calls it in front."""
    own = secrets.token_hex(8)
    return f"{client_id}-{own}" if client_id else own


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
    bias, forbidden = _token_bias(request, text, contract)
    if request.bad_words or forbidden:
        words = [one for word in request.bad_words for one in text.encode_word(word)]
        inputs["bad_words_list"] = word_list([*words, *((number,) for number in forbidden)])
    inputs.update(bias)
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
    ids = tokens_of(request, text, contract, rendered)
    room = contract.max_seq_len - len(ids)
    wanted = request.max_tokens or (room if request.messages is not None else default_max_tokens)
    max_tokens = min(wanted, room)
    end_ids = _end_ids(request, text)
    inputs = _engine_inputs(request, text, contract, ids=ids, max_tokens=max_tokens, end_ids=end_ids)
    echo_ids = tuple(ids) if request.is_prompt_echoed and request.text is not None else ()
    request_id = _request_id(request.client_id)
    body = encode_call(inputs, contract, request_id, request.return_log_probs)
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
