"""The command line: the only place that reads the environment and arguments, renders errors and chooses exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtbuild`` and exit with a documented code (see ``errors.EXIT_CODE_MEANINGS``)."""
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

    from trtbuild.cli.app import COMMANDS, app
    from trtbuild.console.streams import is_plain
    from trtbuild.errors import SpecError, TrtBuildError

    _configure_early(arguments)
    color = False if is_plain() else None
    try:
        result = app.main(
            args=arguments, prog_name="trtbuild", standalone_mode=False, obj=tuple(arguments), color=color
        )
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        from trtbuild.console import render

        return render.render_usage(error, "trtbuild", render.near_command(arguments, list(COMMANDS), option_words()))
    except TrtBuildError as error:
        from trtbuild.console import render

        is_spec = isinstance(error, SpecError)
        near = render.near_command(arguments, list(COMMANDS), option_words()) if is_spec else None
        if near:
            error.hint = f"did you mean trtbuild {near}? Else: {error.hint}"
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

        return render.render_unexpected(error, "trtbuild")
    return result if isinstance(result, int) else 0


def option_words() -> set[str]:
    """Return the options that may stand in front of MODEL, where no command does."""
    from trtbuild.spec import OPTIONS

    return {flag for option in OPTIONS for flag in (option.flag, *option.flags)}


class _Terminated(SystemExit):
    """SIGTERM came; leaves through every ``finally``, so that children are ended and staging is swept."""


def _terminate(signum: int, frame: object) -> None:
    """Leave, once: a second SIGTERM must not cut the clean-up short (SIGKILL is there for that)."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated(128 + signum)


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
