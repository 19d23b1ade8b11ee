"""The frame around every command of both programs: streams, signals, and one exit code for every way to end.

It decides which exit code an ending has and that it is rendered once. How errors look is ``render``. What a program
adds (its commands, its log format) is a :class:`Program`. Little is imported before a command runs, so that ``--help``
stays instant and an interrupt during start-up is one word, not a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from trtbuild.console.lazy import LazyGroup

LOG_FORMATS = ("auto", "human", "text", "json")
"""What ``--log-format`` takes."""

HELP_WORDS = ("--help", "-h", "--version")


class Program(NamedTuple):
    """What the frame needs to know of a program.

    Attributes:
        name: As it is typed.
        app: Where its commands are, ``module:attribute``; imported when it runs.
        configure_log: Makes the log sink that a command line asks for, before its options are known to be right, so
            that a wrong one is reported in the right format.
        first_words: Returns the words beside the commands that may stand first, which are no misspelt commands.
        is_stdout_data: Standard output carries what a model wrote, which is not ours to change; the program masks its
            own secrets in it.
    """

    name: str
    app: str
    configure_log: Callable[[Sequence[str]], object]
    first_words: Callable[[], Collection[str]] = tuple
    is_stdout_data: bool = False


def main(program: Program, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program and exit with a documented code (see ``errors.EXIT_CODE_MEANINGS``)."""
    try:
        from trtbuild.console.streams import finish, harden_streams

        arguments = list(sys.argv[1:] if argv is None else argv)
        harden_streams()
        if not _asks_for_help(arguments):
            _guard_output(program)
        signal.signal(signal.SIGTERM, _terminate)
        code = finish(run(program, arguments))
    except KeyboardInterrupt:  # before there was anything to end
        print("interrupted", file=sys.stderr)  # noqa: T201
        code = 130
    sys.exit(code)


def run(program: Program, arguments: list[str]) -> int:
    """Run one command and return its exit code; every error is rendered here, once."""
    import click

    from trtbuild.console.streams import is_plain
    from trtbuild.errors import SpecError, TrtBuildError

    app = _load(program.app)
    is_help = _asks_for_help(arguments)
    if not is_help:
        program.configure_log(arguments)
    color = False if is_plain() else None
    try:
        result = app.main(
            args=arguments, prog_name=program.name, standalone_mode=False, obj=tuple(arguments), color=color
        )
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        from trtbuild.console import usage

        if is_help:
            _guard_output(program)
            program.configure_log(arguments)
        return usage.render_usage(error, program.name, _closest_command(program, app, arguments))
    except TrtBuildError as error:
        from trtbuild.console import render

        near = _closest_command(program, app, arguments) if isinstance(error, SpecError) else None
        if near:
            error.hint = f"did you mean {program.name} {near}? Else: {error.hint}"
        return render.render(error)
    except (KeyboardInterrupt, click.Abort):
        from trtbuild.console import render

        return render.render_signal("interrupted", 130)
    except _Terminated:
        from trtbuild.console import render

        return render.render_signal("terminated", 143)
    except (BrokenPipeError, SystemExit):  # click's word for it: the reader of our standard output went away
        return 0
    except Exception as error:  # noqa: BLE001 - the boundary: anything else is a bug and says so
        from trtbuild.console import render

        if is_help:
            _guard_output(program)
        return render.render_unexpected(error, program.name)
    return result if isinstance(result, int) else 0


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether nothing runs: no words, ``--help``, or ``COMMAND --help``. Then no log and no mask is needed.

    Elsewhere the same word may be the value of an option, or a name behind ``--``.
    """
    *before, last = arguments or ["--help"]
    return last in HELP_WORDS and (not before or (len(before) == 1 and not before[0].startswith("-")))


def _guard_output(program: Program) -> None:
    """Mask secrets in everything that is written from now on."""
    from trtbuild import redact
    from trtbuild.console.streams import redact_streams

    redact.learn_environment(os.environ)
    redact_streams("stderr", *(() if program.is_stdout_data else ("stdout",)))


def asked_log_format(arguments: Sequence[str], default: str | None) -> str:
    """Return the log format that a command line asks for, else ``default``; ``auto`` for what is no format."""
    asked = default or "auto"
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if word.partition("=")[0] == "--log-format":
            asked = word.partition("=")[2] or following
    return asked if asked in LOG_FORMATS else "auto"


def _load(place: str) -> LazyGroup:
    import importlib

    from trtbuild.console.lazy import LazyGroup

    module, _, name = place.partition(":")
    app = getattr(importlib.import_module(module), name)
    assert isinstance(app, LazyGroup)
    return app


def _closest_command(program: Program, app: LazyGroup, arguments: Sequence[str]) -> str | None:
    from trtbuild.console.usage import closest_command

    return closest_command(arguments, list(app.table), program.first_words())


class _Terminated(SystemExit):
    """SIGTERM came; leaves through every ``finally``, so that children are ended and staging is swept."""


def _terminate(signum: int, _: object) -> None:
    """Leave, once: a second SIGTERM must not cut the clean-up short (SIGKILL is there for that)."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated(128 + signum)
