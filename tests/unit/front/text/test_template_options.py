"""What a chat template gets besides the conversation, as OpenAI's clients send it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from trtbuild_front.faults import RequestError
from trtbuild_front.text.chat import ChatTemplate, parse_messages, parse_options
from trtbuild_front.text.rendering import Renderers

EVERYTHING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    "{{ tools | tojson if tools }}{{ documents | tojson if documents }}{{ enable_thinking }}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
MESSAGES = [{"role": "user", "content": "Hi"}]


def _render(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    text = json.dumps(options) if options else ""
    return ChatTemplate(source, {"bos_token": "<s>"}).render(
        parse_messages(json.dumps(messages)), options=parse_options(text)
    )


@pytest.fixture(scope="module")
def renderers() -> Iterator[Renderers]:
    made = Renderers(EVERYTHING, {})
    yield made
    made.close()


def test_everything_reaches_the_template_in_its_process(renderers: Renderers) -> None:
    options = {
        "tools": TOOLS,
        "documents": [{"text": "d"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": False,
    }
    found = renderers.render(json.dumps(MESSAGES), 10_000, json.dumps(options))
    assert found == f'<user>Hi{json.dumps(TOOLS)}[{{"text": "d"}}]False'
    assert renderers.render(json.dumps(MESSAGES), 10_000) == "<user>Hi<assistant>"
    assert renderers.render(json.dumps(MESSAGES), 10_000, "{}") == "<user>Hi<assistant>"


def test_a_client_s_variables_do_not_replace_the_conversation() -> None:
    options = {"messages": [], "tools": "x", "add_generation_prompt": False, "bos_token": "y"}
    assert _render("{{ bos_token }}" + EVERYTHING, MESSAGES, chat_template_kwargs=options) == "y<user>Hi<assistant>"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_tool_calls_and_their_answers_are_rendered() -> None:
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    found = _render(EVERYTHING, messages, tools=TOOLS)
    assert '"arguments": {"a": 1}' in found, "templates are written for objects"
    assert "<tool>42" in found
    # Triton's protocols hand over what is sent, as transformers does.
    assert '"arguments": "{' in _render(EVERYTHING, messages)


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_no_arguments(arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    found = _render(EVERYTHING, [{"role": "assistant", "tool_calls": [call]}], add_generation_prompt=False)
    assert '"arguments": {}' in found


@pytest.mark.parametrize("arguments", ["{", "[" * 100_000])
def test_arguments_that_are_no_json(arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(RequestError, match="JSON text"):
        _render(EVERYTHING, [{"role": "assistant", "tool_calls": [call]}], add_generation_prompt=False)


def test_developers_are_the_system_where_the_template_knows_none() -> None:
    messages = [{"role": "developer", "content": "Be brief."}]
    assert _render(EVERYTHING, messages, add_generation_prompt=False) == "<system>Be brief."
    knows = EVERYTHING + "{# developer #}"
    assert _render(knows, messages, add_generation_prompt=False) == "<developer>Be brief."
    assert _render(EVERYTHING, messages) == "<developer>Be brief.<assistant>"


CONTINUED = [*MESSAGES, {"role": "assistant", "content": "It is "}]
KEPT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
PARTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}|{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        pytest.param(KEPT, "<user>Hi<end><assistant>It is ", id="kept"),
        pytest.param(KEPT.replace("content", "content | trim"), "<user>Hi<end><assistant>It is", id="trimmed"),
        pytest.param(PARTS, "Hi|It is ", id="parts"),
    ],
)
def test_the_last_message_is_continued(source: str, prompt: str) -> None:
    options = {"continue_final_message": True, "add_generation_prompt": False}
    assert _render(source, CONTINUED, **options) == prompt


def test_what_cannot_be_continued() -> None:
    options = {"continue_final_message": True, "add_generation_prompt": False}
    with pytest.raises(RequestError, match="does not show the last message"):
        _render("{{ messages[0].content }}", CONTINUED, **options)
    with pytest.raises(RequestError, match="no text that could be continued"):
        _render(
            "{{ 'content is none' if messages[0].content is none }}", [{"role": "user", "content": None}], **options
        )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"chat_template_kwargs": {"a": 10**50}}, id="huge-number"),
        pytest.param({"documents": [json.loads("[" * 70 + "]" * 70)]}, id="deep"),
        pytest.param({"chat_template_kwargs": {"a": "\ud800"}}, id="surrogate"),
    ],
)
def test_options_are_as_untrusted_as_messages(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"chat_template_kwargs|numbers"):
        _render(EVERYTHING, MESSAGES, **options)
