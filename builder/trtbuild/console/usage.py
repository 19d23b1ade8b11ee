"""What click minds about a command line, said as our own errors are: what is wrong, and what to type instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import click

from trtbuild.console.render import render
from trtbuild.errors import SpecError


def render_usage(error: click.ClickException, program: str, near: str | None = None) -> int:
    """Write click's complaint about a command line, and ``near``, a command that it may have meant."""
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer; the message is the whole help
        click.echo(error.format_message(), err=True)
        return 2
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else program} --help"
    return render(SpecError(error.format_message(), hint=f"did you mean {program} {near}? {hint}" if near else hint))


def closest_command(arguments: Sequence[str], commands: Sequence[str], known: Collection[str] = ()) -> str | None:
    """Return the command or option of the program itself that the first word is a misspelling of.

    ``known`` are words beside the commands that may stand first: they are no misspelling.
    """
    first = arguments[0].partition("=")[0] if arguments else ""
    if first in {*commands, *known}:
        return None
    return next(iter(difflib.get_close_matches(first, [*commands, "--help", "--version"], n=1, cutoff=0.7)), None)
