"""The command tree: exit codes, what goes where, and no import that --help does not need."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trtbuild.cli import run
from trtbuild.cli.app import COMMANDS, app
from trtbuild.cli.config import default_hf_cache, default_store
from trtbuild.cli.plan import VALUES_OPTIONS
from trtbuild.errors import BuildError, SpecError
from trtbuild.spec import OPTIONS, OPTIONS_BY_NAME


def test_every_command_is_importable_and_has_help() -> None:
    import click

    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        assert command.help, name


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["build"], 2, "no model was named", id="no-model"),
        pytest.param(
            ["build", "no/such\nid"], 2, "no catalog alias, no directory and no Hugging Face id", id="hostile-id"
        ),
        pytest.param(["llama-3-8bb"], 2, "did you mean llama-3-8b", id="alias-typo"),
        pytest.param(["llama-3-8b", "--tpp", "2"], 2, "No such option", id="unknown-flag"),
        pytest.param(["llama-3-8b", "--tp", "zwei"], 2, "--tp-size: expected a whole number", id="bad-value"),
        pytest.param(["build", "m", "--dtype", "bfloat"], 2, "did you mean 'bfloat16'", id="bad-choice"),
        pytest.param(["store", "rm", "abcd", "--store", "/nonexistent/x"], 7, "'abcd' names no entry", id="no-entry"),
        pytest.param(["~nobody-here/model"], 2, "'~' cannot be resolved", id="no-such-home"),
        pytest.param(["build", "--config", "/"], 2, "is a directory", id="config-directory"),
        pytest.param(["demo", "--max-tokens", "0"], 2, "--max-tokens", id="no-tokens"),
        pytest.param(["serve", "m", "--timeout", "-1"], 2, "--timeout", id="negative-time"),
        pytest.param(["serve", "m", "--http-port", "70000"], 2, "--http-port: expected at most 65535", id="no-port"),
        pytest.param(["health", "ready", "--http-port", "9", "--timeout", "1"], 9, "is not ready", id="no-server"),
    ],
)
def test_errors_go_to_stderr_with_a_hint_and_their_code(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "hint:" in err


def test_an_error_in_a_pod_is_one_json_line_and_last(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text("model: llama-3-8b\ntp_size: 0\n")
    assert run(["init", "--config", str(tmp_path / "engine.yaml")]) == 2
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["level"], last["stage"], last["exit_code"]) == ("error", "spec", 2)
    assert "engine.yaml line 2: expected at least 1, got 0" in last["msg"]
    assert last["hint"]


@pytest.mark.parametrize(
    "arguments", [["init", "--tp"], ["init", "x", "--nope"], ["build", "--nope", "--log-format", "json"]], ids=" ".join
)
def test_a_wrong_command_line_in_a_pod_is_one_json_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exit_code"] == 2


def test_the_last_line_in_a_pod_is_short_whatever_the_failed_command_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes keeps 2048 bytes of a failed container's log."""

    def fail(*_: object) -> None:
        raise BuildError("the compiler failed", hint="look", log_tail=tuple(["x" * 500] * 40))

    monkeypatch.setattr("trtbuild.cli.init.read_spec", fail)
    assert run(["init", "m"]) == 6
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["log_tail"] * 40 + ["failed"]
    assert len(lines[-1]) < 500


def test_no_words_show_the_help_and_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) in {0, 2}
    shown = "".join(capsys.readouterr())
    assert "Commands:" in shown
    assert "error" not in shown.split("Exit codes")[0]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_fits_a_narrow_terminal_and_a_wide_one(command: str) -> None:
    import click

    found = app.get_command(click.Context(app), command)
    assert found is not None
    for width in (80, 110):
        text = found.get_help(click.Context(found, info_name=command, terminal_width=width))
        prose = [line for line in text.splitlines() if not line.startswith("  -")]  # long choices stand alone
        assert len(prose) > 3
        assert max(len(line) for line in prose) <= width


@pytest.mark.parametrize(
    ("command", "shown", "left_out"),
    [
        pytest.param("health", ["--host", "--http-port", "[MODEL]"], ["--tp", "--store"], id="health"),
        pytest.param("drain", ["--host", "--metrics-port"], ["--tp", "--http-port", "MODEL"], id="drain"),
        pytest.param("init", ["--tp", "--repository", "--min-free"], ["--http-port"], id="init"),
        pytest.param("build", ["--tp", "--repository", "--min-free"], ["--http-port"], id="build"),
        pytest.param("explain", ["--tp", "--store", "--shared-tier"], ["--layout", "--min-free"], id="explain"),
        pytest.param("plan", ["--tp", "--hf-cache", "--layout"], ["--repository", "--min-free"], id="plan"),
        pytest.param("serve", ["--tp", "--repository", "--min-free", "--http-port"], [], id="serve"),
    ],
)
def test_help_shows_what_matters_and_every_option_is_taken(command: str, shown: list[str], left_out: list[str]) -> None:
    import click

    found = app.get_command(click.Context(app), command)
    assert found is not None
    text = found.get_help(click.Context(found, info_name=command, terminal_width=80))
    words = set(text.replace(",", " ").replace("/", " ").split())
    assert set(shown) <= words
    assert not set(left_out) & words
    flags = {flag for parameter in found.params for flag in parameter.opts}
    assert {option.flag for option in OPTIONS if option.name != "model"} <= flags


