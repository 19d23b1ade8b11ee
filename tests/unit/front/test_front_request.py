"""Inputs: both spellings, defaults, legal values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trtbuild_front import upstream
from trtbuild_front.faults import RequestError
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.parameters import KNOWN, are_headers_forwarded
from trtbuild_front.request import Dialect, parse_request

from tests.fakes.inputs import as_inputs


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param({}, {}, id="defaults"),
        pytest.param({"max_tokens": 5, "stream": True}, {"max_tokens": 5, "stream": True}, id="basics"),
        pytest.param({"min_tokens": 3}, {"min_tokens": 3}, id="min_tokens"),
        pytest.param({"min_length": 3}, {"min_tokens": 3}, id="min_length"),
        pytest.param({"seed": 9}, {"sampling": {"seed": 9}}, id="seed"),
        pytest.param({"random_seed": 9}, {"sampling": {"seed": 9}}, id="random_seed"),
        pytest.param({"seed": 2**64 - 1}, {"sampling": {"seed": 2**64 - 1}}, id="largest-seed"),
        pytest.param(
            {"top_k": 4, "top_p": 0.5, "temperature": 0.0, "length_penalty": -1.0},
            {"sampling": {"runtime_top_k": 4, "runtime_top_p": 0.5, "temperature": 0.0, "len_penalty": -1.0}},
            id="sampling",
        ),
        pytest.param({"stop_words": ["a", "", "b"]}, {"stop_words": ("a", "b")}, id="stop_words"),
        pytest.param({"bad_words": ["x"], "beam_width": 1}, {"bad_words": ("x",)}, id="bad_words"),
        pytest.param({"end_id": 2, "pad_id": 0}, {"end_id": 2, "pad_id": 0}, id="ids"),
        pytest.param({"exclude_input_in_output": False}, {"is_prompt_echoed": True}, id="echo"),
        pytest.param({"top_p": 0.0}, {}, id="top_p-0-is-unset"),
        pytest.param({"top_p": -1.0, "top_k": 0}, {"sampling": {"runtime_top_k": 0}}, id="negative-top_p-is-unset"),
        pytest.param({"beam_width": 0, "num_return_sequences": 1}, {}, id="no-beams"),
        pytest.param({"messages": "[]", "text_input": ""}, {"text": None, "messages": "[]"}, id="empty-text"),
        pytest.param({"lora_task_id": 0, "guided_decoding_guide": "", "image_url_input": ""}, {}, id="asks-nothing"),
        pytest.param({"return_log_probs": True}, {"return_log_probs": True}, id="log-probs"),
    ],
)
def test_inputs_become_a_request(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    values = as_inputs(**{"text_input": "hi", **inputs})
    assert parse_request(values) == GenerationRequest(**{"text": "hi", **expected})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({}, "expected text_input or messages, got neither", id="nothing"),
        pytest.param({"text_input": "a", "messages": "[]"}, "got both", id="both"),
        pytest.param(
            {"text_input": ["a", "b"]}, r"text_input: expected one value, got 2 (shape [2])", id="two-prompts"
        ),
        pytest.param({"text_input": "a", "max_tokens": 0}, "max_tokens: expected at least 1, got 0", id="max_tokens"),
        pytest.param({"text_input": "a", "min_tokens": -1}, "min_tokens: expected at least 0", id="min_tokens"),
        pytest.param({"text_input": "a", "seed": 1, "random_seed": 1}, "two spellings of one input", id="two-seeds"),
        pytest.param({"text_input": "a", "top_p": 1.5}, "top_p: expected a number > 0 and <= 1, got 1.5", id="top_p"),
        pytest.param({"text_input": "a", "temperature": -1.0}, "temperature: expected a number >= 0", id="temperature"),
        pytest.param({"text_input": "a", "temperature": float("nan")}, "got nan", id="nan"),
        pytest.param({"text_input": "a", "repetition_penalty": 0.0}, "repetition_penalty", id="repetition"),
        pytest.param({"text_input": "a", "presence_penalty": 3.0}, "presence_penalty", id="presence"),
        pytest.param({"text_input": "a", "beam_width": 4}, "beam_width: this model has no beam search", id="beam"),
    ],
)
def test_what_is_wrong_is_named(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        parse_request(as_inputs(**inputs))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(RequestError, match="text_input: expected UTF-8"):
        parse_request({"text_input": np.array([b"\xff"], np.object_)})


def test_a_leading_batch_dimension_is_no_matter() -> None:
    values = {"text_input": np.array([[b"hi"]], np.object_), "max_tokens": np.array([[3]], np.int32)}
    assert parse_request(values) == GenerationRequest(text="hi", max_tokens=3)


def _never_served() -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name in sorted(upstream.NEVER_SERVED):
        is_text = name.endswith(("text_input", "words", "url_input"))
        yield name, np.array([[b"x"]], np.object_) if is_text else np.array([[3]])


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in _never_served()])
def test_inputs_that_nothing_serves_are_refused_by_name_when_set(name: str, value: npt.NDArray[Any]) -> None:
    values = as_inputs(text_input="a")
    unset = np.array([[b""]], np.object_) if value.dtype == np.object_ else np.zeros_like(value)
    assert parse_request({**values, name: unset}) == parse_request(values)
    with pytest.raises(RequestError, match=f"^{name}: this model has no .+; leave {name} out$"):
        parse_request({**values, name: value})


def test_what_some_engines_serve_is_passed_on_without_the_batch_dimension() -> None:
    guide = np.array([[b"json"]], np.object_)
    weights = np.ones((1, 2, 8), np.float16)
    request = parse_request({**as_inputs(text_input="a"), "guided_decoding_guide_type": guide, "lora_weights": weights})
    assert {name: value.shape for name, value in request.for_engine.items()} == {
        "guided_decoding_guide_type": (1,),
        "lora_weights": (2, 8),
    }


@pytest.mark.parametrize(
    ("inputs", "is_echoed"),
    [
        pytest.param({}, True, id="default"),
        pytest.param({"exclude_input_in_output": True}, False, id="excluded"),
        pytest.param({"stream": True}, False, id="streams-never"),
        pytest.param({"stream": True, "exclude_input_in_output": False}, False, id="not-even-when-asked"),
    ],
)
def test_models_with_upstream_s_names_echo_the_prompt_as_upstream_s_do(inputs: dict[str, Any], is_echoed: bool) -> None:
    request = parse_request(as_inputs(text_input="a", **inputs), Dialect(echoes_prompt=True))
    assert request.is_prompt_echoed == is_echoed


def test_a_model_with_one_response_refuses_to_stream() -> None:
    dialect = Dialect(is_decoupled=False)
    assert parse_request(as_inputs(text_input="a", stream=False), dialect) == GenerationRequest(text="a")
    with pytest.raises(RequestError, match="stream: this model is served with decoupled: false"):
        parse_request(as_inputs(text_input="a", stream=True), dialect)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        pytest.param({"nope": 1}, "nope: this model has no such input", id="unknown"),
        pytest.param({"max_token": 1}, "max_token: this model has no such input; did you mean max_tokens?", id="near"),
        pytest.param({"max_tokens": 1}, "max_tokens: sent as a parameter", id="misplaced"),
        pytest.param({"x" * 60_000: 1}, "x" * 64 + "...: this model has no such input", id="endless"),
        pytest.param({"nope": "x" * 70_000}, "parameters: expected at most 65536 bytes", id="megabytes"),
        pytest.param({"num_return_sequences": 2}, "num_return_sequences: this model has no", id="upstream-s"),
    ],
)
def test_parameters_without_effect_are_refused(parameters: dict[str, Any], message: str) -> None:
    dialect = Dialect(inputs=frozenset({"text_input", "max_tokens"}))
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        parse_request(as_inputs(text_input="a"), dialect, json.dumps(parameters))
    assert parse_request(as_inputs(text_input="a"), Dialect(), json.dumps(parameters))  # headers may become parameters


@pytest.mark.parametrize("name", [*sorted(KNOWN), "triton_enable_empty_final_response"])
def test_parameters_of_the_server_and_of_known_clients_pass(name: str) -> None:
    request = parse_request(as_inputs(text_input="a"), Dialect(inputs=frozenset({"text_input"})), json.dumps({name: 1}))
    assert request == GenerationRequest(text="a")


@pytest.mark.parametrize(
    ("arguments", "are_forwarded"),
    [
        pytest.param(["tritonserver", "--http-port=1"], False, id="no"),
        pytest.param(["tritonserver", "--http-header-forward-pattern", ".*"], True, id="http"),
        pytest.param(["tritonserver", "--grpc-header-forward-pattern=x-.*"], True, id="grpc"),
    ],
)
def test_forwarded_headers_are_known_from_the_server_s_command_line(arguments: list[str], are_forwarded: bool) -> None:
    assert are_headers_forwarded(arguments) == are_forwarded
