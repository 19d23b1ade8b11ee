"""The content of a message as a chat template expects it: text for most, a list of parts for some.

It decides from the template's syntax tree. OpenAI's clients send either form; a template that was written for text
prints a list as Python writes it, so such lists become text, and a template that only walks over parts gets parts.

Source: vLLM, ``vllm/renderers/hf.py`` (formerly ``entrypoints/chat_utils.py``), ``_detect_content_format``: a template
that loops over ``message.content`` takes parts, any other text; texts are joined by line ends. TensorRT-LLM's
``serve/chat_utils.py`` joins them the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from trtbuild_front.faults import RequestError

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


@dataclass(frozen=True, kw_only=True)
class ContentStyle:
    """What a template does with the content of messages.

    Attributes:
        takes_parts: It walks over a list of parts.
        takes_text: It can tell text from a list, or does not know lists.
        takes_objects: It asks whether content is an object (answers of tools).
        takes_none: It asks whether there is content, and expects null where there is none.
    """

    takes_parts: bool = False
    takes_text: bool = True
    takes_objects: bool = False
    takes_none: bool = False


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    """Return whether an expression is a message's content, or that with filters or a part cut out."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Const):
            return bool(node.arg.value == "content")
        return isinstance(node.arg, nodes.Slice) and _is_content(node.node, names)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "get":
        return any(isinstance(item, nodes.Const) and item.value == "content" for item in node.args[:1])
    return isinstance(node, nodes.Name) and node.name in names


def content_style(tree: nodes.Template) -> ContentStyle:
    """Return how a template takes content."""
    names: set[str] = set()
    for macro in tree.find_all(nodes.Macro):  # macros are called with it
        names.update(argument.name for argument in macro.args if argument.name == "content")
    for _ in range(4):  # names of names
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
                names.add(assignment.target.name)
    loops = any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))
    tests = {test.name for test in tree.find_all(nodes.Test) if _is_content(test.node, names)}
    return ContentStyle(
        takes_parts=loops,
        takes_text=not loops or bool(tests & {"string", "iterable", "sequence", "mapping"}),
        takes_objects="mapping" in tests,
        takes_none="none" in tests,
    )


def as_template_content(where: str, content: Any, style: ContentStyle) -> Any:
    """Return the content of a message in the template's style.

    Raises:
        RequestError: There is something in it that is no text.
    """
    if content is None:
        return None if style.takes_none else ""
    if isinstance(content, str):
        return content if style.takes_text else [{"type": "text", "text": content}]
    if isinstance(content, dict):
        if style.takes_objects:
            return content
        raise RequestError(f"{where}: expected text or a list of text parts, got an object")
    texts = [_text_of_part(f"{where}[{number}]", part) for number, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if style.takes_parts else "\n".join(texts)


def _text_of_part(where: str, part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RequestError(f'{where}: expected a part such as {{"type": "text", "text": "Hello"}}')
    kind = part.get("type", "text")
    if kind not in _TEXT_TYPES if isinstance(kind, str) else True:
        shown = repr(kind)[:40] if isinstance(kind, str) else "that is not a string"
        raise RequestError(f"{where}: parts of type {shown} are not supported; this server takes text only")
    text = part.get("text")
    if not isinstance(text, str):
        raise RequestError(f"{where}.text: expected text")
    return text
