"""How a failed command looks: what happened, the last lines of what failed, what to type next, and its exit code.

Imported when something went wrong, and by ``trtclient`` too.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from trtbuild import log
from trtbuild.console.streams import is_plain
from trtbuild.errors import HostError, SpecError, TrtBuildError


def render(error: TrtBuildError) -> int:
    """Write an error where the log goes; return its exit code."""
    sink = log.get()
    if sink.log_format == "json":
        with sink.stage(error.stage):
            for line in error.log_tail:  # lines of their own: the last one is short enough for a pod's last words
                sink.error("log_tail", line)
            sink.error("failed", error.message, exit_code=error.exit_code, hint=error.hint)
        return error.exit_code
    for line in error.log_tail:
        print(f"  | {line}", file=sys.stderr)  # noqa: T201
    _paint("error:", "red", error.message)
    if error.hint:
        _paint("hint:", "cyan", error.hint)
    return error.exit_code


def render_usage(error: click.ClickException, program: str, near: str | None = None) -> int:
    """Write click's complaint about a command line, and ``near``, a command that it may have meant."""
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer; the message is the whole help
        click.echo(error.format_message(), err=True)
        return 2
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else program} --help"
    return render(SpecError(error.format_message(), hint=f"did you mean {program} {near}? {hint}" if near else hint))


def render_unexpected(error: Exception, program: str) -> int:
    """Write an error that is none of ours: what the machine did to us, else a bug with its traceback."""
    known = told(error)
    if known is not None:
        return render(known)
    traceback.print_exception(error)
    _paint("error:", "red", f"a bug in {program}: {type(error).__name__}: {error}")
    _paint("hint:", "cyan", "please report it with the lines above and the output of: trtbuild doctor")
    return 1


def say_end(how: str, code: int) -> int:
    """Write that a signal ended the command; return the exit code."""
    sink = log.get()
    if sink.log_format == "json":
        sink.error(how, how, exit_code=code)
    else:
        print(how, file=sys.stderr)  # noqa: T201
    return code


def told(error: Exception) -> TrtBuildError | None:
    """Return what is no bug of ours although Python says so: no home, a full standard output, a forbidden file."""
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return SpecError(
            f"'~' cannot be resolved: no home directory is known (HOME={os.environ.get('HOME', '')!r}, "
            f"user id {os.geteuid()})",
            hint="set HOME, or write the path without '~' and name the caches: --store, HF_HOME",
        )
    if isinstance(error, PermissionError) and error.filename is not None:
        return HostError(
            f"permission denied: {os.fsdecode(error.filename)} (this process is uid {os.geteuid()} gid {os.getegid()})",
            hint="let this user read it (chmod, chown, a pod's fsGroup), or run as its owner",
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in {errno.ENOSPC, errno.EIO, errno.EBADF}:
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if where.parent.name in {"click", "cli", "console"}:
            return TrtBuildError(
                f"the result cannot be written to standard output: {error.strerror}", hint="write it elsewhere"
            )
    return None


def near_command(arguments: Sequence[str], commands: Sequence[str], known: Collection[str] = ()) -> str | None:
    """Return the command or option of the program itself that the first word is a misspelling of.

    ``known`` are words beside the commands that may stand first: they are no misspelling.
    """
    import difflib

    first = arguments[0].partition("=")[0] if arguments else ""
    if first in {*commands, *known}:
        return None
    return next(iter(difflib.get_close_matches(first, [*commands, "--help", "--version"], n=1, cutoff=0.7)), None)


def _paint(label: str, colour: str, text: str) -> None:
    click.echo(f"{click.style(label, fg=colour, bold=True)} {text}", err=True, color=False if is_plain() else None)
