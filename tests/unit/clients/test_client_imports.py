"""What the client needs of the builder: its console and its errors, in the source and in a running process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "clients" / "trtclient"
FILES = sorted(PACKAGE.rglob("*.py"))
SHARED = (
    "trtbuild.console",
    "trtbuild.errors",
    "trtbuild.event_stream",
    "trtbuild.redact",
    "trtbuild.__version__",
)
NEEDED_BY_BUILDER = {"huggingface_hub", "jinja2", "urllib3", "yaml", "requests", "httpx", "google", "openvino"}
LISTED = """
import importlib, json, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*.py")):
    if path.name != "__main__.py":
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_shared(name: str) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in SHARED)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_the_source_imports_console_and_errors_of_the_builder_and_no_more(path: Path) -> None:
    ours = {name for name in _imported(path) if name.partition(".")[0] == "trtbuild"}
    assert not {name for name in ours if not _is_shared(name)}


def test_every_module_of_the_client_loads_without_the_builders_dependencies() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTED, str(PACKAGE)], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(json.loads(done.stdout))
    assert {"trtclient.cli.load", "trtclient.batch.run", "trtclient.http1", "trtbuild.errors"} <= loaded
    builder = {name for name in loaded if name.startswith("trtbuild.")}
    assert not {name for name in builder if not _is_shared(name)}
    assert not {name.partition(".")[0] for name in loaded} & NEEDED_BY_BUILDER
