"""Whatever is asked of a backend is read by it, or refused: no option is ignored without a word."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machines import gpu_host, resolved
from trtbuild import backends
from trtbuild.errors import SpecError
from trtbuild.plan import READ_FOR_EVERY_BACKEND
from trtbuild.registry import BACKENDS, NAMES, find_backend
from trtbuild.spec import OPTIONS, Option, Spec, parse_spec

READABLE = [option for option in OPTIONS if option.section != "store"]
SAID: dict[str, Any] = {
    "int": 64,
    "float": 0.5,
    "str": "said",
    "path": "/said",
    "pairs": {"a": "b"},
    "bytes": "64Mi",
    "words": ["said"],
}
PACKAGE = Path(backends.__file__).parent


def said(option: Option) -> Spec:
    """A request in which one option has another value than its default."""
    if option.kind == "bool":
        value = not option.default
    elif option.kind == "choices":
        value = [option.choices[-1]]
    else:
        value = option.choices[-1] if option.kind == "choice" else SAID[option.kind]
    return parse_spec({"model": "llama-3-8b", option.name: value})


@pytest.mark.parametrize("option", READABLE, ids=[option.name for option in READABLE])
@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_read_or_refused(name: str, option: Option) -> None:
    backend = backends.get(name)
    if option.name in backend.reads | READ_FOR_EVERY_BACKEND:
        backends.refuse_unread(backend, said(option))
        return
    with pytest.raises(SpecError, match=rf"^{option.name}=.*: the {name} backend does not read it") as caught:
        backends.make_plan(backend, said(option), resolved("llama-3-8b"), gpu_host())
    assert option.flag in caught.value.hint
    assert "--backend " in caught.value.hint


def test_defaults_are_accepted_by_every_backend() -> None:
    for name in NAMES:
        backends.refuse_unread(backends.get(name), parse_spec({"model": "llama-3-8b"}))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_backend_says_that_it_reads_is_what_its_code_reads(name: str) -> None:
    files = [*(PACKAGE / name).glob("**/*.py"), *([PACKAGE / "gpu.py"] if find_backend(name).needs_gpu else [])]
    assert len(files) > 1
    read = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spec"
    }
    names = {option.name for option in READABLE if option.section != "server"}
    assert read & names - READ_FOR_EVERY_BACKEND == backends.get(name).reads & names
    assert backends.get(name).reads <= {option.name for option in READABLE}


def test_every_option_has_a_reader() -> None:
    readers = READ_FOR_EVERY_BACKEND.union(*(backends.get(info.name).reads for info in BACKENDS))
    assert {option.name for option in READABLE} == readers
