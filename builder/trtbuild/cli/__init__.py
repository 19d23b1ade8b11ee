"""The command line: the only place that reads the environment and arguments, renders errors and chooses exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from trtbuild.errors import TrtBuildError


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtbuild`` and exit with a documented code (see ``errors.EXIT_CODE_MEANINGS``)."""
    _mend_streams()
    signal.signal(signal.SIGTERM, _terminate)
    code = run(list(sys.argv[1:] if argv is None else argv))
    try:
        sys.stdout.flush()
    except OSError:  # told by _told; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is rendered here, once."""
    import click

    from trtbuild.cli.app import app
    from trtbuild.errors import SpecError, TrtBuildError

    _configure_early(arguments)
    try:
        result = app.main(args=arguments, prog_name="trtbuild", standalone_mode=False, obj=tuple(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer; the message is the whole help
            click.echo(error.format_message(), err=True)
            return 2
        context = getattr(error, "ctx", None)
        _render(SpecError(error.format_message(), hint=f"{context.command_path if context else 'trtbuild'} --help"))
        return 2
    except TrtBuildError as error:
        _render(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say_end("interrupted", 130)
        return 130
    except _Terminated:
        _say_end("terminated", 143)
        return 143
    except (BrokenPipeError, SystemExit):  # click's word for it: the reader of our standard output went away
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: anything else is a bug and says so
        known = _told(error)
        if known is not None:
            _render(known)
            return known.exit_code
        _render_bug(error)
        return 1
    return result if isinstance(result, int) else 0


class _Terminated(SystemExit):
    """SIGTERM came; leaves through every ``finally``, so that children are ended and staging is swept."""


def _terminate(signum: int, frame: object) -> None:
    """Leave, once: a second SIGTERM must not cut the clean-up short (SIGKILL is there for that)."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated(128 + signum)


def _mend_streams() -> None:
    """Let odd standard streams cost looks, never a run: closed ones are /dev/null, what cannot be shown is escaped.

    Names of files that are no UTF-8 text leave as the bytes they came as.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us; its number must not become that of a file of ours
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_WRONLY)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif name == "stdout":
            is_utf8 = stream.encoding.lower() in {"utf-8", "utf8"}
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def _configure_early(arguments: list[str]) -> None:
    """Make the sink before the options are known to be right, so that a wrong one is reported in the right format."""
    from trtbuild.cli.options import configure_log

    asked = os.environ.get("TRTBUILD_LOG_FORMAT", "auto")
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if word.partition("=")[0] == "--log-format":
            asked = word.partition("=")[2] or following
    if asked == "auto" and arguments[:1] == ["init"]:
        asked = "json"
    configure_log(asked if asked in {"human", "text", "json"} else "auto", "info")


def _told(error: Exception) -> TrtBuildError | None:
    """Return what is no bug of ours although Python says so: no home directory, a standard output that is full."""
    import traceback
    from pathlib import Path

    from trtbuild.errors import SpecError, TrtBuildError

    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return SpecError(
            f"'~' cannot be resolved: no home directory is known (HOME={os.environ.get('HOME', '')!r}, "
            f"user id {os.geteuid()})",
            hint="set HOME, or write the path without '~' and name the caches: --store, HF_HOME",
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in {errno.ENOSPC, errno.EIO, errno.EBADF}:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if where == __file__ or Path(where).parent.name == "click":
            return TrtBuildError(
                f"the result cannot be written to standard output: {error.strerror}", hint="write it elsewhere"
            )
    return None


def _render(error: TrtBuildError) -> None:
    from trtbuild import log

    sink = log.get()
    if sink.log_format == "json":
        with sink.stage(error.stage):
            for line in error.log_tail:  # lines of their own: the last one is short enough for a pod's last words
                sink.error("log_tail", line)
            sink.error("failed", error.message, exit_code=error.exit_code, hint=error.hint)
        return
    for line in error.log_tail:
        print(f"  | {line}", file=sys.stderr)  # noqa: T201
    _paint("error:", "red", error.message)
    if error.hint:
        _paint("hint:", "cyan", error.hint)


def _say_end(how: str, code: int) -> None:
    from trtbuild import log

    sink = log.get()
    if sink.log_format == "json":
        sink.error(how, how, exit_code=code)
    else:
        print(how, file=sys.stderr)  # noqa: T201


def _render_bug(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)
    _paint("error:", "red", f"a bug in trtbuild: {type(error).__name__}: {error}")
    _paint("hint:", "cyan", "please report it with the lines above and the output of: trtbuild doctor")


def _paint(label: str, colour: str, text: str) -> None:
    import click

    click.echo(f"{click.style(label, fg=colour, bold=True)} {text}", err=True)
