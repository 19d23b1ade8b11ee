"""The OpenAPI document says what is served: paths, fields, refusals, and the shapes of real answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trtbuild_http.router
from trtbuild_front.openai import fields
from trtbuild_front.openai.openapi import document

from tests.unit.front.openai.test_openai_answers import CHAT, COMPLETIONS, Desk, desk, make_desk

DOCUMENT = json.loads(document("1.2.3"))
SCHEMAS = DOCUMENT["components"]["schemas"]
__all__ = ["desk", "make_desk"]


def _check(name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_it_is_one() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.") and DOCUMENT["info"]["version"] == "1.2.3"
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = {part.split('"')[0] for part in document("1").decode().split('"$ref": "#/components/schemas/')[1:]}
    assert references == set(SCHEMAS), "every schema is used, and every used one is there"


def test_every_path_is_served_and_every_served_path_is_there(desk: Desk) -> None:
    source = Path(trtbuild_http.router.__file__).read_text()
    posts = {path for path, methods in DOCUMENT["paths"].items() if "post" in methods}
    assert posts == set(desk.api.routes)
    gets = {path for path, methods in DOCUMENT["paths"].items() if "get" in methods}
    for path in gets - {"/v1/models/{model}"}:
        assert f'"{path}"' in source
    readers = [line.split('"')[1] for line in source.splitlines() if line.strip().startswith('"/') and "lambda" in line]
    assert set(readers) <= gets and len(readers) >= 4


@pytest.mark.parametrize(
    ("name", "table", "refused"),
    [
        pytest.param("ChatRequest", fields.CHAT, fields.REFUSED_IN_CHATS, id="chat"),
        pytest.param("CompletionRequest", fields.COMPLETION, fields.REFUSED_IN_COMPLETIONS, id="completion"),
        pytest.param("TokenizeRequest", fields.TOKENIZE, {}, id="tokenize"),
        pytest.param("DetokenizeRequest", fields.DETOKENIZE, {}, id="detokenize"),
    ],
)
def test_every_field_is_there(name: str, table: dict[str, Any], refused: dict[str, Any]) -> None:
    properties = SCHEMAS[name]["properties"]
    assert set(properties) == {*table, *refused}
    for field in refused:
        assert "not served" in properties[field]["description"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("has_log_probs", [False, True])
def test_real_answers_have_the_shapes(desk: Desk, path: str, has_log_probs: bool) -> None:
    body: dict[str, Any] = {}
    if has_log_probs:
        body = {"logprobs": True, "top_logprobs": 1} if path == CHAT else {"logprobs": 1}
    client = desk.ask(path, max_tokens=2, n=2, **body)
    for call in (1, 2):
        desk.say(call, desk.tokens("q")[:1], desk.tokens("w")[:1])
    status, answer = client.answer()
    assert status == 200
    _check("ChatCompletion" if path == CHAT else "Completion", answer)
    if has_log_probs:
        assert answer["choices"][0]["logprobs"]


def test_other_answers_have_the_shapes(desk: Desk) -> None:
    _check("Tokens", desk.ask("/tokenize", prompt="ab").answer()[1])
    _check("Text", desk.ask("/detokenize", tokens=[5]).answer()[1])
    _check("Model", desk.api.describe())
    _check("Error", desk.ask(temperature="hot").answer()[1])


def test_requests_that_are_served_are_valid(make_desk: Callable[..., Desk]) -> None:
    _check("CompletionRequest", {"prompt": "a", "stop": None, "logit_bias": {"5": -100}, "n": 2, "other": {}})
    _check("ChatRequest", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "seed": 3})
    with pytest.raises(jsonschema.ValidationError):
        _check("ChatRequest", {"messages": []})


def test_the_manual_names_every_field_and_every_path() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "openai.md").read_text()
    known = {*fields.CHAT, *fields.COMPLETION, *fields.TOKENIZE, *fields.DETOKENIZE}
    refused = {*fields.REFUSED_IN_CHATS, *fields.REFUSED_IN_COMPLETIONS}
    missing = {name for name in known | refused if f"`{name}`" not in text}
    assert not missing
    assert not [path for path in DOCUMENT["paths"] if path.replace("{model}", "{id}") not in text]
