"""The command line: the only place that reads arguments and the environment, renders errors and chooses exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtclient`` and exit: 0, a code of ``trtbuild.errors``, or 10 for a run with an unwanted result."""
    try:
        from trtbuild.console.streams import finish, mend_streams

        mend_streams()
        signal.signal(signal.SIGTERM, _terminate)
        code = finish(run(list(sys.argv[1:] if argv is None else argv)))
    except KeyboardInterrupt:  # before there was anything to end
        print("interrupted", file=sys.stderr)  # noqa: T201
        code = 130
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is rendered here, once."""
    import click

    from trtbuild.console.streams import is_plain
    from trtbuild.errors import TrtBuildError
    from trtclient.cli.app import COMMANDS, app

    color = False if is_plain() else None
    try:
        result = app.main(args=arguments, prog_name="trtclient", standalone_mode=False, color=color)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        from trtbuild.console import render

        return render.render_usage(error, "trtclient", render.near_command(arguments, list(COMMANDS)))
    except TrtBuildError as error:
        from trtbuild.console import render

        return render.render(error)
    except (KeyboardInterrupt, click.Abort):
        from trtbuild.console import render

        return render.say_end("interrupted", 130)
    except _Terminated:
        from trtbuild.console import render

        return render.say_end("terminated", 143)
    except (BrokenPipeError, SystemExit):  # click's word for it: the reader of our standard output went away
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: anything else is a bug and says so
        from trtbuild.console import render

        return render.render_unexpected(error, "trtclient")
    return result if isinstance(result, int) else 0


class _Terminated(SystemExit):
    """SIGTERM came."""


def _terminate(signum: int, frame: object) -> None:
    """Leave through every ``finally`` on SIGTERM."""
    raise _Terminated(128 + signum)
