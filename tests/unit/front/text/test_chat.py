"""Conversations: what is accepted, and what a template is given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trtbuild_front.faults import RequestError
from trtbuild_front.text.chat import ChatTemplate, parse_messages

CHATML = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
CONCATENATING = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
WALKING = "{% for m in messages %}{% for p in m.content %}"
WALKING += "{% if p.type == 'text' %}[{{ p.text }}]{% endif %}{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}{% set c = m['content'] %}{% if c is string %}s:{{ c }}{% else %}"
    "{% for p in c %}p:{{ p['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
MACRO = (
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for p in content %}({{ p.text }})"
    "{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}{{ show(m.content) }}{% endfor %}"
)
NULL = "{% for m in messages %}{% if m['content'] is none %}NULL{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
DEFINED = "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{{ m.tool_calls | length }}{% endfor %}"


def _render(source: str, *messages: dict[str, Any]) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(parse_messages(json.dumps(messages)))


def _parts(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    ("source", "message", "prompt"),
    [
        pytest.param(CHATML, _parts("hello"), "<|user|>hello", id="one-part"),
        pytest.param(CHATML, _parts("a", "b"), "<|user|>a\nb", id="joined-by-line-ends"),
        pytest.param(
            CHATML,
            {"role": "user", "content": ["a", {"type": "input_text", "text": "b"}]},
            "<|user|>a\nb",
            id="short-forms",
        ),
        pytest.param(CHATML, {"role": "user", "content": []}, "<|user|>", id="no-parts"),
        pytest.param(CHATML, {"role": "user", "content": None}, "<|user|>", id="null"),
        pytest.param(CONCATENATING, {"role": "user", "content": None}, "<user>", id="null-can-be-added"),
        pytest.param(
            CONCATENATING, {"role": "assistant", "tool_calls": [CALL]}, "<assistant>", id="calls-without-content"
        ),
        pytest.param(NULL, {"role": "assistant", "tool_calls": [CALL]}, "NULL", id="a-template-that-asks-for-null"),
        pytest.param(DEFINED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, "1", id="calls"),
        pytest.param(WALKING, _parts("a", "b"), "[a][b]", id="a-template-for-parts"),
        pytest.param(WALKING, {"role": "user", "content": "a"}, "[a]", id="text-for-a-template-for-parts"),
        pytest.param(BOTH, _parts("a"), "p:a", id="both-parts"),
        pytest.param(BOTH, {"role": "user", "content": "a"}, "s:a", id="both-text"),
        pytest.param(MACRO, _parts("a", "b"), "(a)(b)", id="through-a-macro"),
        pytest.param(MACRO, {"role": "user", "content": "a"}, "a", id="text-through-a-macro"),
        pytest.param(
            "{{ messages[0].reasoning_content }}",
            {"role": "assistant", "content": "", "reasoning": "r"},
            "r",
            id="reasoning",
        ),
        pytest.param(
            "{{ messages[0].name is defined }}",
            {"role": "user", "content": "", "name": None},
            "False",
            id="nulls-are-left-out",
        ),
    ],
)
def test_content_comes_in_the_template_s_style(source: str, message: dict[str, Any], prompt: str) -> None:
    assert _render(source, message) == prompt


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        pytest.param("{% generation %}{{ messages[0].content }}!{% endgeneration %}.", "é!.", id="generation"),
        pytest.param("{%- generation -%} a {%- endgeneration -%} b", "ab", id="generation-trimmed"),
        pytest.param(
            "{{ messages[0] | tojson(ensure_ascii=True) }}", '{"role": "user", "content": "\\u00e9"}', id="ascii"
        ),
        pytest.param("{{ {'b': 1, 'a': '<'} | tojson(sort_keys=true) }}", '{"a": "<", "b": 1}', id="sorted"),
        pytest.param("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]", id="separators"),
        pytest.param("{{ [1] | tojson(indent=1) }}", "[\n 1\n]", id="indent"),
        pytest.param(
            "{{ tools is none }}{{ documents is none }}{{ bos_token }}{{ eos_token }}", "TrueTrue<s>", id="variables"
        ),
        pytest.param("{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}", "2", id="namespace"),
        pytest.param(
            "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01", id="break"
        ),
    ],
)
def test_templates_have_what_transformers_gives_them(source: str, prompt: str) -> None:
    assert _render(source, {"role": "user", "content": "é"}) == prompt


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        pytest.param(
            '[{"role": 1, "content": "x"}]', r"messages\[0\].role: expected a string, got a number", id="role"
        ),
        pytest.param('[{"role": "user", "content": 5}]', r"messages\[0\].content: .*got a number", id="number"),
        pytest.param('[{"role": "user", "content": true}]', "got a boolean", id="boolean"),
        pytest.param('[{"role": "user", "content": {"a": 1}}]', "got an object", id="object"),
        pytest.param(
            '[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]',
            r"content\[0\]: parts of type 'image_url' are not supported",
            id="image",
        ),
        pytest.param(
            '[{"role": "user", "content": [{"type": ["text"], "text": "a"}]}]', "not supported", id="odd-type"
        ),
        pytest.param(
            '[{"role": "user", "content": [{"type": "text", "text": 1}]}]',
            r"content\[0\].text: expected text",
            id="part-without-text",
        ),
        pytest.param('[{"role": "user", "content": [5]}]', r"content\[0\]: expected a part such as", id="no-part"),
        pytest.param('[{"role": "user"}]', "'role' and 'content'", id="no-content"),
        pytest.param("[" * 100_000, "nested|invalid JSON", id="brackets"),
        pytest.param(
            '[{"role": "user", "content": "x", "a": ' + "[" * 500 + "]" * 500 + "}]", "more than 64 levels", id="deep"
        ),
        pytest.param(
            '[{"role": "user", "content": "x", "a": ' + "9" * 5000 + "}]",
            "at most 40 digits, got one of 5000",
            id="digits",
        ),
        pytest.param('[{"role": "user", "content": "x", "a": 1e999}]', "finite", id="infinite"),
        pytest.param('[{"role": "user", "content": "x", "a": NaN}]', "finite", id="nan"),
        pytest.param('[{"role": "user", "content": "\\ud800"}]', "lone surrogates", id="surrogate"),
        pytest.param(
            '[{"role": "user", "content": "x"' + ', "\\uDC00": 1}]', "lone surrogates", id="surrogate-in-a-key"
        ),
        pytest.param(
            json.dumps([{"role": "user", "content": "x"}] * 5000), "at most 4096 messages, got 5000", id="many"
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(messages: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        ChatTemplate(CHATML, {}).render(parse_messages(messages))
    assert "Error(" not in str(refusal.value)


def test_pairs_of_surrogates_are_a_character() -> None:
    messages = '[{"role": "user", "content": "\\ud83d\\ude42"}]'
    assert ChatTemplate(CHATML, {}).render(parse_messages(messages)) == "<|user|>🙂"
