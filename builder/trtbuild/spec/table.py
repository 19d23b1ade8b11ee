"""The one table of options, made from the fields of the frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trtbuild.spec.option import Kind, Option, Section
from trtbuild.spec.values import EngineSpec, RepositorySpec, ServerSpec, StoreSpec

SECTIONS: Mapping[Section, type] = {
    "engine": EngineSpec,
    "repository": RepositorySpec,
    "store": StoreSpec,
    "server": ServerSpec,
}
_KINDS: Mapping[Any, Kind] = {str: "str", int: "int", float: "float", bool: "bool", Path: "path"}
_CONTAINERS: Mapping[Any, Kind] = {Literal: "choice", tuple: "choices", Mapping: "pairs"}


def _options(section: Section, value: type) -> Iterator[Option]:
    """Yield the options that fill a frozen value, in the order of its fields."""
    hints = get_type_hints(value)
    for field in fields(value):
        hint = _without_none(hints[field.name])
        choices = field.metadata["choices"] or (get_args(hint) if get_origin(hint) is Literal else ())
        said: Kind | None = field.metadata["kind"] or ("choice" if choices and hint is str else None)
        container: Kind | None = "words" if get_origin(hint) is tuple and not choices else None
        yield Option(
            name=field.name,
            section=field.metadata["section"] or section,
            kind=said or container or _KINDS.get(hint) or _CONTAINERS[_origin(hint)],
            default=None if field.default in (MISSING, ()) else field.default,
            choices=choices,
            **field.metadata["option"],
        )


def _origin(hint: Any) -> Any:
    origin = get_origin(hint)
    return Mapping if origin is get_origin(Mapping[str, str]) else origin


def _without_none(hint: Any) -> Any:
    """Return the type of an optional value: ``int`` for ``int | None``."""
    if get_origin(hint) is Literal:
        return hint
    inner = [part for part in get_args(hint) if part is not NoneType]
    return inner[0] if NoneType in get_args(hint) else hint


OPTIONS: tuple[Option, ...] = tuple(
    option for section, value in SECTIONS.items() for option in _options(section, value)
)
"""Every option there is. Flags, variables, engine.yaml and the reference are made from this table."""

OPTIONS_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
