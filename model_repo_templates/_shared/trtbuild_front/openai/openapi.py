"""The OpenAPI document of what is served: written from the tables that requests are checked with.

It decides descriptions and the shapes of answers. A test holds it against real answers.

Source: OpenAPI 3.1.1; OpenAI's API reference (names of the objects).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trtbuild_front.openai import fields

_STRING, _INTEGER, _BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_STATUSES = {
    "400": "A field is missing, wrong or not served; param names it.",
    "401": "A key is asked for and there is none, or it is wrong.",
    "404": "There is no such model or path.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "The queue is full; Retry-After says when to try again.",
    "500": "The engine or the server failed.",
    "503": "The engine is being restarted or the server is ending; Retry-After says when to try again.",
}
_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["text"]}, "text": _STRING},
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_STRING, {"type": "array", "items": _TEXT_PART, "minItems": 1}]},
    },
}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _nullable(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _request(
    table: Mapping[str, Any], required: tuple[str, ...], refused: Mapping[str, fields.Refusal]
) -> dict[str, Any]:
    """Return the schema of a request's body; null is the same as absent."""
    known = {**table, "messages": {**table["messages"], "items": _MESSAGE}} if "messages" in table else dict(table)
    properties = {name: schema if name in required else _nullable(schema) for name, schema in known.items()}
    notes = {name: refusal.reason for name, refusal in refused.items()}
    for name, reason in notes.items():
        properties[name] = {**properties.get(name, {}), "description": f"Known and not served in full: {reason}."}
    return {"type": "object", "required": list(required), "properties": properties}


_USAGE = _object({"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER})
_TOKEN = _object({"token": _STRING, "logprob": {"type": "number"}, "bytes": {"type": "array", "items": _INTEGER}})
_FINISH = _one_of("stop", "length")


def _whole(kind: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    return _object(
        {
            "id": _STRING,
            "object": _one_of(kind),
            "created": _INTEGER,
            "model": _STRING,
            "system_fingerprint": _STRING,
            "choices": {"type": "array", "items": _object({"index": _INTEGER, **choice, "finish_reason": _FINISH})},
            "usage": _USAGE,
        }
    )


def _schemas() -> dict[str, Any]:
    error = _object({"message": _STRING, "type": _STRING, "param": _nullable(_STRING), "code": _nullable(_STRING)})
    message = _object({"role": _one_of("assistant"), "content": _STRING})
    top = {**_TOKEN["properties"], "top_logprobs": {"type": "array", "items": _TOKEN}}
    chat_log_probs = _nullable(_object({"content": {"type": "array", "items": _object(top)}}))
    lists = {"tokens": _STRING, "token_logprobs": {"type": "number"}, "text_offset": _INTEGER}
    log_probs = _nullable(_object({name: {"type": "array", "items": item} for name, item in lists.items()}))
    model = {"id": _STRING, "object": _one_of("model"), "created": _INTEGER, "owned_by": _STRING}
    return {
        "ChatRequest": _request(fields.CHAT, ("messages",), fields.REFUSED_IN_CHATS),
        "CompletionRequest": _request(fields.COMPLETION, ("prompt",), fields.REFUSED_IN_COMPLETIONS),
        "TokenizeRequest": _request(fields.TOKENIZE, (), {}),
        "DetokenizeRequest": _request(fields.DETOKENIZE, ("tokens",), {}),
        "ChatCompletion": _whole("chat.completion", {"message": message, "logprobs": chat_log_probs}),
        "Completion": _whole("text_completion", {"text": _STRING, "logprobs": log_probs}),
        "Tokens": _object(
            {"count": _INTEGER, "max_model_len": _INTEGER, "tokens": {"type": "array", "items": _INTEGER}},
            {"token_strs": _nullable({"type": "array", "items": _STRING})},
        ),
        "Text": _object({"prompt": _STRING}),
        "Model": _object(model),
        "Models": _object({"object": _one_of("list"), "data": {"type": "array", "items": _object(model)}}),
        "Version": _object({"version": _STRING}),
        "Health": _object({"status": _STRING}, {"reasons": {"type": "object", "additionalProperties": _STRING}}),
        "Error": _object({"error": error}),
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str, kind: str = "application/json") -> dict[str, Any]:
    return {kind: {"schema": _ref(name)}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {
        status: {"description": text, "content": _content("Error")}
        for status, text in _STATUSES.items()
        if not statuses or status in statuses
    }


def _post(summary: str, request: str, answer: str, *, streams: bool = False) -> dict[str, Any]:
    content = _content(answer)
    if streams:
        content["text/event-stream"] = {"schema": _STRING}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": _content(request)},
            "responses": {"200": {"description": "The answer.", "content": content}, **_errors()},
            "security": [{}, {"key": []}],
        }
    }


def _get(summary: str, content: dict[str, Any], *errors: str, needs_key: bool = False) -> dict[str, Any]:
    responses = {"200": {"description": "The answer.", "content": content}}
    responses |= _errors(*errors) if errors else {}
    found: dict[str, Any] = {"summary": summary, "responses": responses}
    if needs_key:
        found["security"] = [{}, {"key": []}]
    return {"get": found}


def document(version: str) -> bytes:
    """Return the document as JSON."""
    health = _get("Whether the process that answers works.", _content("Health"))
    ready = _get("Whether every model can answer now.", _content("Health"))
    for each, text in ((health, "It is stuck."), (ready, "Some model cannot answer; reasons says why.")):
        each["get"]["responses"]["503"] = {"description": text, "content": _content("Health")}
    one_model = _get("One model.", _content("Model"), "401", "404", "503", needs_key=True)
    one_model["get"]["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": _STRING}]
    plain = {"text/plain": {"schema": _STRING}}
    paths = {
        "/v1/chat/completions": _post("Continue a conversation.", "ChatRequest", "ChatCompletion", streams=True),
        "/v1/completions": _post("Continue a text.", "CompletionRequest", "Completion", streams=True),
        "/tokenize": _post("Tokens of a text or a conversation.", "TokenizeRequest", "Tokens"),
        "/detokenize": _post("Text of tokens.", "DetokenizeRequest", "Text"),
        "/v1/models": _get("The models.", _content("Models"), "401", "503", needs_key=True),
        "/v1/models/{model}": one_model,
        "/health": health,
        "/health/ready": ready,
        "/version": _get("The version of trtbuild.", _content("Version")),
        "/metrics": _get("Prometheus metrics of all models.", plain, "401", needs_key=True),
        "/openapi.json": _get("This document.", {"application/json": {"schema": {"type": "object"}}}),
    }
    return json.dumps(
        {
            "openapi": "3.1.1",
            "info": {"title": "trtbuild: OpenAI's API for served models", "version": version},
            "paths": paths,
            "components": {
                "schemas": _schemas(),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    ).encode()
