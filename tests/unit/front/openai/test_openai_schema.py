"""Fields are checked as JSON Schema says: the tables are what the OpenAPI document publishes."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.openai import fields
from trtbuild_front.openai.schema import check, check_body, expected
from trtbuild_http.errors import ApiError

TABLES = {
    "chat": fields.CHAT,
    "completion": fields.COMPLETION,
    "tokenize": fields.TOKENIZE,
    "detokenize": fields.DETOKENIZE,
}
FIELDS = [(table, name) for table, found in TABLES.items() for name in found]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64, -(2**63), -(2**63) - 1, 1e-6, 1e6, 1000.5, -2, 2, 100, 1e300])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["none", "auto", "required", "text"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@pytest.mark.parametrize(("table", "name"), FIELDS)
@given(value=VALUES)
def test_our_checks_are_json_schema_s(table: str, name: str, value: Any) -> None:
    schema = TABLES[table][name]
    is_right = jsonschema.Draft202012Validator(schema).is_valid(value)
    has_null_inside = isinstance(value, dict) and None in value.values()  # null is the same as absent
    if has_null_inside and "properties" in schema:
        return
    try:
        check(name, value, schema)
    except ApiError as error:
        assert not is_right
        assert (error.status, error.param) == (400, name)
        assert error.message.startswith(name) and len(error.message) < 400
    else:
        assert is_right


@pytest.mark.parametrize(("table", "name"), FIELDS)
def test_what_is_expected_can_be_said(table: str, name: str) -> None:
    assert expected(TABLES[table][name])


def test_null_is_the_same_as_absent_and_unknown_fields_are_ignored() -> None:
    body = dict.fromkeys(fields.CHAT) | {"messages": [{"role": "user"}], "nobody_knows_this": {"a": 1}}
    check_body(body, fields.CHAT, ("messages",))
    with pytest.raises(ApiError, match="messages: expected an array of 1 to 4096 items, got none") as refusal:
        check_body({**body, "messages": None}, fields.CHAT, ("messages",))
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("temperature", "hot", "temperature: expected a number from 0 to 1000, got a string", id="type"),
        pytest.param("temperature", -1, "temperature: expected a number from 0 to 1000, got -1", id="range"),
        pytest.param("stream", 1, "stream: expected a boolean, got 1", id="boolean"),
        pytest.param("n", True, "n: expected a whole number from 1 to 128, got a boolean", id="bool-is-no-number"),
        pytest.param("stop", ["a", 3], "stop[1]: expected a string of at most 1024 characters, got 3", id="in-a-list"),
        pytest.param("stop", 3, "expected a string of at most 1024 characters or an array of 0 to 256 items", id="any"),
        pytest.param("logit_bias", {"5": 200}, "logit_bias.5: expected a number from -100 to 100, got 200", id="map"),
        pytest.param("seed", 10**40, "seed: expected a whole number from -9223372036854775808", id="huge"),
        pytest.param("seed", 10**400, "seed: expected a whole number from -9223372036854775808", id="huger"),
        pytest.param("temperature", 10**400, "temperature: expected a number from 0 to 1000", id="huge-number"),
        pytest.param("stream_options", {"include_usage": "y"}, "stream_options.include_usage: expected", id="inner"),
        pytest.param("tool_choice", "any", "tool_choice: expected 'none' or 'auto' or 'required'", id="enum"),
        pytest.param("response_format", {}, "response_format: expected a field 'type', got none", id="required"),
    ],
)
def test_errors_say_what_was_seen_and_expected(name: str, value: Any, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        check_body({"messages": [{}], name: value}, fields.CHAT, ("messages",))
    assert message in refusal.value.message
    assert refusal.value.param == name


def test_a_private_text_is_not_repeated() -> None:
    with pytest.raises(ApiError) as refusal:
        check_body({"messages": "my secret"}, fields.CHAT, ("messages",))
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize("prompt", [[1, -1], [1, "a"], [1, True], [[1], ["a"]], [[]], [[1], "a"], [{}], [1.5]])
def test_prompts_of_mixed_kinds_are_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        check_body({"prompt": prompt}, fields.COMPLETION, ("prompt",))
    assert refusal.value.param == "prompt"
