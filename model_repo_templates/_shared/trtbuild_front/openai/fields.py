"""The fields of requests: which there are, what they may hold, and which are known and cannot be served.

It decides the tables; ``schema.py`` checks with them, ``openapi.py`` publishes them. A field that is in no table is
ignored.

Source: OpenAI's API reference (chat/create, completions/create), openai-openapi 2.3; vLLM 0.32, ``entrypoints/openai``
(``top_k`` and everything below it, and the requests of ``/tokenize`` and ``/detokenize``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trtbuild_front.limits import MAX_MESSAGES, MAX_WORD_BYTES, MAX_WORDS

MAX_CHOICES = 128
"""Most answers to one request: prompts times ``n``."""

_LARGEST = 2**31 - 1
_BOOLEAN = {"type": "boolean"}
_OBJECT = {"type": "object"}
_WORD = {"type": "string", "maxLength": MAX_WORD_BYTES}
_WORDS = {"type": "array", "items": _WORD, "maxItems": MAX_WORDS}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_COUNT = {"type": "integer", "minimum": 1, "maximum": _LARGEST}
_OBJECTS = {"type": "array", "items": _OBJECT, "maxItems": 1024}

MODEL = {"model": {"type": "string"}}

COMMON: Mapping[str, Any] = {
    **MODEL,
    "stream": _BOOLEAN,
    "stream_options": {"type": "object", "properties": {"include_usage": _BOOLEAN}},
    "max_tokens": _COUNT,
    "n": {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1000},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
    "stop": {"anyOf": [_WORD, _WORDS]},
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": 1024,
    },
    "top_k": {"type": "integer", "minimum": -1, "maximum": _LARGEST},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "minimum": 1e-6, "maximum": 1e6},
    "min_tokens": {"type": "integer", "minimum": 0, "maximum": _LARGEST},
    "stop_token_ids": {**_TOKENS, "maxItems": MAX_WORDS},
    "bad_words": _WORDS,
    "ignore_eos": _BOOLEAN,
    "skip_special_tokens": _BOOLEAN,
    "add_special_tokens": _BOOLEAN,
}

CONVERSATION: Mapping[str, Any] = {
    "messages": {"type": "array", "items": _OBJECT, "minItems": 1, "maxItems": MAX_MESSAGES},
    "tools": _OBJECTS,
    "documents": _OBJECTS,
    "chat_template_kwargs": _OBJECT,
    "add_generation_prompt": _BOOLEAN,
    "continue_final_message": _BOOLEAN,
}
"""What the prompt of a conversation is made of."""

CHAT: Mapping[str, Any] = {
    **CONVERSATION,
    **COMMON,
    "max_completion_tokens": _COUNT,
    "logprobs": _BOOLEAN,
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "tool_choice": {"anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, _OBJECT]},
    "response_format": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}},
}

COMPLETION: Mapping[str, Any] = {
    "prompt": {
        "anyOf": [
            {"type": "string"},
            {**_TOKENS, "minItems": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_CHOICES},
            {"type": "array", "items": {**_TOKENS, "minItems": 1}, "minItems": 1, "maxItems": MAX_CHOICES},
        ]
    },
    **COMMON,
    "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
}

TOKENIZE: Mapping[str, Any] = {
    **MODEL,
    "prompt": {"type": "string"},
    **CONVERSATION,
    "add_special_tokens": _BOOLEAN,
    "return_token_strs": _BOOLEAN,
}

DETOKENIZE: Mapping[str, Any] = {**MODEL, "tokens": {**_TOKENS, "maxItems": 1 << 20}}


def _is_set(value: Any, body: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return bool(value)


def _is_given(value: Any, body: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return value is not None


def _is_other_format(value: Any, body: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return isinstance(value, dict) and value.get("type") != "text"


def _is_more_than_text(value: Any, body: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return value not in (None, [], ["text"])


def _are_tools_to_be_called(value: Any, body: Mapping[str, Any]) -> bool:
    return bool(value) and body.get("tool_choice") != "none"


def _is_a_call_forced(value: Any, body: Mapping[str, Any]) -> bool:
    return value is not None and value not in ("none", "auto") and not body.get("tools")


def _is_not_n(value: Any, body: Mapping[str, Any]) -> bool:
    return value is not None and value != (body.get("n") or 1)


@dataclass(frozen=True)
class Refusal:
    """A field that is known and not served.

    Attributes:
        reason: Completes "<name>: ".
        asks: Whether a value, in its body, asks for something; other values are accepted.
    """

    reason: str
    asks: Callable[[Any, Mapping[str, Any]], bool] = _is_set


_CONSTRAINED = "this server does not constrain what a model writes yet; leave it out"

REFUSED: Mapping[str, Refusal] = {
    "best_of": Refusal("every answer is returned; leave it out or send the value of n", _is_not_n),
    "use_beam_search": Refusal("there is no beam search; leave it out"),
    "prompt_logprobs": Refusal("log probabilities are given for generated tokens only; leave it out", _is_given),
    "truncate_prompt_tokens": Refusal("prompts are never cut; send a shorter one", _is_given),
    "allowed_token_ids": Refusal(_CONSTRAINED),
    "include_stop_str_in_output": Refusal("stop strings are never part of an answer; leave it out"),
    "guided_json": Refusal(_CONSTRAINED),
    "guided_regex": Refusal(_CONSTRAINED),
    "guided_choice": Refusal(_CONSTRAINED),
    "guided_grammar": Refusal(_CONSTRAINED),
    "structured_outputs": Refusal(_CONSTRAINED),
}

REFUSED_IN_CHATS: Mapping[str, Refusal] = {
    **REFUSED,
    "response_format": Refusal(f"only the type 'text' is served: {_CONSTRAINED}", _is_other_format),
    "tools": Refusal(
        "this server does not read calls of tools from answers yet; send tool_choice 'none' to show the tools to the "
        "model only, or leave tools out",
        _are_tools_to_be_called,
    ),
    "tool_choice": Refusal("there are no tools in the request that could be called; send 'none'", _is_a_call_forced),
    "functions": Refusal("tools took the place of functions; send tools"),
    "modalities": Refusal("this model reads and writes text only; leave it out or send ['text']", _is_more_than_text),
    "audio": Refusal("this model writes text only; leave it out"),
    "web_search_options": Refusal("there is no web search; leave it out", _is_given),
    "chat_template": Refusal("templates come with the model; leave it out, or use chat_template_kwargs"),
}

REFUSED_IN_COMPLETIONS: Mapping[str, Refusal] = {
    **REFUSED,
    "echo": Refusal("the prompt is not part of an answer; leave it out"),
    "suffix": Refusal("text cannot be inserted before a suffix; leave it out"),
    "response_format": Refusal(f"only the type 'text' is served: {_CONSTRAINED}", _is_other_format),
}
