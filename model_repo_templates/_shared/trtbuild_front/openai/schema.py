"""Whether a JSON value is what a field of a request may hold, and what to tell the client if it is not.

It decides with the schemas that the OpenAPI document publishes, so that the two cannot differ. It knows the part of
JSON Schema that ``fields.py`` uses.

Source: JSON Schema 2020-12, validation vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trtbuild_http.errors import ApiError

Schema = Mapping[str, Any]

_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
_ARTICLES = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "boolean": "a boolean",
    "integer": "a whole number",
    "number": "a number",
}
_SHOWN = 40


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == int(value),
}


def refuse(param: str | None, message: str) -> ApiError:
    """Return the error for a field that is not as it should be."""
    return ApiError(400, message, param=param)


def shown(value: Any) -> str:
    """Return a value as an error may show it: short, and never what may be private text."""
    if _is_number(value):
        text = str(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return _NAMES.get(type(value), "something else")


def expected(schema: Schema) -> str:
    """Return in words what a schema takes."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(expected(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(repr(each) for each in schema["enum"])
    kind = schema["type"]
    if kind == "array" and "items" in schema:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        count = f" of {least} to {most} items" if most is not None else f" of at least {least} items" if least else ""
        return f"an array{count}"
    return _ARTICLES[kind] + _range(schema)


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None and high is None:
        longest = schema.get("maxLength")
        return f" of at most {longest} characters" if longest is not None else ""
    if high is None:
        return f" {'>' if 'exclusiveMinimum' in schema else '>='} {low}"
    return f" from {low} to {high}"


def check(name: str, value: Any, schema: Schema) -> None:
    """Check the value of a field.

    Raises:
        ApiError: 400 with the name of the outermost field as ``param``.
    """
    if "anyOf" in schema:
        _check_any(name, value, schema)
        return
    good = value in schema["enum"] if "enum" in schema else _TYPES[schema["type"]](value)
    if not good or not _is_within(value, schema):
        seen = f"{len(value)} items" if good and isinstance(value, list) else shown(value)
        raise refuse(_outermost(name), f"{name}: expected {expected(schema)}, got {seen}")
    if isinstance(value, list):
        _check_items(name, value, schema)
    elif isinstance(value, dict):
        _check_properties(name, value, schema)


def _is_within(value: Any, schema: Schema) -> bool:
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf))
    if isinstance(value, list):
        return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf))
    if isinstance(value, dict):
        return bool(len(value) <= schema.get("maxProperties", math.inf))
    if _is_number(value):
        is_above = value > schema.get("exclusiveMinimum", -math.inf)
        return bool(is_above and schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf))
    return True


def _check_items(name: str, value: list[Any], schema: Schema) -> None:
    items = schema.get("items")
    if items is None:
        return
    is_tokens = items == {"type": "integer", "minimum": 0}
    if is_tokens and all(type(item) is int and item >= 0 for item in value):  # prompts in tokens may be long
        return
    for number, item in enumerate(value):
        check(f"{name}[{number}]", item, items)


def _check_properties(name: str, value: dict[str, Any], schema: Schema) -> None:
    for key in schema.get("required", ()):
        if key not in value:
            raise refuse(_outermost(name), f"{name}: expected a field {key!r}, got none")
    for key, inner in schema.get("properties", {}).items():
        if value.get(key) is not None:
            check(f"{name}.{key}", value[key], inner)
    if "additionalProperties" in schema:
        for key, item in value.items():
            check(f"{name}.{key[:_SHOWN]}", item, schema["additionalProperties"])


def _check_any(name: str, value: Any, schema: Schema) -> None:
    """Check against alternatives; a value of the type of some of them is told what the last of those expects."""
    closest: ApiError | None = None
    for each in schema["anyOf"]:
        try:
            check(name, value, each)
        except ApiError as error:
            if _TYPES[each["type"]](value):
                closest = error
        else:
            return
    raise closest or refuse(_outermost(name), f"{name}: expected {expected(schema)}, got {shown(value)}")


def _outermost(name: str) -> str:
    return name.partition("[")[0].partition(".")[0]


def check_body(body: Mapping[str, Any], fields: Mapping[str, Schema], required: tuple[str, ...]) -> None:
    """Check the fields of a request's body; null is the same as absent, and fields that nobody knows are ignored.

    Raises:
        ApiError: 400 that names the field.
    """
    for name in required:
        if body.get(name) is None:
            raise refuse(name, f"{name}: expected {expected(fields[name])}, got none")
    for name, schema in fields.items():
        if body.get(name) is not None:
            check(name, body[name], schema)
