"""The frame of both programs: every way to end has its exit code and its look, the same in both."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from trtbuild.console.frame import Program, _asks_for_help, asked_log_format
from trtbuild.errors import LaunchError, SpecError

NAMES = ("trtbuild", "trtclient")
both = pytest.mark.parametrize("name", NAMES)


def _program(name: str) -> tuple[Program, Callable[[list[str]], int]]:
    module = importlib.import_module(f"{name}.cli")
    return module.PROGRAM, module.run


def _failing(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException | None, result: object = None) -> None:
    """Make ``NAME work`` a command that raises ``error`` or returns ``result``."""
    app = importlib.import_module(f"{name}.cli.app").app

    @click.command()
    @click.option("--log-format")
    def work(log_format: str | None) -> object:
        if error is not None:
            raise error
        return result

    monkeypatch.setitem(app.table, "work", ("console_test_commands:work", "Fail."))
    module: Any = type(sys)("console_test_commands")
    module.work = work
    monkeypatch.setitem(sys.modules, "console_test_commands", module)


@both
@pytest.mark.parametrize(
    ("make_error", "code", "lines"),
    [
        pytest.param(lambda: LaunchError("broken", hint="mend it"), 9, ["error: broken", "hint: mend it"], id="ours"),
        pytest.param(
            lambda: LaunchError("broken", log_tail=("1", "2")), 9, ["  | 1", "  | 2", "error: broken"], id="tail"
        ),
        pytest.param(lambda: SpecError("odd", hint="think"), 2, ["error: odd", "hint: think"], id="spec"),
        pytest.param(lambda: click.UsageError("odd"), 2, ["error: odd", "hint: NAME work --help"], id="usage"),
        pytest.param(KeyboardInterrupt, 130, ["", "interrupted"], id="interrupt"),
        pytest.param(click.Abort, 130, ["interrupted"], id="abort"),
        pytest.param(BrokenPipeError, 0, [], id="reader-gone"),
        pytest.param(lambda: click.exceptions.Exit(7), 7, [], id="exit"),
        pytest.param(
            lambda: PermissionError(13, "Permission denied", "/m/c.json"),
            3,
            ["error: permission denied: /m/c.json (this process is uid UID gid GID)",
             "hint: let this user read it (chmod, chown, a pod's fsGroup), or run as its owner"],
            id="forbidden",
        ),
    ],
)  # fmt: skip
def test_every_ending_has_its_code_and_its_lines(
    name: str,
    make_error: Callable[[], BaseException],
    code: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _failing(monkeypatch, name, make_error())
    _, run = _program(name)
    assert run(["work", "--log-format", "text"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    seen = err.replace(f"uid {os.geteuid()} gid {os.getegid()}", "uid UID gid GID").replace(name, "NAME")
    assert seen.splitlines() == lines


@both
def test_a_bug_shows_its_traceback_and_names_the_program(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _failing(monkeypatch, name, ZeroDivisionError("of ours"))
    _, run = _program(name)
    assert run(["work"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert f"error: a bug in {name}: ZeroDivisionError: of ours" in err
    assert "please report it" in err


@both
@pytest.mark.parametrize(("result", "code"), [(None, 0), (10, 10), ("text", 0)], ids=str)
def test_what_a_command_returns_is_its_exit_code_if_it_is_one(
    name: str, result: object, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, name, None, result)
    _, run = _program(name)
    assert run(["work"]) == code


@both
@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param(["--log-format", "json"], "", id="words"),
        pytest.param(["--log-format=json"], "text", id="one-word-wins"),
        pytest.param([], "json", id="environment"),
        pytest.param(["--help", "--log-format", "json"], "", id="beside-help"),
    ],
)
@pytest.mark.parametrize("command", ["COMMAND", "wrok"])
def test_a_wrong_command_line_is_reported_in_the_format_that_it_asks_for(
    name: str,
    arguments: list[str],
    environment: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"{name.upper()}_LOG_FORMAT", environment)
    _, run = _program(name)
    existing = {"trtbuild": "models", "trtclient": "load"}[name]
    assert run([existing if command == "COMMAND" else command, "--no-such-option", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["event"], record["exit_code"]) == ("error", "failed", 2)
    assert record["hint"]


@both
def test_a_misspelt_command_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, run = _program(name)
    app = importlib.import_module(f"{name}.cli.app").app
    for command in app.table:
        wrong = command[0] + command[2] + command[1] + command[3:]
        if wrong in app.table or wrong == command:
            continue
        assert run([wrong]) == 2
        assert f"did you mean {program.name} {command}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "default", "expected"),
    [
        ([], None, "auto"),
        ([], "json", "json"),
        ([], "loud", "auto"),
        (["--log-format"], "json", "auto"),
        (["x", "--log-format", "text", "y"], "json", "text"),
        (["--log-format=text", "--log-format", "human"], None, "human"),
        (["--log-format=loud"], "json", "auto"),
    ],
)
def test_the_log_format_that_is_asked_for(arguments: list[str], default: str | None, expected: str) -> None:
    assert asked_log_format(arguments, default) == expected


WAITING = """
import sys, time, types, click
from {name}.cli import main
from {name}.cli.app import app
@click.command()
def work():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.5)
        print("clean", flush=True)
