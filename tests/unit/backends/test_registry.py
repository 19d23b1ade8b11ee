"""The one list of backends is true, and nothing else decides by a backend's name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from trtbuild import backends
from trtbuild.host import DISTRIBUTIONS
from trtbuild.registry import BACKENDS, NAMES, BackendInfo
from trtbuild.spec import BACKENDS as CHOICES

PACKAGE = Path(backends.__file__).parents[1]


@pytest.mark.parametrize("info", BACKENDS, ids=NAMES)
def test_each_entry_is_a_backend(info: BackendInfo) -> None:
    assert backends.get(info.name).name == info.name
    assert info.package in info.distributions
    assert info.distributions.items() <= DISTRIBUTIONS.items()


def test_people_may_ask_for_each() -> None:
    assert CHOICES == ("auto", "cpu", "tensorrt_llm", "llmapi")
    assert set(CHOICES) == {"auto", *backends.names()}


def test_every_package_of_a_backend_is_listed() -> None:
    found = {path.parent.name for path in (PACKAGE / "backends").glob("*/backend.py")}
    assert found == set(NAMES)


def test_nothing_compares_with_a_backends_name_but_the_backend() -> None:
    """Adding a backend must not mean to look for such comparisons: what differs is an attribute or a method."""
    compared = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if not {"_templates", "_demo_model", "backends"} & set(path.relative_to(PACKAGE).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Constant) and side.value in NAMES
    }
    assert not compared
