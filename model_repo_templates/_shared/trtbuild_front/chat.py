"""Chat messages to a prompt, with the template that comes with the tokenizer.

It decides what a template may see and do (nothing outside its arguments). It does not know tokens.

Source: Hugging Face "chat templates" documentation: the variables and functions templates expect, and the options of
the Jinja environment that they are written for.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trtbuild_front.faults import RequestError


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)  # templates print the local date


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile ``source``.

        Args:
            source: Jinja text.
            special_tokens: ``bos_token``, ``eos_token`` and their like, as the template may use them.

        Raises:
            jinja2.TemplateSyntaxError: The template is not valid Jinja.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        environment.globals.update(functions)
        self._special_tokens = dict(special_tokens)
        self._template = environment.from_string(source)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Return the prompt that asks the assistant for the next turn.

        Raises:
            RequestError: The template refuses these messages.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RequestError(f"messages: the model's chat template refused them: {error}") from error


def parse_messages(text: str) -> list[dict[str, Any]]:
    """Read the ``messages`` input.

    Raises:
        RequestError: It is not a JSON list of objects with a role and content.
    """
    expected = 'a JSON list such as [{"role": "user", "content": "Hello"}]'
    try:
        messages = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"messages: expected {expected}, got invalid JSON ({error})") from error
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"messages: expected {expected}, got {type(messages).__name__ if messages else 'nothing'}")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise RequestError(f"messages[{number}]: expected an object with 'role' and 'content', in {expected}")
    return messages
