"""docs/architecture.md names what exists: files of every layer, and functions with the parameters they have."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.test_architecture import LAYERS, ROOT
from tools import architecture_docs

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NOT_CODE = re.compile(r"[/<>*\s]|\.(json|jinja|yaml|txt|md)$|^(main|tokenizer)$")


def _section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


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
        if value is not None and not inspect.ismodule(value):
            return value
    return None


def _has(kind: Any, attribute: str) -> bool:
    """Return whether objects of a class have an attribute: declared, or assigned in the class's own code."""
    return hasattr(kind, attribute) or bool(
        re.search(rf"^ +(self\.)?{attribute}: |self\.{attribute}\b", inspect.getsource(kind), re.MULTILINE)
    )


def test_the_table_and_the_pictures_are_up_to_date() -> None:
    files = architecture_docs.render()
    assert {path.name for path in files} == {"architecture.md", "build-request.svg", "served-request.svg"}
    stale = [str(path) for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run: tools/architecture_docs.py"


def test_every_room_is_in_the_table_and_in_the_picture() -> None:
    table, picture = _section("Rooms"), (ROOT / "docs/pictures/build-request.svg").read_text(encoding="utf-8")
    for room, layer in LAYERS.items():
        assert f"| {layer} | `{architecture_docs.room_name(room)}` |" in table
        assert f">{room}</text>" in picture


def test_a_picture_refuses_what_is_not_in_the_source_or_does_not_fit() -> None:
    box = {"at": [0, 0, 184, 88], "layer": 3, "title": "Build", "code": ["backends"], "text": ""}
    picture = {"title": "", "size": [200, 100], "root": "builder/trtbuild", "frames": [], "arrows": []}
    assert "backends/" in architecture_docs.draw({**picture, "boxes": [box]})
    for change, reason in (({"code": ["no_such_room"]}, "has no no_such_room"), ({"text": "wide " * 9}, "pixels")):
        with pytest.raises(ValueError, match=reason):
            architecture_docs.draw({**picture, "boxes": [{**box, **change}]})


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").iterdir()), ids=lambda path: path.name)
def test_pictures_fit_a_page_and_are_shown(picture: Path) -> None:
    drawing = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert float(drawing.attrib["width"]) <= 900
    assert f"(pictures/{picture.name})" in PAGE


def test_what_is_to_be_opened_for_a_change_exists() -> None:
    rows = [row.split("|")[2] for row in _section("Where to make a change").splitlines() if "`" in row]
    paths = [path for cell in rows for path in re.findall(r"`([^`]*)`", cell)]
    assert len(paths) > 25
    assert not [path for path in paths if not (ROOT / path).exists()]


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
