"""The shape of the source: layers, one user of subprocess, one reader of the environment, short functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "builder" / "trtbuild"
LAYERS = {
    "errors": 0, "redact": 0, "console": 0, "event_stream": 0,
    "registry": 1, "http_client": 1, "untrusted": 1, "diskspace": 1, "catalog": 1, "spec": 1, "process": 1,
    "wheel_backend": 1,
    "access": 2, "preflight": 2, "plan": 2,
    "host": 3, "fetch": 3, "store": 3, "repository": 3, "launch": 3, "health": 3, "backends": 3, "autoscaling": 3,
    "pipeline": 4,
    "cli": 5,
}  # fmt: skip
FILES = sorted(p for p in PACKAGE.rglob("*.py") if not {"_templates", "_demo_model"} & set(p.parts))
IDS = [str(p.relative_to(PACKAGE)) for p in FILES]
MAX_LINES = 60
SEES_THE_PROCESS = {"console/frame.py", "console/streams.py", "console/render.py"}
"""Files outside of ``cli/`` that look at the process they run in, for both command lines."""


def _unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the parts of trtbuild that a file imports at run time."""
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("trtbuild."))
        elif isinstance(node, ast.ImportFrom) and node.module == "trtbuild":
            yield from (a.name for a in node.names if a.name in LAYERS)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trtbuild."):
            yield node.module.split(".")[1]


def test_every_file_has_a_layer() -> None:
    assert {_unit(p) for p in FILES} - {"__init__", "__main__"} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_file_imports_lower_layers_only(path: Path) -> None:
    own = _unit(path)
    wrong = {
        name
        for name in _imports(ast.parse(path.read_text()))
        if name != own
        and LAYERS[name] >= LAYERS.get(own, 99)
        and not (LAYERS[name] == LAYERS[own] <= 2)  # pure layers may lean on each other; circles are refused below
    }
    assert not wrong, f"{own} (layer {LAYERS[own]}) imports {wrong}"


def test_nothing_of_the_first_layers_imports_in_a_circle() -> None:
    edges = {_unit(p): set[str]() for p in FILES}
    for path in FILES:
        edges[_unit(path)] |= set(_imports(ast.parse(path.read_text()))) - {_unit(path)}
    done: set[str] = set()
    while ready := {u for u, needs in edges.items() if u not in done and needs <= done}:
        done |= ready
    assert set(edges) == done


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_one_file_starts_programs(path: Path) -> None:
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    allowed = path.name == "process.py"
    assert allowed or not names & {"subprocess", "pty", "pexpect"}


@pytest.mark.parametrize("name", [name for name in IDS if not name.startswith("cli/") and name not in SEES_THE_PROCESS])
def test_below_the_command_line_nothing_reads_the_environment_or_exits(name: str) -> None:
    path = PACKAGE / name
    text = path.read_text()
    tree = ast.parse(text)
    used = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "sys.argv", "sys.exit"}
    }
    assert path.name == "process.py" or not used
    broad = [
        h.lineno
        for h in ast.walk(tree)
        if isinstance(h, ast.ExceptHandler) and h.type and ast.unparse(h.type) == "Exception"
    ]
    assert not broad, f"except Exception at lines {broad}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_functions_are_short(path: Path) -> None:
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno
        and node.end_lineno - node.lineno + 1 > MAX_LINES
    }
    assert not long


def test_the_walk_found_the_package() -> None:
    assert {"errors.py", "spec.py", "plan/values.py", "process.py"} <= set(IDS)
    assert len(FILES) > 20