@pytest.mark.parametrize("name", VALUES_OPTIONS)
def test_a_repository_option_that_plan_shows_is_in_its_values(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = OPTIONS_BY_NAME[name]
    value = next((choice for choice in option.choices if choice != option.default), None)
    value = value or {"int": "7", "float": "0.5", "pairs": "a=b", "str": "x", "bool": ""}[option.kind]
    word = f"{option.flag}={value}" if value else f"--no-{option.flag[2:]}"
    asked = ["plan", "gpt2", "--gpu", "h100", "--values"]
    assert run(asked) == 0
    plain = capsys.readouterr().out
    assert run([*asked, word]) == 0
    assert capsys.readouterr().out != plain


STREAMS = [
    pytest.param("1>/dev/full", 1, "the result cannot be written to standard output", id="full-output"),
    pytest.param("1>&-", 0, "", id="closed-output"),
    pytest.param("2>&-", 0, "gpt2", id="closed-errors"),
    pytest.param("2>/dev/full", 0, "gpt2", id="full-errors"),
    pytest.param("| true", 0, "", id="reader-gone"),
]


@pytest.mark.parametrize(("redirection", "code", "text"), STREAMS)
def test_odd_streams(redirection: str, code: int, text: str) -> None:
    shell = f"set -o pipefail; {sys.executable} -m trtbuild models gpt2 {redirection}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_outside_the_terminals_alphabet_are_no_crash(encoding: str, tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"Mod\xc3\xa8le \xe2\x9c\x93 \xff")
    model.mkdir()
    for log_format in ("text", "json", "human"):
        done = subprocess.run(
            [sys.executable, "-m", "trtbuild", "build", model, "--log-format", log_format, "--store", tmp_path],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert b"holds no config.json" in done.stderr
        assert b"Traceback" not in done.stderr
        if log_format == "json":
            assert "Mod\u00e8le" in json.loads(done.stderr)["msg"]


def test_an_unknown_user_without_a_home_is_told_what_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for default, flag in ((default_store, "--store"), (default_hf_cache, "--hf-cache")):
        with pytest.raises(SpecError, match=f"no default for {flag}: HOME is not set"):
            default({})


def test_a_bug_is_exit_code_1_with_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtbuild.catalog.models", lambda: 1 / 0)
    assert run(["models"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "please report it" in err


def test_the_catalog_is_listed_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "llama-3-8b"]) == 0
    out = capsys.readouterr().out
    assert "meta-llama/Meta-Llama-3-8B" in out
    assert run(["models", "gpt2", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["layers"] == 12


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", staticmethod(lambda: None))
    assert run(["completion", shell]) == 0
    assert "_TRTBUILD_COMPLETE" in capsys.readouterr().out


def test_completion_knows_models_and_choices() -> None:
    import click

    from trtbuild.cli.build import build

    context = click.Context(build)
    by_name = {p.name: p for p in build.params}
    models = [item.value for item in by_name["model"].shell_complete(context, "llama-3.2")]
    assert "llama-3.2-1b" in models
    assert [i.value for i in by_name["dtype"].shell_complete(context, "bf")] == ["bfloat16"]


def test_help_imports_only_what_it_shows() -> None:
    code = (
        "import sys\nfrom trtbuild.cli import run\nassert run(['--help']) == 0\n"
        "heavy = {'yaml', 'rich', 'jinja2', 'huggingface_hub', 'numpy', 'openvino', 'tritonclient', 'google'}\n"
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "trtbuild MODEL [OPTIONS]" in done.stdout


def test_a_model_named_like_a_command_is_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan").mkdir()
    monkeypatch.chdir(tmp_path)
    for arguments in (["build", "plan"], ["./plan"], ["build", "./plan"]):
        assert run([*arguments, "--store", str(tmp_path / "store")]) == 2
        assert "holds no config.json" in capsys.readouterr().err


def test_the_table_of_products_leaves_out_what_cannot_serve_and_names_a_command_that_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["plan", "llama-3-70b", "--gpu", "all"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("GPU   ") :].split("\n\n")[0].splitlines()
    assert len(table) > 5
    assert not [row for row in table[1:] if "Tesla-T4" in row]
    assert "not on: " in out
    assert "Tesla-T4" in out.split("not on: ")[1]
    words = shlex.split(out.split("one product in detail:\n")[1].splitlines()[0])
    assert run(words[1:]) == 0
    assert "NVIDIA-" in capsys.readouterr().out
