"""Chat messages to a prompt, with the template that comes with the tokenizer.

It decides what a conversation is, and what a template may see and do (nothing outside its arguments). It does not know
tokens, and it does not bound time or memory: templates are untrusted programs, so this runs in a process of its own,
see ``renderer.py``.

Source: transformers 5.24, ``utils/chat_template_utils.py`` (``_compile_jinja_template``, ``_normalize_chat_messages``,
``_alias_reasoning_fields``): the environment, functions and variables that templates are written for.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trtbuild_front.faults import RequestError
from trtbuild_front.limits import MAX_DEPTH, MAX_DIGITS, MAX_MESSAGES, MAX_TEXT_BYTES
from trtbuild_front.text.content import ContentStyle, as_template_content, content_style
from trtbuild_front.text.template_options import (
    MARK_BYTES,
    PLAIN,
    TemplateOptions,
    as_written_for,
    cut_at_mark,
    with_mark,
)

_EXPECTED = 'a JSON list such as [{"role": "user", "content": "Hello"}]'
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_REASONING = ("reasoning_content", "thinking", "reasoning")


def template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Return the chat template: the file wins over ``tokenizer_config.json``; of several named ones, ``default``."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)  # templates print the local date


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}``: marks what the assistant said, for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's interface)

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body as a block with a scope of its own, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def explain(error: BaseException) -> str:
    """Return what a client or an operator is told about an error in a template; no names of Python's classes."""
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    if isinstance(error, RecursionError):
        return "it calls itself too deeply"
    return str(error).splitlines()[0][:500] if str(error) else "it failed without saying why"


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile ``source``.

        Args:
            source: Jinja text.
            special_tokens: ``bos_token``, ``eos_token`` and their like, as the template may use them.

        Raises:
            ValueError: The template is not valid Jinja.
        """
        environment = _environment()
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        try:
            self._template = environment.from_string(source)
            self.style: ContentStyle = content_style(environment.parse(source))
        except Exception as error:  # compiling evaluates constants, so a template may raise anything here
            raise ValueError(f"the chat template is not valid Jinja: {explain(error)}") from error

    def render(
        self, messages: list[dict[str, Any]], limit_bytes: int = MAX_TEXT_BYTES, options: TemplateOptions = PLAIN
    ) -> str:
        """Return the prompt that asks the assistant for the next turn.

        Raises:
            RequestError: The template refuses these messages, or makes more than ``limit_bytes`` of them.
        """
        messages = [_as_template_message(number, message, self.style) for number, message in enumerate(messages)]
        if options.is_from_openai:
            messages = [as_written_for(message, knows_developer=self._knows_developer) for message in messages]
        if not options.continues_final_message:
            return self._write(messages, limit_bytes, options)
        return cut_at_mark(self._write(with_mark(messages), limit_bytes + MARK_BYTES, options))

    def _write(self, messages: list[dict[str, Any]], limit_bytes: int, options: TemplateOptions) -> str:
        parts, size = [], 0
        variables = {
            **self._special_tokens,
            **options.variables,
            "messages": messages,
            "add_generation_prompt": options.adds_generation_prompt,
            "tools": options.tools,
            "documents": options.documents,
        }
        try:
            for part in self._template.generate(variables):
                size += len(part) if part.isascii() else len(part.encode())
                if size > limit_bytes:
                    break
                parts.append(part)
        except Exception as error:  # a template is a program: whatever it raises is its refusal
            raise RequestError(f"messages: the model's chat template refused them: {explain(error)}") from error
        if size > limit_bytes:
            raise RequestError(
                f"messages: the model's chat template makes more than {limit_bytes} bytes of them, "
                "the longest prompt that this engine can take"
            )
        return "".join(parts)


def _as_template_message(number: int, message: dict[str, Any], style: ContentStyle) -> dict[str, Any]:
    """Return a message as templates expect it: without nulls, with content and the usual names of reasoning."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[key] for key in _REASONING if key in kept), None)
    if reasoning is not None:
        kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
    kept["content"] = as_template_content(f"messages[{number}].content", message.get("content"), style)
    return kept


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RequestError(f"messages: expected numbers of at most {MAX_DIGITS} digits, got one of {len(digits)}")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise RequestError(f"messages: expected finite numbers, got {digits[:MAX_DIGITS]}")
    return value


def _depth(value: object) -> int:
    """Return how deeply lists and objects are nested in each other."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, (dict, list))]:
        depth += 1
        level = [item for inner in level for item in (inner.values() if isinstance(inner, dict) else inner)]
    return depth


def read_json(name: str, text: str, expected: str) -> Any:
    """Return what JSON text of a client holds; it may be written by anybody.

    Raises:
        RequestError: It is no JSON, nested too deeply, or has numbers or characters that nothing can be done with.
    """
    too_deep = f"{name}: the JSON is nested more than {MAX_DEPTH} levels deep"
    try:
        value = json.loads(text, parse_int=_whole_number, parse_float=_fraction, parse_constant=_fraction)
    except json.JSONDecodeError as error:
        raise RequestError(f"{name}: expected {expected}, got invalid JSON ({error})") from error
    except RecursionError:
        raise RequestError(too_deep) from None
    if _depth(value) > MAX_DEPTH:
        raise RequestError(too_deep)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"{name}: lone surrogates (\\ud800 to \\udfff) are no characters") from error
    return value


def parse_messages(text: str) -> list[dict[str, Any]]:
    """Read the ``messages`` input.

    Raises:
        RequestError: It is not a JSON list of objects with a role and content, or too much of one.
    """
    messages = read_json("messages", text, _EXPECTED)
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"messages: expected {_EXPECTED}, got {_kind(messages) if messages else 'nothing'}")
    if len(messages) > MAX_MESSAGES:
        raise RequestError(f"messages: expected at most {MAX_MESSAGES} messages, got {len(messages)}")
    for number, message in enumerate(messages):
        _check_message(number, message)
    return cast("list[dict[str, Any]]", messages)


def parse_options(text: str) -> TemplateOptions:
    """Read what a conversation's template gets besides it; empty text for nothing.

    Raises:
        RequestError: It holds what no template can be given.
    """
    if not text:
        return PLAIN
    options = read_json("chat_template_kwargs", text, "a JSON object")
    return TemplateOptions(
        adds_generation_prompt=bool(options.get("add_generation_prompt", True)),
        continues_final_message=bool(options.get("continue_final_message", False)),
        tools=options.get("tools"),
        documents=options.get("documents"),
        variables=options.get("chat_template_kwargs") or {},
        is_from_openai=True,
    )


def _kind(value: object) -> str:
    """Return JSON's name for the type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _check_message(number: int, message: object) -> None:
    if not isinstance(message, dict):
        raise RequestError(f"messages[{number}]: expected an object, got {_kind(message)}; expected {_EXPECTED}")
    role = message.get("role")
    if not isinstance(role, str):
        seen = _kind(role) if "role" in message else "none"
        raise RequestError(f"messages[{number}].role: expected a string, got {seen}; expected {_EXPECTED}")
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list, dict)):
        raise RequestError(f"messages[{number}].content: expected text or a list of text parts, got {_kind(content)}")
    has_calls = message.get("tool_calls") or message.get("function_call")
    if "content" not in message and not (role == "assistant" and has_calls):
        raise RequestError(f"messages[{number}]: expected an object with 'role' and 'content', in {_EXPECTED}")
