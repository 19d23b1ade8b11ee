"""The command tree: exit codes, what goes where, and no import that --help does not need."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.odd_models.shapes import write_shape
from tests.data.odd_tokenizers.variants import tokenizer_json
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
        pytest.param(["~no-such-user/model"], 2, "'~' cannot be resolved", id="no-such-home"),
        pytest.param(["build", "--config", "/"], 2, "is a directory", id="config-directory"),
        pytest.param(["demo", "--max-tokens", "0"], 2, "--max-tokens", id="no-tokens"),
        pytest.param(["serve", "m", "--timeout", "-1"], 2, "--timeout", id="negative-time"),
        pytest.param(["serve", "m", "--http-port", "70000"], 2, "--http-port: expected at most 65535", id="no-port"),
        pytest.param(["health", "ready", "--http-port", "9", "--timeout", "1"], 9, "is not ready", id="no-server"),
        pytest.param(["server", "m"], 2, "did you mean trtbuild serve?", id="command-typo"),
        pytest.param(["server"], 2, "did you mean trtbuild serve?", id="command-typo-alone"),
        pytest.param(["--verison"], 2, "did you mean trtbuild --version?", id="version-typo"),
        pytest.param(
            ["serve", "m", "--http-port", "9000", "--grpc-port", "9000"],
            2,
            "--grpc-port: 9000 is --http-port, too",
            id="one-port-twice",
        ),
        pytest.param(
            ["doctor", "autoscaling", "--prometheus", "localhost:9090"], 2, "expected http://", id="no-scheme"
        ),
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


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_narrow_terminal_and_a_wide_one(command: str) -> None:
    import click

    found = app.get_command(click.Context(app), command) if command else app
    assert found is not None
    for width in (80, 110):
        text = found.get_help(click.Context(found, info_name=command or "trtbuild", terminal_width=width))
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
    value = value or {"int": "7", "float": "0.5", "pairs": "decoding_mode=top_k", "str": "x", "bool": ""}[option.kind]
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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--verify"], "requires an argument", id="option-of-build"),
        pytest.param(["build"], "no model was named", id="command"),
        pytest.param(["plant-7b"], "no catalog alias", id="a-model"),
    ],
)
def test_a_first_word_that_is_right_or_far_off_is_not_corrected(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert text in err
    assert "did you mean trtbuild" not in err


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        pytest.param({}, True, id="plain-terminal"),
        pytest.param({"NO_COLOR": ""}, True, id="empty-no-color"),
        pytest.param({"NO_COLOR": "1"}, False, id="no-color"),
        pytest.param({"TERM": "dumb"}, False, id="dumb"),
    ],
)
def test_colours_only_where_they_are_wanted(
    environment: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    if "NO_COLOR" not in environment:
        monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(["llama-3-8bb", "--log-format", "text"]) == 2
    assert ("\x1b[" in capsys.readouterr().err) == is_coloured


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        pytest.param(PermissionError(13, "Permission denied", "/m/config.json"), 3, "/m/config.json", id="forbidden"),
        pytest.param(PermissionError(13, "Permission denied"), 1, "a bug in trtbuild", id="forbidden-and-no-file"),
        pytest.param(RuntimeError("Could not determine home directory."), 2, "set HOME", id="no-home"),
        pytest.param(RuntimeError("else"), 1, "a bug in trtbuild", id="anything-else"),
    ],
)
def test_what_the_machine_refuses_is_no_bug(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("trtbuild.cli.build.read_spec", fail)
    assert run(["build", "m"]) == code
    err = capsys.readouterr().err
    assert text in err
    assert ("Traceback" in err) == (code == 1)


@pytest.mark.parametrize(
    ("path", "is_writable", "text"),
    [
        pytest.param(".", True, "free", id="there"),
        pytest.param("new/deeper", True, "not there yet, ", id="to-be-made"),
        pytest.param("file/below", False, "is no directory", id="below-a-file"),
        pytest.param("/proc/self/new", False, "cannot be written", id="proc"),
    ],
)
def test_doctor_says_whether_a_directory_can_be_written(
    path: str, is_writable: bool, text: str, tmp_path: Path
) -> None:
    from trtbuild.cli.doctor import directory_check

    (tmp_path / "file").write_text("")
    assert (directory_check(tmp_path / path)[0], text in directory_check(tmp_path / path)[1]) == (is_writable, True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "looking makes nothing"


def test_doctor_looks_at_the_store_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--store", str(tmp_path / "store"), "--format", "json"])
    found = json.loads(capsys.readouterr().out)["directories"]["store"]
    assert (found["path"], found["writable"]) == (str(tmp_path / "store"), True)


def test_an_empty_store_says_so_and_a_missing_one_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "ls", "--store", str(tmp_path)]) == 0
    assert f"no engines in {tmp_path}\n" in capsys.readouterr().err
    assert run(["store", "ls", "--store", str(tmp_path / "typo")]) == 0
    assert "which is no directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on_path", "called", "expected"),
    [
        pytest.param(True, "/x/bin/trtbuild", "trtbuild", id="on-path"),
        pytest.param(False, "/x/bin/trtbuild", "/x/bin/trtbuild", id="elsewhere"),
        pytest.param(False, "CWD/.venv/bin/trtbuild", ".venv/bin/trtbuild", id="below-here"),
        pytest.param(False, "/x/trtbuild/__main__.py", "trtbuild", id="module"),
    ],
)
def test_the_demo_names_a_command_that_can_be_typed(
    on_path: bool, called: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trtbuild.cli.demo import own_name

    monkeypatch.setattr("shutil.which", lambda _: "/bin/trtbuild" if on_path else None)
    monkeypatch.setattr(sys, "argv", [called.replace("CWD", str(Path.cwd()))])
    assert own_name() == expected


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


CPU = ["--backend", "cpu"]


@pytest.mark.parametrize(
    ("words", "said", "instead"),
    [
        (["--here", "--gpu", "h100"], "leave out --gpu", ["--here", *CPU]),
        (["--here", "--trtllm-version", "1.2.1"], "leave out --trtllm-version", ["--here", *CPU]),
        ([*CPU, "--trtllm-version", "1.2.1"], "is for --gpu SKU", CPU),
        ([*CPU, "--gpu", "h100"], "leave out --gpu", CPU),
        (["--backend", "llmapi", "--gpu", "all"], "pass --gpu SKU", ["--backend", "llmapi", "--gpu", "h100"]),
        (["--values"], "needs --gpu SKU", ["--values", "--gpu", "h100"]),
        (["--gpu", "h100", "--orchestrator", "--backend", "llmapi"], "leave --orchestrator out", ["--gpu", "h100"]),
        (["--gpu", "all", "--kv-cache-tokens", "4096"], "leave --kv-cache-tokens out", ["--gpu", "all"]),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else None,
)
def test_plan_refuses_what_it_would_not_read_and_says_what_it_would(
    words: list[str], said: str, instead: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["plan", "qwen3-8b", "--store", str(tmp_path / "store")]
    assert run([*model, *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    if "cpu" in instead:  # without a network: a model in a directory
        write_shape("two shards", tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
        model[1] = str(tmp_path / "model")
    assert run([*model, *instead]) == 0


@pytest.mark.parametrize(
    "words", [[], ["--gpu", "h100"], ["--gpu", "h100", "--values"], ["--gpu", "h100", "--format", "json"]]
)
@pytest.mark.parametrize(("version", "is_unsafe"), [("0.18.2", True), ("0.20.0", False), ("1.2.1", False)])
def test_plan_warns_of_an_image_whose_server_has_known_holes(
    words: list[str], version: str, is_unsafe: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "gpt2", "--trtllm-version", version, *words]) == 0
    said = capsys.readouterr()
    text = "25.04-trtllm-python-py3 has known vulnerabilities"
    assert (text in said.err) == is_unsafe
    assert (
        "the first image without them is nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3" in said.err
    ) == is_unsafe
    if "--values" in words or "json" in words:
        assert (text in said.out) == is_unsafe
