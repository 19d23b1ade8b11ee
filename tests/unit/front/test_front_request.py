"""Inputs: both spellings, defaults, legal values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from trtbuild_front.faults import RequestError
from trtbuild_front.request import GenerationRequest, as_inputs, parse_request


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
        pytest.param({"return_log_probs": True}, {"return_log_probs": True}, id="log-probs"),
    ],
)
def test_inputs_become_a_request(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse_request(as_inputs(text_input="hi", **inputs)) == GenerationRequest(text="hi", **expected)


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
        pytest.param({"text_input": "a", "top_p": 0.0}, "top_p: expected a number > 0", id="top_p-zero"),
        pytest.param({"text_input": "a", "temperature": -1.0}, "temperature: expected a number >= 0", id="temperature"),
        pytest.param({"text_input": "a", "temperature": float("nan")}, "got nan", id="nan"),
        pytest.param({"text_input": "a", "repetition_penalty": 0.0}, "repetition_penalty", id="repetition"),
        pytest.param({"text_input": "a", "presence_penalty": 3.0}, "presence_penalty", id="presence"),
        pytest.param({"text_input": "a", "beam_width": 4}, "no beam search; expected 1, got 4", id="beam"),
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
