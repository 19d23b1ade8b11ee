"""docs/architecture.md names what exists: files of every layer, and functions with the parameters they have."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_architecture import LAYERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
NOT_CODE = re.compile(r"[/<>*\s]|\.(json|jinja|yaml|txt|md)$|^(main|tokenizer)$")


def _section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _layers() -> Iterator[tuple[int, set[str]]]:
    for row in re.findall(r"^\| (\d) \| ([^|]*) \|", _section("Layers"), re.MULTILINE):
        yield int(row[0]), {name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([^`]*)`", row[1])}


def _claims() -> list[tuple[str, str]]:
    """Return room and what is said to be in it, e.g. ``("launch", "find_server(search_path) -> Server")``."""
    found = []
    for bullet in re.split(r"^- ", _section("Names between the parts"), flags=re.MULTILINE)[1:]:
        room, *names = re.findall(r"`([^`]*)`", bullet)
        found += [(room, name) for name in names if not NOT_CODE.search(name.partition("(")[0])]
    return found


def _find(room: str, name: str) -> Any:
    """Return what a room, or a class of the room, has under a name; the name may begin with another room."""
    first, _, rest = name.partition(".")
    module = importlib.import_module(f"trtbuild.{first if rest and first in LAYERS else room}")
    name = rest if rest and first in LAYERS else name
    is_package = hasattr(module, "__path__")
    if rest and is_package and importlib.util.find_spec(f"{module.__name__}.{first}"):
        module, name = importlib.import_module(f"{module.__name__}.{first}"), rest
    for holder in (module, *(value for value in vars(module).values() if inspect.isclass(value))):
        value: Any = holder
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None:
            return value
    return None


def _has(kind: Any, attribute: str) -> bool:
    """Return whether objects of a class have an attribute: declared, or assigned in the class's own code."""
    return hasattr(kind, attribute) or bool(
        re.search(rf"^ +(self\.)?{attribute}: |self\.{attribute}\b", inspect.getsource(kind), re.MULTILINE)
    )


def test_each_layer_lists_its_files() -> None:
    told = dict(_layers())
    assert told == {level: {name for name, own in LAYERS.items() if own == level} for level in set(LAYERS.values())}


def test_there_are_claims() -> None:
    assert len(_claims()) > 30


@pytest.mark.parametrize(("room", "claim"), _claims())
def test_what_a_room_is_said_to_have_is_there(room: str, claim: str) -> None:
    found = re.fullmatch(r"([\w.]+)(?:\(([^)]*)\))?(?: -> (.+))?", claim)
    assert found, f"{claim!r} is no name"
    name, arguments, returned = found.groups()
    value = _find(room, name)
    assert value is not None or name in LAYERS, f"{room} has no {name}"
    if arguments and "..." not in arguments:
        said = re.findall(r"(?:^|, )(\w+)", re.sub(r":[^,]*(\[[^]]*\])?|\*, ", "", arguments))
        has = list(inspect.signature(value).parameters)
        assert [each for each in has if each in said] == said, f"{name} takes {has}"
    if returned:
        wanted = re.match(r"\"?(\w+)", returned)
        assert wanted
        annotation = str(inspect.signature(value).return_annotation)
        assert wanted[1] in annotation or wanted[1] == "tree", f"{name} returns {annotation}"
        parts = re.match(r"\w+\((\w+(?:, \w+)*)", returned)
        for part in parts[1].split(", ") if parts else ():
            assert _has(_find(room, wanted[1]), part), f"{wanted[1]} has no {part}"
