"""A request of OpenAI's API, read: what the engine is asked for, once per answer, and in which form it is answered.

It decides defaults and which combinations make sense. What a single field may hold is decided in ``fields.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trtbuild_http.jsontext import dumps

from trtbuild_front.generation_request import SAMPLING, GenerationRequest
from trtbuild_front.limits import MAX_WORDS_BYTES
from trtbuild_front.openai import fields
from trtbuild_front.openai.schema import check_body, refuse, shown
from trtbuild_front.shared_prompt import SharedPrompt

_SEEDS = 2**64
_CLIENT_ID_LENGTH = 64
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_OPTIONS = ("tools", "documents", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a request may ask of a model.

    Attributes:
        sampling_defaults: What the model's authors recommend, see ``TextModel``.
        has_log_probs: Whether the engine gives log probabilities.
        most_at_once: Requests that fit into slots and line together; 0 for no limit.
    """

    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    has_log_probs: bool = True
    most_at_once: int = 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a client wants.

    Attributes:
        requests: One per answer, in the order of their index.
        per_prompt: Answers to each prompt: ``n``.
        streams: Whether answers come in events.
        includes_usage: Whether the stream ends with the counts of tokens.
        has_log_probs: Whether answers say their tokens' log probabilities.
        top_log_probs: Of how many tokens at each place; 0 for the chosen one alone.
    """

    requests: tuple[GenerationRequest, ...]
    per_prompt: int
    streams: bool
    includes_usage: bool
    has_log_probs: bool
    top_log_probs: int


def read_chat(body: Mapping[str, Any], model: ModelFacts, request_id: str) -> Wanted:
    """Read the body of ``/v1/chat/completions``.

    Raises:
        ApiError: 400 that names the field.
        RequestError: The same, from the front model's own checks.
    """
    check_body(body, fields.CHAT, ("messages",))
    _refuse_unserved(body, fields.REFUSED_IN_CHATS)
    top = int(_get(body, "top_logprobs", 0))
    has_log_probs = bool(_get(body, "logprobs", False))
    if top and not has_log_probs:
        raise refuse("top_logprobs", "top_logprobs: expected logprobs to be true beside it")
    messages, options = conversation(body)
    base = GenerationRequest(
        messages=messages,
        template_options=options,
        max_tokens=_integer(body, "max_completion_tokens") or _integer(body, "max_tokens"),
    )
    _check_log_probs(body, model, "top_logprobs" if has_log_probs else "", top)
    return _wanted(body, model, request_id, [base], has_log_probs=has_log_probs, top=top)


def read_completion(body: Mapping[str, Any], model: ModelFacts, request_id: str) -> Wanted:
    """Read the body of ``/v1/completions``.

    Raises:
        ApiError: 400 that names the field.
        RequestError: The same, from the front model's own checks.
    """
    check_body(body, fields.COMPLETION, ("prompt",))
    _refuse_unserved(body, fields.REFUSED_IN_COMPLETIONS)
    max_tokens = _integer(body, "max_tokens")
    bases = [replace(prompt, max_tokens=max_tokens) for prompt in _prompts(body["prompt"])]
    log_probs = _integer(body, "logprobs")
    _check_log_probs(body, model, "" if log_probs is None else "logprobs", log_probs or 0)
    return _wanted(body, model, request_id, bases, has_log_probs=log_probs is not None, top=log_probs or 0)


def conversation(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return a conversation and what its template gets besides, both as JSON text.

    Raises:
        ApiError: Two fields contradict each other.
    """
    options = {name: body[name] for name in _OPTIONS if body.get(name) is not None}
    if options.get("continue_final_message"):
        if options.get("add_generation_prompt"):
            raise refuse(
                "continue_final_message",
                "continue_final_message: it cannot be true beside add_generation_prompt: a message is continued, or a "
                "new one is begun",
            )
        options["add_generation_prompt"] = False
    if not options.get("tools"):
        options.pop("tools", None)
    return dumps(body["messages"]).decode(), dumps(options).decode()


def _refuse_unserved(body: Mapping[str, Any], table: Mapping[str, fields.Refusal]) -> None:
    for name, refusal in table.items():
        if name in body and refusal.asks(body[name], body):
            raise refuse(name, f"{name}: {refusal.reason}")


def _prompts(prompt: Any) -> list[GenerationRequest]:
    if isinstance(prompt, str):
        return [GenerationRequest(text=prompt)]
    if isinstance(prompt[0], (int, float)):
        return [GenerationRequest(token_ids=tuple(map(int, prompt)))]
    if isinstance(prompt[0], str):
        return [GenerationRequest(text=text) for text in prompt]
    return [GenerationRequest(token_ids=tuple(map(int, ids))) for ids in prompt]


def _get(body: Mapping[str, Any], name: str, default: Any) -> Any:
    value = body.get(name)
    return default if value is None else value


def _integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    return None if value is None else int(value)


