"""What is shown of the log of a server that did not start, and the command that runs in the background."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trtbuild.errors import LaunchError
from trtbuild.process import Command
from trtbuild.serve.background import explain_failed_start, log_excerpt, new_log, serve_command, start_and_wait
from trtbuild.serve.ports import Ports


def test_the_end_of_a_servers_log_is_not_its_usage() -> None:
    usage = "Usage: tritonserver [options]\n  --help\n\tPrint usage\n\nServer:\n" + "  --id <string>\n\tText.\n" * 50
    log = f"tritonserver: unrecognized option '--bogus'\n{usage}\nOne address twice\n  and where\n\n"
    assert log_excerpt(log) == ("tritonserver: unrecognized option '--bogus'", "One address twice", "  and where")


def test_errors_further_up_are_shown_before_the_last_lines() -> None:
    log = "E1128 10:00:00 1 model.cc:9] cannot load\n" + "".join(f"I1128 line {number}\n" for number in range(40))
    shown = log_excerpt(log, count=3)
    assert shown == (
        "E1128 10:00:00 1 model.cc:9] cannot load",
        "...",
        "I1128 line 37",
        "I1128 line 38",
        "I1128 line 39",
    )


def test_the_background_process_is_the_same_command_with_its_ports() -> None:
    command = serve_command(["serve", "m", "--wait", "--http-port", "0"], Ports(http=1, grpc=2, metrics=3, openai=4))
    assert command.argv[:3] == (sys.executable, "-m", "trtbuild")
    chosen = "--http-port 1 --grpc-port 2 --metrics-port 3 --openai-port 4"
    assert " ".join(command.argv[3:]) == f"serve m --http-port 0 {chosen}"


def test_the_background_process_has_no_openai_port_where_none_was_asked_for() -> None:
    command = serve_command(["serve", "m"], Ports(http=1, grpc=2, metrics=3, openai=None))
    assert command.argv[-2:] == ("--openai-port", "0")


def test_a_server_that_ends_is_explained_with_its_log(tmp_path: Path) -> None:
    path = new_log(tmp_path, "serve-1")
    with pytest.raises(LaunchError, match="the server ended") as caught:
        start_and_wait(Command(argv=("sh", "-c", "echo error: no luck >&2; exit 3")), path, "http://127.0.0.1:9", 30.0)
    assert caught.value.log_tail == ("error: no luck",)
    assert str(path) in caught.value.hint


def test_a_known_cause_is_named(tmp_path: Path) -> None:
    path = new_log(tmp_path, "serve-1")
    path.write_text("terminate called\n")
    unknown = explain_failed_start("it ended", 1, path)
    assert unknown.message == "it ended"
    killed = explain_failed_start("it ended", 137, path)
    assert killed.message == "it ended: out of host memory"
    assert str(path) in killed.hint


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(LaunchError, match="cannot write the server's log"):
        new_log(tmp_path / "logs", "serve-1")


def test_only_its_owner_can_read_what_a_server_writes(tmp_path: Path) -> None:
    (tmp_path / "serve-1.log").write_text("of an earlier process")
    path = new_log(tmp_path, "serve-1")
    assert path.read_text() == ""
    command = Command(argv=("sh", "-c", "echo s3://key:secret@bucket; exit 3"))
    with pytest.raises(LaunchError, match="the server ended"):
        start_and_wait(command, path, "http://127.0.0.1:9", 30.0)
    assert path.read_text() == "s3://key:secret@bucket\n"
    assert path.stat().st_mode & 0o777 == 0o600