module = types.ModuleType("commands")
module.work = work
sys.modules["commands"] = module
app.table["work"] = ("commands:work", "Wait.")
main(["work"])
"""


@both
@pytest.mark.parametrize(
    ("first", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_leaves_through_the_clean_up_which_a_second_sigterm_does_not_cut_short(
    name: str, first: signal.Signals, code: int, word: str
) -> None:
    command = [sys.executable, "-c", WAITING.format(name=name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            child.send_signal(first)
            assert child.stdout.readline() == "cleaning\n"
            if first is signal.SIGTERM:
                child.send_signal(first)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (out, err.lstrip(), child.returncode) == ("clean\n", f"{word}\n", code)


@both
@pytest.mark.parametrize(
    ("redirection", "code", "text"),
    [
        pytest.param("1>/dev/full", 1, "the result cannot be written to standard output", id="full-output"),
        pytest.param("1>&-", 0, "", id="closed-output"),
        pytest.param("2>&-", 0, "Commands:", id="closed-errors"),
        pytest.param("2>/dev/full", 0, "Commands:", id="full-errors"),
        pytest.param("| true", 0, "", id="reader-gone"),
    ],
)
def test_odd_streams(name: str, redirection: str, code: int, text: str) -> None:
    shell = f"set -o pipefail; {sys.executable} -m {name} --help {redirection}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@both
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&1 | true"])
def test_an_error_that_cannot_be_written_keeps_its_exit_code(name: str, redirection: str) -> None:
    shell = f"set -o pipefail; {sys.executable} -m {name} --verison {redirection}"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, check=False).returncode == 2


@both
@pytest.mark.parametrize("module", ["click", "trtbuild.console.streams", "trtbuild.console.lazy"])
def test_an_interrupt_while_python_still_imports_is_one_line(name: str, module: str) -> None:
    code = (
        "import sys\nclass Stop:\n def find_spec(self, name, *_):\n"
        f"  if name == {module!r}: raise KeyboardInterrupt\n"
        f"sys.meta_path.insert(0, Stop())\nfrom {name}.cli import main\nmain(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@both
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_loads_neither_log_nor_redactor_nor_options(name: str, word: str) -> None:
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    code += f"from {name}.cli import main; main([{word!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert done.stdout
    assert f"{name}.cli.app" in loaded
    heavy = {"trtbuild.redact", "trtbuild.console.log", "trtbuild.console.render", "trtbuild.spec", "rich", "yaml"}
    assert not loaded & heavy


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", True),
        ("--help", True),
        ("--version", True),
        ("load -h", True),
        ("-- --help", False),
        ("chat URL m -m --help", False),
        ("-m --help", False),
        ("--help load", False),
        ("models", False),
    ],
)
def test_only_what_runs_nothing_counts_as_help(words: str, expected: bool) -> None:
    assert _asks_for_help(words.split()) is expected


@both
def test_a_wrong_option_beside_help_shows_no_secret(name: str) -> None:
    secret = "hunter2-hunter2"
    command = [sys.executable, "-m", name, f"--{secret}", "--help"]
    done = subprocess.run(
        command, env={**os.environ, "MY_PASSWORD": secret}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert secret not in done.stdout + done.stderr
    assert "No such option" in done.stderr
