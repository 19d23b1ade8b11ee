"""The client's command line: what a wrong word, a wrong path and a closed stream lead to. No server is asked."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from trtbuild.errors import SpecError
from trtclient.cli import run
from trtclient.cli.app import COMMANDS, app
from trtclient.cli.options import refuse_unwritable

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_narrow_terminal_and_a_wide_one(command: str) -> None:
    found = app.get_command(click.Context(app), command) if command else app
    assert found is not None
    for width in (80, 110):
        text = found.get_help(click.Context(found, info_name=command or "trtclient", terminal_width=width))
        prose = [line for line in text.splitlines() if not line.startswith("  -")]  # long choices stand alone
        assert len(prose) > 3
        assert max(len(line) for line in prose) <= width


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["chta", NOWHERE, "m"], 2, "did you mean trtclient chat?", id="command-typo"),
        pytest.param(["chat", NOWHERE], 2, "trtclient chat --help", id="no-model"),
        pytest.param(["load", NOWHERE, "m", "--rate", "x"], 2, "expected a rate", id="bad-rate"),
        pytest.param(["load", NOWHERE, "m", "--rate", "1", "--json", "/proc/x"], 2, "cannot write /proc/x", id="json"),
        pytest.param(["load", NOWHERE, "m", "--rate", "1", "--html", "."], 2, "directory", id="html-directory"),
    ],
)
def test_mistakes_are_told_with_what_to_do(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "hint:" in err


def test_no_words_show_the_help_and_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) in {0, 2}
    shown = "".join(capsys.readouterr())
    assert "Commands:" in shown
    assert "error:" not in shown


def test_a_batch_is_never_written_over_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "x"}\n')
    (tmp_path / "link.jsonl").symlink_to(source)
    for name in ("in.jsonl", "link.jsonl"):
        assert run(["batch", str(source), "-o", str(tmp_path / name), "--url", NOWHERE, "--model", "m"]) == 2
        assert "is input and output" in capsys.readouterr().err
    assert source.read_text() == '{"text": "x"}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "link.jsonl"]


def test_looking_whether_a_result_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    refuse_unwritable(tmp_path / "old.json", tmp_path / "new.json", None)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old.json", "old")]
    with pytest.raises(SpecError, match="cannot write"):
        refuse_unwritable(tmp_path / "old.json" / "below")
