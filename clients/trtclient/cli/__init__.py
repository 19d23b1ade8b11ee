"""The command line: the only place that reads arguments and the environment, renders errors and chooses exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtclient`` and exit: 0, a code of ``trtbuild.errors``, or 10 for a run with an unwanted result."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is rendered here, once."""
    import click

    from trtbuild.errors import TrtBuildError
    from trtclient.cli.app import app

    try:
        result = app.main(args=arguments, prog_name="trtclient", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _render(error.format_message(), f"{context.command_path if context else 'trtclient'} --help")
        return 2
    except TrtBuildError as error:
        _render(error.message, error.hint)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # the reader of our standard output went away: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: anything else is a bug and says so
        import traceback

        traceback.print_exception(error)
        _render(f"a bug in trtclient: {type(error).__name__}: {error}", "please report it with the lines above")
        return 1
    return result if isinstance(result, int) else 0


def _render(message: str, hint: str) -> None:
    import click

    from trtbuild import log

    sink = log.get()
    if sink.log_format == "json":
        sink.error("failed", message, hint=hint)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='cyan', bold=True)} {hint}", err=True)


def _terminate(signum: int, frame: object) -> None:
    """Leave through every ``finally`` on SIGTERM."""
    raise SystemExit(128 + signum)
