"""The shape of the client's source, its start-up and its documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

from trtclient.cli import run
from trtclient.cli.app import COMMANDS, app

PACKAGE = Path(__file__).resolve().parents[3] / "clients" / "trtclient"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]
HEAVY = (
    "asyncio",
    "numpy",
    "tritonclient",
    "grpc",
    "rich",
    "ssl",
    "trtclient.load",
    "trtclient.batch",
    "trtclient.chat",
)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_functions_are_short_and_only_the_command_line_exits(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0].lineno if node.body else node.lineno
            assert (node.end_lineno or 0) - first < 60, f"{node.name} is too long"
    if path.parent.name != "cli":
        words = ast.dump(tree)
        assert "attr='exit'" not in words
        assert "environ" not in words
        assert "id='Exception', ctx=Load()), name" not in words, "except Exception"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in {"load", "batch"}], ids=lambda p: str(p.name))
def test_what_is_pure_imports_nothing_that_waits(path: Path) -> None:
    if path.name in {"schedule.py", "workload.py", "record.py", "svg.py", "scoring.py", "report.py", "items.py"}:
        text = path.read_text(encoding="utf-8")
        assert not {"asyncio", "time", "socket"} & {
            alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
        }


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["load", "--help"], ["batch", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from trtclient.cli import run; code = run(sys.argv[1:]);"
        "print(*sys.modules, sep='\\n', file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout
    loaded = set(done.stderr.split())
    allowed = {"trtclient.batch", "trtclient.batch.scoring"} if arguments[0] == "batch" else set()
    assert not {name for name in HEAVY if name in loaded} - allowed


def test_every_command_and_option_is_in_the_manual(project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = (project_root / "docs" / "clients.md").read_text(encoding="utf-8")
    context = click.Context(app)
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        assert f"## `trtclient {name}" in manual
        flags = {flag for option in command.params if isinstance(option, click.Option) for flag in option.opts}
        assert not {flag for flag in flags if f"`{flag}" not in manual}
        assert run([name, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["load", "http://h", "m"], "one of --rate, --trace and --concurrency", id="no-plan"),
        pytest.param(["load", "http://h", "m", "--rate", "1", "--concurrency", "2"], "expected one of", id="two-plans"),
        pytest.param(["load", "http://h", "m", "--concurrency", "2"], "needs an end", id="endless"),
        pytest.param(["load", "http://h", "m", "--rate", "1", "--slo", "x=1s"], "a goal like ttft", id="goal"),
        pytest.param(["load", "ftp://h", "m", "--rate", "1"], "http://", id="url"),
        pytest.param(["batch", "/nonexistent", "-o", "x"], "nonexistent", id="no-input"),
        pytest.param(["dance"], "dance", id="no-command"),
    ],
)
def test_wrong_requests_are_refused_with_a_hint(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert "hint:" in said.err