def _wanted(
    body: Mapping[str, Any],
    model: ModelFacts,
    request_id: str,
    prompts: list[GenerationRequest],
    *,
    has_log_probs: bool,
    top: int,
) -> Wanted:
    per_prompt = int(_get(body, "n", 1))
    count = per_prompt * len(prompts)
    most = min(fields.MAX_CHOICES, model.most_at_once or fields.MAX_CHOICES)
    if count > most:
        name = "n" if per_prompt > 1 else "prompt"
        raise refuse(name, f"{name}: expected at most {most} answers to one request (prompts times n), got {count}")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise refuse("stream_options", "stream_options: expected stream to be true beside it")
    sampling, _ = _sampling(body, model.sampling_defaults)
    streams = bool(_get(body, "stream", False))
    common: dict[str, Any] = {
        "stream": streams,
        "min_tokens": _integer(body, "min_tokens") or 0,
        "stop_words": _words(body, "stop"),
        "bad_words": _words(body, "bad_words"),
        "end_id": -1 if body.get("ignore_eos") else None,
        "stop_token_ids": tuple(int(number) for number in _get(body, "stop_token_ids", ())),
        "token_bias": _bias(body),
        "return_log_probs": has_log_probs,
        "wants_tokens": has_log_probs,
        "skips_special_tokens": bool(_get(body, "skip_special_tokens", True)),
        "adds_special_tokens": body.get("add_special_tokens"),
        "client_id": _UNUSUAL.sub("_", request_id)[:_CLIENT_ID_LENGTH],
    }
    requests = []
    for prompt in prompts:
        is_shared = per_prompt > 1 and prompt.token_ids is None
        request = replace(prompt, **common, shared=SharedPrompt() if is_shared else None)
        requests += [replace(request, sampling=_with_seed(sampling, number)) for number in range(per_prompt)]
    return Wanted(
        requests=tuple(requests),
        per_prompt=per_prompt,
        streams=streams,
        includes_usage=bool(_get(_get(body, "stream_options", {}), "include_usage", False)),
        has_log_probs=has_log_probs,
        top_log_probs=top,
    )


def _words(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = _get(body, name, ())
    words = tuple(word for word in ((found,) if isinstance(found, str) else found) if word)
    total = sum(len(word.encode()) for word in words)
    if total > MAX_WORDS_BYTES:
        raise refuse(name, f"{name}: expected at most {MAX_WORDS_BYTES} bytes in all strings together, got {total}")
    return words


def _bias(body: Mapping[str, Any]) -> dict[int, float]:
    bias = {}
    for key, value in _get(body, "logit_bias", {}).items():
        if not key.isdecimal() or not key.isascii() or len(key) > 10:
            raise refuse("logit_bias", f"logit_bias: expected the keys to be numbers of tokens, got {key[:40]!r}")
        bias[int(key)] = float(value)
    return bias


def _sampling(body: Mapping[str, Any], defaults: Mapping[str, float]) -> tuple[dict[str, int | float], bool]:
    """Return the engine's sampling inputs, and whether it always takes the likeliest token.

    What a request does not say comes from the model's ``generation_config.json``, and from OpenAI's reference where
    that says nothing: temperature 1, top_p 1. Nothing at all is greedy for the engine, so both are said.
    """
    chosen = {name: value for name, value in defaults.items() if name in SAMPLING}
    chosen |= {name: body[name] for name in SAMPLING if body.get(name) is not None}
    found = {
        SAMPLING[name].engine_name: SAMPLING[name].check(name, chosen[name])
        for name, neutral in _NEUTRAL.items()
        if chosen.get(name, neutral) != neutral
    }
    temperature, top_p = chosen.get("temperature", 1.0), chosen.get("top_p", 1.0)
    top_k = max(0, int(chosen.get("top_k", 0)))
    if temperature == 0 or top_p <= 0 or top_k == 1:
        return found, True
    wanted = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": chosen.get("min_p", 0)}
    if "seed" in chosen:
        wanted["seed"] = int(chosen["seed"]) % _SEEDS
    for name, value in wanted.items():
        if value or name in {"temperature", "top_p", "seed"}:
            found[SAMPLING[name].engine_name] = SAMPLING[name].check(name, value)
    return found, False


def _with_seed(sampling: dict[str, int | float], number: int) -> dict[str, int | float]:
    """Return the sampling of a prompt's answer ``number``: the same seed would give the same answer every time."""
    return {**sampling, "seed": (int(sampling["seed"]) + number) % _SEEDS} if "seed" in sampling else sampling


def _check_log_probs(body: Mapping[str, Any], model: ModelFacts, name: str, top: int) -> None:
    """Refuse more log probabilities than the engine gives; ``name`` is the field that asks for them, "" for none."""
    if name and not model.has_log_probs:
        raise refuse("logprobs", "logprobs: this engine gives no log probabilities; leave it out")
    sampling, is_greedy = _sampling(body, model.sampling_defaults)
    # Where nothing else decides, the token that is chosen is the likeliest one.
    others = any(body.get(name) for name in ("logit_bias", "bad_words", "min_tokens", "ignore_eos"))
    if top > (1 if is_greedy and not sampling and not others else 0):
        raise refuse(
            name,
            f"{name}: this engine gives the log probability of the chosen token only; expected 0, or 1 where the "
            f"likeliest token is chosen (temperature 0 and no penalties), got {shown(top)}",
        )
