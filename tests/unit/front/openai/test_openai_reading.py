"""What each field of a request asks the engine for, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.faults import RequestError
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.openai import fields
from trtbuild_front.openai.api import legal_defaults
from trtbuild_front.openai.faults import as_api_error
from trtbuild_front.openai.reading import ModelFacts, Wanted, read_chat, read_completion
from trtbuild_http.errors import ApiError

MODEL = ModelFacts()
MESSAGES = [{"role": "user", "content": "Hi"}]
DEFAULT = {"temperature": 1.0, "runtime_top_p": 1.0}


def _completion(**body: Any) -> Wanted:
    return read_completion({"prompt": "a", **body}, MODEL, "id")


def _chat(**body: Any) -> Wanted:
    return read_chat({"messages": MESSAGES, **body}, MODEL, "id")


def _one(wanted: Wanted) -> GenerationRequest:
    [request] = wanted.requests
    return request


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        pytest.param({}, {"max_tokens": None, "stream": False, "sampling": DEFAULT}, id="defaults"),
        pytest.param({"max_tokens": 3}, {"max_tokens": 3}, id="max_tokens"),
        pytest.param({"max_tokens": 3.0}, {"max_tokens": 3}, id="max_tokens-as-3.0"),
        pytest.param({"temperature": 0}, {"sampling": {}}, id="greedy"),
        pytest.param({"top_p": 0}, {"sampling": {}}, id="top_p-0"),
        pytest.param({"top_k": 1, "seed": 3}, {"sampling": {}}, id="top_k-1"),
        pytest.param(
            {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 5},
            {
                "sampling": {
                    "temperature": 0.5,
                    "runtime_top_p": 0.9,
                    "runtime_top_k": 7,
                    "min_p": 0.1,
                    "seed": 5,
                }
            },
            id="sampling",
        ),
        pytest.param({"top_k": -1}, {"sampling": DEFAULT}, id="top_k-for-all"),
        pytest.param({"seed": -1}, {"sampling": {**DEFAULT, "seed": 2**64 - 1}}, id="negative-seed"),
        pytest.param(
            {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "temperature": 0},
            {"sampling": {"presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 1.5}},
            id="penalties",
        ),
        pytest.param(
            {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "temperature": 0},
            {"sampling": {}},
            id="penalties-that-do-nothing",
        ),
        pytest.param({"stop": "x"}, {"stop_words": ("x",)}, id="stop"),
        pytest.param({"stop": ["x", "", "y"]}, {"stop_words": ("x", "y")}, id="stops"),
        pytest.param({"stop_token_ids": [3, 4]}, {"stop_token_ids": (3, 4)}, id="stop-tokens"),
        pytest.param({"bad_words": ["no", ""]}, {"bad_words": ("no",)}, id="bad-words"),
        pytest.param({"logit_bias": {"5": -100, "6": 1}}, {"token_bias": {5: -100.0, 6: 1.0}}, id="bias"),
        pytest.param({"ignore_eos": True}, {"end_id": -1}, id="ignore_eos"),
        pytest.param({"ignore_eos": False}, {"end_id": None}, id="no-ignore_eos"),
        pytest.param({"min_tokens": 4}, {"min_tokens": 4}, id="min_tokens"),
        pytest.param({"skip_special_tokens": False}, {"skips_special_tokens": False}, id="special"),
        pytest.param({"add_special_tokens": False}, {"adds_special_tokens": False}, id="no-bos"),
        pytest.param({"stream": True}, {"stream": True}, id="stream"),
        pytest.param(
            {"user": 3, "store": "x", "metadata": [], "service_tier": {}}, {"sampling": DEFAULT}, id="ignored"
        ),
    ],
)
def test_fields_of_both_kinds(body: dict[str, Any], attributes: dict[str, Any]) -> None:
    for request in (_one(_completion(**body)), _one(_chat(**body))):
        assert {name: getattr(request, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        pytest.param("a", [GenerationRequest(text="a")], id="text"),
        pytest.param([1, 2], [GenerationRequest(token_ids=(1, 2))], id="tokens"),
        pytest.param(["a", "b"], [GenerationRequest(text="a"), GenerationRequest(text="b")], id="texts"),
        pytest.param(
            [[1], [2, 3]], [GenerationRequest(token_ids=(1,)), GenerationRequest(token_ids=(2, 3))], id="lists"
        ),
    ],
)
def test_prompts(prompt: Any, prompts: list[GenerationRequest]) -> None:
    found = _completion(prompt=prompt, n=2).requests
    assert [(each.text, each.token_ids) for each in found] == [
        (each.text, each.token_ids) for each in prompts for _ in range(2)
    ]


def test_every_answer_has_a_seed_of_its_own() -> None:
    found = _completion(n=3, seed=2**64 - 2).requests
    assert [request.sampling["seed"] for request in found] == [2**64 - 2, 2**64 - 1, 0]
    both = _completion(prompt=["a", "b"], n=2, seed=5).requests
    assert [request.sampling["seed"] for request in both] == [5, 6, 5, 6]


def test_max_completion_tokens_wins() -> None:
    assert _one(_chat(max_completion_tokens=5, max_tokens=9)).max_tokens == 5
    assert _one(_chat(max_tokens=9)).max_tokens == 9


def test_the_model_s_own_recommendations_come_before_openai_s_defaults() -> None:
    defaults = legal_defaults({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1, "min_p": 7})
    assert "min_p" not in defaults, "what is not legal is not taken"
    model = ModelFacts(sampling_defaults=defaults)
    recommended = {"temperature": 0.6, "runtime_top_p": 0.95, "runtime_top_k": 20, "repetition_penalty": 1.1}
    assert _one(read_completion({"prompt": "a"}, model, "")).sampling == recommended
    own = read_completion({"prompt": "a", "temperature": 0, "repetition_penalty": 1}, model, "")
    assert _one(own).sampling == {}


def test_what_the_template_gets() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {
        "tools": tools,
        "tool_choice": "none",
        "documents": [{"text": "d"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": False,
    }
    request = _one(_chat(**body))
    wanted = {name: value for name, value in body.items() if name != "tool_choice"}
    assert json.loads(request.template_options) == wanted
    assert json.loads(request.messages or "") == MESSAGES
    continued = json.loads(_one(_chat(continue_final_message=True)).template_options)
    assert continued == {"continue_final_message": True, "add_generation_prompt": False}
    assert json.loads(_one(_chat(tools=[])).template_options) == {}
    with pytest.raises(ApiError, match="continue_final_message"):
        _chat(continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("request_id", "client_id"), [("abc-1", "abc-1"), ("a b/ü\n", "a_b___"), ("x" * 200, "x" * 64), ("", "")]
)
def test_the_client_s_id_is_tamed(request_id: str, client_id: str) -> None:
    assert _one(read_completion({"prompt": "a"}, MODEL, request_id)).client_id == client_id


ASKING: dict[str, Any] = {
    "best_of": 3,
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [{}],
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
}
NOT_ASKING: dict[str, Any] = {
    "best_of": 1,
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "prompt_logprobs": None,
    "truncate_prompt_tokens": None,
    "web_search_options": None,
}
REFUSALS = [("chat", name) for name in fields.REFUSED_IN_CHATS] + [
    ("completion", name) for name in fields.REFUSED_IN_COMPLETIONS
]


@pytest.mark.parametrize(("kind", "name"), REFUSALS)
def test_what_is_known_and_not_served_is_refused_by_name(kind: str, name: str) -> None:
    read = _chat if kind == "chat" else _completion
    is_list = name in {"tools", "functions"}
    with pytest.raises(ApiError) as refusal:
        read(**{name: ASKING.get(name, [{}] if is_list else True if name in {"echo", "use_beam_search"} else {"a": 1})})
    assert (refusal.value.status, refusal.value.param) == (400, name)
    assert refusal.value.message.startswith(f"{name}: ")
    read(**{name: NOT_ASKING.get(name)})


@pytest.mark.parametrize("choice", ["auto", "required", None, {"type": "function", "function": {"name": "f"}}])
def test_tools_are_shown_and_not_called(choice: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(ApiError, match="tools: this server does not read calls of tools"):
        _chat(tools=tools, tool_choice=choice)
    assert json.loads(_one(_chat(tools=tools, tool_choice="none")).template_options)["tools"] == tools


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({"n": 129}, "n", id="n"),
        pytest.param({"n": 2, "prompt": ["a"] * 65}, "n", id="prompts-times-n"),
        pytest.param({"stream_options": {"include_usage": True}}, "stream_options", id="stream_options"),
        pytest.param({"logprobs": 2, "temperature": 0}, "logprobs", id="two-tops"),
        pytest.param({"logprobs": 1}, "logprobs", id="top-of-a-sample"),
        pytest.param({"logprobs": 1, "temperature": 0, "repetition_penalty": 1.1}, "logprobs", id="top-with-penalty"),
        pytest.param({"logprobs": 1, "temperature": 0, "logit_bias": {"1": -100}}, "logprobs", id="top-with-bias"),
        pytest.param({"logit_bias": {"x": 1}}, "logit_bias", id="bias-of-no-token"),
        pytest.param({"logit_bias": {"99999999999": 1}}, "logit_bias", id="bias-of-a-huge-token"),
        pytest.param({"prompt": None}, "prompt", id="no-prompt"),
        pytest.param({"stop": ["x" * 1000] * 17}, "stop", id="stops-of-17-kB"),
        pytest.param({"bad_words": ["é" * 1000] * 9}, "bad_words", id="bad-words-of-18-kB"),
    ],
)
def test_what_makes_no_sense(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        _completion(**body)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_log_probabilities_where_the_engine_gives_them() -> None:
    assert not _completion().has_log_probs and not _one(_completion()).wants_tokens
    wanted = _completion(logprobs=0)
    assert (wanted.has_log_probs, wanted.top_log_probs) == (True, 0)
    assert _one(wanted).wants_tokens and _one(wanted).return_log_probs
    assert _completion(logprobs=1, temperature=0).top_log_probs == 1
    assert _chat(logprobs=True, top_logprobs=1, temperature=0).top_log_probs == 1
    assert not _chat(logprobs=False).has_log_probs
    with pytest.raises(ApiError) as refusal:
        _chat(top_logprobs=1)
    assert refusal.value.param == "top_logprobs"
    with pytest.raises(ApiError, match="gives no log probabilities"):
        read_completion({"prompt": "a", "logprobs": 0}, ModelFacts(has_log_probs=False), "")


def test_more_than_slots_and_line_hold_is_refused() -> None:
    model = ModelFacts(most_at_once=4)
    assert len(read_completion({"prompt": "a", "n": 4}, model, "").requests) == 4
    with pytest.raises(ApiError, match="at most 4 answers"):
        read_completion({"prompt": "a", "n": 5}, model, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = sorted({*fields.CHAT, *fields.COMPLETION, *fields.REFUSED_IN_CHATS, *fields.REFUSED_IN_COMPLETIONS})


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_any_body_is_read_or_refused_with_400(body: dict[str, Any]) -> None:
    for read in (read_chat, read_completion):
        for whole in (body, {"messages": MESSAGES, "prompt": "a", **body}):
            try:
                wanted = read(whole, MODEL, "id")
            except (ApiError, RequestError) as error:
                shown = as_api_error(error)
                assert shown.status == 400 and shown.param
            else:
                assert 1 <= len(wanted.requests) <= fields.MAX_CHOICES
