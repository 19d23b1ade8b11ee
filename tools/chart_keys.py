"""Read the keys of ``chart/values.yaml`` with what their comments say of them.

It decides how a comment is read, and which keys may not be null. What is made of the keys is in ``chart_docs.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "chart"
PER_SKU = "(per SKU)"


@dataclass(frozen=True)
class Key:
    """One key of values.yaml.

    Attributes:
        path: Dotted path.
        default: Its default value.
        text: Its comment in one line, without directives.
        schema: The merged ``@schema`` directives.
        children: Keys below, when the value is a non-empty map that is not documented as free-form.
        is_skus: It is the map of SKUs.
    """

    path: str
    default: Any
    text: str
    schema: dict[str, Any]
    children: tuple[Key, ...] = ()
    is_skus: bool = False

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def is_per_sku(self) -> bool:
        """May be repeated under skus.<name>."""
        return self.text.endswith(PER_SKU)


def read_comment(lines: list[str], line: int) -> tuple[str, dict[str, Any], bool]:
    """Return text, schema and the skus mark from the comment block directly above a line (0-based)."""
    block: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].lstrip().removeprefix("#").removeprefix(" "))
    words: list[str] = []
    schema: dict[str, Any] = {}
    is_skus = False
    for row in block:
        if row.startswith("@schema "):
            schema |= json.loads(row.removeprefix("@schema "))
        elif row == "@skus":
            is_skus = True
        elif row.startswith("Example:"):
            break
        else:
            words.append(row.strip())
    is_skus = is_skus or "@skus" in block
    return " ".join(words), schema, is_skus


def read_keys(node: yaml.MappingNode, values: dict[str, Any], lines: list[str], prefix: str = "") -> tuple[Key, ...]:
    """Return the keys of one map of values.yaml with their comments.

    Raises:
        ValueError: A key has no comment, except a section whose keys all have one.
    """
    keys = []
    for key_node, value_node in node.value:
        name = key_node.value
        path = f"{prefix}{name}"
        text, schema, is_skus = read_comment(lines, key_node.start_mark.line)
        default = values[name]
        children: tuple[Key, ...] = ()
        if isinstance(value_node, yaml.MappingNode) and value_node.value and "additionalProperties" not in schema:
            children = read_keys(value_node, default, lines, f"{path}.")
        if not text and not children:
            line = key_node.start_mark.line + 1
            raise ValueError(f"values.yaml line {line}: {path} has no comment; say what it does, with its unit")
        keys.append(Key(path, default, text, schema, children, is_skus))
    return tuple(keys)


def load_keys(chart: Path = CHART) -> tuple[Key, ...]:
    """Return the documented keys of the chart's values.yaml."""
    text = (chart / "values.yaml").read_text()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return read_keys(node, yaml.safe_load(text), text.splitlines())


def is_nullable(key: Key) -> bool:
    """Return whether null has a meaning: its own, or nothing for a list, a free map and a text that may be empty."""
    is_free = key.default == "" or (isinstance(key.default, list | dict) and "minItems" not in key.schema)
    return not key.children and (is_free or "null" in key.schema.get("type", ()))


def needed_keys(keys: tuple[Key, ...]) -> dict[str, str]:
    """Return the keys that may not be null, and their defaults as text; "" for a section."""
    needed: dict[str, str] = {}
    for key in keys:
        if key.children:
            needed[key.path] = ""
            needed |= needed_keys(key.children)
        elif not is_nullable(key):
            needed[key.path] = key.default if isinstance(key.default, str) else json.dumps(key.default)
    return needed
