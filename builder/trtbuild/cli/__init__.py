"""The command line: the only place that reads the environment and arguments, renders errors and chooses exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtbuild`` and exit with a documented code (see ``errors.EXIT_CODE_MEANINGS``)."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is rendered here, once."""
    import click

    from trtbuild.cli.app import app
    from trtbuild.errors import TrtBuildError

    try:
        result = app.main(args=arguments, prog_name="trtbuild", standalone_mode=False, obj=tuple(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _render_usage(error)
        return 2
    except TrtBuildError as error:
        _render(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # the reader of our standard output went away: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: anything else is a bug and says so
        _render_bug(error)
        return 1
    return result if isinstance(result, int) else 0


def _render(error: object) -> None:
    from trtbuild import log
    from trtbuild.errors import TrtBuildError

    assert isinstance(error, TrtBuildError)
    sink = log.get()
    if sink.log_format == "json":
        fields = {"exit_code": error.exit_code, "hint": error.hint, "log_tail": list(error.log_tail)}
        with sink.stage(error.stage):
            sink.error("failed", error.message, **fields)
        return
    for line in error.log_tail:
        print(f"  | {line}", file=sys.stderr)  # noqa: T201
    _paint("error:", "red", error.message)
    if error.hint:
        _paint("hint:", "cyan", error.hint)


def _render_usage(error: object) -> None:
    import click

    assert isinstance(error, click.ClickException)
    context = getattr(error, "ctx", None)
    _paint("error:", "red", error.format_message())
    _paint("hint:", "cyan", f"{context.command_path if context else 'trtbuild'} --help")


def _render_bug(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)
    _paint("error:", "red", f"a bug in trtbuild: {type(error).__name__}: {error}")
    _paint("hint:", "cyan", "please report it with the lines above and the output of: trtbuild doctor")


def _paint(label: str, colour: str, text: str) -> None:
    import click

    click.echo(f"{click.style(label, fg=colour, bold=True)} {text}", err=True)


def _terminate(signum: int, frame: object) -> None:
    """Leave through every ``finally`` on SIGTERM, so that children are ended and staging is swept."""
    raise SystemExit(128 + signum)
