"""What a chat template gets besides the conversation, and how OpenAI's messages become those that templates expect.

It decides variables and small differences of form. The template itself is run in ``chat.py``.

Source: transformers 5.24, ``utils/chat_template_utils.py`` (``render_jinja_template``: ``continue_final_message``);
vLLM 0.32, ``entrypoints/chat_utils.py`` (``_postprocess_messages``: arguments of tool calls are objects for templates
and text in OpenAI's API).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtbuild_front.faults import RequestError

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
MARK_BYTES = len(_MARK)


@dataclass(frozen=True, kw_only=True)
class TemplateOptions:
    """Variables of a template.

    Attributes:
        adds_generation_prompt: Whether the prompt ends with the beginning of the assistant's turn.
        continues_final_message: Whether the prompt ends inside the last message, which the model is to continue.
        tools: Functions that the model may call, in OpenAI's form.
        documents: Documents that it may use.
        variables: Further ones, by name.
        is_from_openai: Whether the conversation is written as OpenAI's API has it.
    """

    adds_generation_prompt: bool = True
    continues_final_message: bool = False
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    is_from_openai: bool = False


PLAIN = TemplateOptions()


def as_written_for(message: dict[str, Any], *, knows_developer: bool) -> dict[str, Any]:
    """Return a message of OpenAI's API as templates expect it.

    The role ``developer`` replaces ``system`` in OpenAI's API; templates that have never heard of it know the latter.
    """
    changed = dict(message)
    if message.get("role") == "developer" and not knows_developer:
        changed["role"] = "system"
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        changed["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return changed


def _with_object_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        raise RequestError(
            "messages: expected the arguments of every tool call to be JSON text, got text that is not"
        ) from None
    return {**call, "function": {**function, "arguments": arguments}}


def with_mark(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation whose last message has a mark at its end."""
    content = messages[-1].get("content")
    if isinstance(content, list) and content and isinstance(content[-1], dict):
        marked: Any = [*content[:-1], {**content[-1], "text": f"{content[-1].get('text', '')}{_MARK}"}]
    elif isinstance(content, str):
        marked = f"{content}{_MARK}"
    else:
        raise RequestError("continue_final_message: the last message has no text that could be continued")
    return [*messages[:-1], {**messages[-1], "content": marked}]


def cut_at_mark(prompt: str) -> str:
    """Return what comes before the mark; where the template trims messages, without the spaces before it."""
    at = prompt.rfind(_MARK.strip())
    if at < 0:
        raise RequestError("continue_final_message: the model's chat template does not show the last message as it is")
    return prompt[:at] if prompt.startswith(_MARK, at) else prompt[:at].rstrip()
