"""Generate ``values.schema.json``, ``templates/_keys.tpl`` and the README's table from ``chart/values.yaml``.

It decides how a comment becomes a schema: the type of a default, refined by ``# @schema {...}`` lines, and sections
whose comment ends in "(per SKU)" become the properties of an entry of ``skus``. Usage::

    python tools/chart_docs.py            # write all three
    python tools/chart_docs.py --check    # exit 1 when either would change
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "chart"
PER_SKU = "(per SKU)"
BEGIN, END = "<!-- values: generated -->", "<!-- values: end -->"
SKU_NAME = {"pattern": "^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$"}


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


def type_of(default: Any) -> dict[str, Any]:
    """Return the schema of a default's type."""
    match default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
        case dict():
            return {"type": "object"}
        case _:
            raise ValueError(f"null needs a @schema type, got {default!r}")


def schema_of(key: Key) -> dict[str, Any]:
    """Return the schema of one key, with its comment as the description."""
    description = {"description": key.text} if key.text else {}
    if key.children:
        properties = {child.name: schema_of(child) for child in key.children}
        return {**description, "type": "object", "additionalProperties": False, "properties": properties}
    inferred = {} if "type" in key.schema else type_of(key.default)
    return {**description, **inferred, **key.schema}


def build_schema(keys: tuple[Key, ...]) -> dict[str, Any]:
    """Return the whole draft-07 schema. Unknown keys are refused everywhere but in Kubernetes' own objects."""
    definitions = {key.name: schema_of(key) for key in keys if key.is_per_sku}
    references = {name: {"$ref": f"#/definitions/{name}"} for name in definitions}
    properties: dict[str, Any] = {}
    for key in keys:
        if key.is_skus:
            entry = {"type": ["object", "null"], "additionalProperties": False, "properties": references}
            properties[key.name] = {
                "description": key.text,
                "type": "object",
                "propertyNames": SKU_NAME,
                "additionalProperties": entry,
            }
        else:
            properties[key.name] = references.get(key.name) or schema_of(key)
    # Helm adds "global" to the values of every chart.
    properties["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the trtbuild chart",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "definitions": definitions,
    }


def table_rows(keys: tuple[Key, ...], *, per_sku: bool = False) -> list[str]:
    """Return the README's table rows, sections in bold."""
    rows = []
    for key in keys:
        is_per_sku = per_sku or key.is_per_sku
        text = key.text.removesuffix(PER_SKU).strip().replace("|", "\\|").replace("<", "&lt;")
        if key.children:
            rows.append(f"| **`{key.path}`** | | {'x' if is_per_sku else ''} | {text} |")
            rows.extend(table_rows(key.children, per_sku=is_per_sku))
        else:
            default = json.dumps(key.default).replace("|", "\\|")
            allowed = " One of " + ", ".join(f"`{v}`" for v in key.schema["enum"]) + "." if "enum" in key.schema else ""
            rows.append(f"| `{key.path}` | `{default}` | {'x' if is_per_sku else ''} | {text}{allowed} |")
    return rows


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


def keys_template(keys: tuple[Key, ...]) -> str:
    """Return the template file that tells ``trtbuild.validateNulls`` what may not be null.

    Helm drops a key that is set to null, default and all, before the schema sees it, and hands templates no defaults.
    """
    text = json.dumps(needed_keys(keys), indent=2)
    head = "{{/* Generated by tools/chart_docs.py: keys that may not be null, and their defaults. */}}"
    return f'{head}\n{{{{- define "trtbuild.keys" -}}}}\n{text}\n{{{{- end }}}}\n'


def load_keys(chart: Path = CHART) -> tuple[Key, ...]:
    """Return the documented keys of the chart's values.yaml."""
    text = (chart / "values.yaml").read_text()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return read_keys(node, yaml.safe_load(text), text.splitlines())


def render(chart: Path = CHART) -> dict[Path, str]:
    """Return the text of every generated file by path."""
    keys = load_keys(chart)
    readme = (chart / "README.md").read_text()
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    table = "\n".join(["| value | default | per SKU | meaning |", "|---|---|---|---|", *table_rows(keys)])
    return {
        chart / "templates" / "_keys.tpl": keys_template(keys),
        chart / "values.schema.json": json.dumps(build_schema(keys), indent=2) + "\n",
        chart / "README.md": f"{head}{BEGIN}\n{table}\n{END}{tail}",
    }


def main() -> int:
    """Write the generated files, or with ``--check`` say which would change."""
    parser = argparse.ArgumentParser(description="Generate the chart's schema and README table from values.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    check = parser.parse_args().check
    is_stale = False
    for path, text in render().items():
        if path.exists() and path.read_text() == text:
            continue
        is_stale = True
        if check:
            print(f"{path.name} is out of date; run python tools/chart_docs.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path.name}")
    return 1 if check and is_stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
