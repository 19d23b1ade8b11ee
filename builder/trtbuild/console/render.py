"""How a failed command looks: what happened, the last lines of what failed, what to type next, and its exit code.

Imported when something went wrong.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path

from trtbuild import redact
from trtbuild.console import log
from trtbuild.console.streams import is_plain
from trtbuild.errors import HostError, SpecError, TrtBuildError

RED, CYAN = 31, 36


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
        _write(f"  | {line}")
    _paint("error:", RED, error.message)
    if error.hint:
        _paint("hint:", CYAN, error.hint)
    return error.exit_code


def render_unexpected(error: Exception, program: str) -> int:
    """Write an error that no stage expected: a refusal by the system, else a bug with its traceback."""
    known = refusal_by_system(error)
    if known is not None:
        return render(known)
    _write("".join(traceback.format_exception(error)).rstrip("\n"))
    _paint("error:", RED, f"a bug in {program}: {type(error).__name__}: {error}")
    _paint("hint:", CYAN, "please report it with the lines above and the output of: trtbuild doctor")
    return 1


def render_signal(how: str, code: int) -> int:
    """Write that a signal ended the command; return the exit code."""
    sink = log.get()
    if sink.log_format == "json":
        sink.error(how, how, exit_code=code)
    else:
        _write(how)
    return code


def refusal_by_system(error: Exception) -> TrtBuildError | None:
    """Return our error for what the system refused, which is no bug: no home, a full output, a forbidden file."""
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


def _paint(label: str, colour: int, text: str) -> None:
    """Write a labelled line; ``colour`` is an ANSI code, for terminals whose user wants colours."""
    is_coloured = sys.stderr.isatty() and not is_plain()
    _write(f"\x1b[{colour};1m{label}\x1b[0m {text}" if is_coloured else f"{label} {text}")


def _write(line: str) -> None:
    """Write text without secrets to standard error; where that is full or gone, the exit code is all there is."""
    with contextlib.suppress(OSError):
        print(redact.text(line), file=sys.stderr)  # noqa: T201
