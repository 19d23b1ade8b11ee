"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from trtbuild.console import log
from trtbuild.errors import SpecError, TrtBuildError
from trtclient import apis, values

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType[Any]):
    """A parameter read by one of the functions of :mod:`trtclient.values`."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except TrtBuildError as error:
            self.fail(f"{error.message} ({error.hint})", param, ctx)


DURATION = Parsed("duration", values.parse_duration)
LENGTHS = Parsed("lengths", values.parse_lengths)
GOAL = Parsed("goal", values.parse_goal)
PARAMETER = Parsed("name=value", values.parse_parameter)
SHARD = Parsed("index/count", values.parse_shard)


def server_options(command: F) -> F:
    """Add how to reach the server and what to send with every request."""
    for option in reversed(
        (
            click.option("--api", type=click.Choice(apis.NAMES), help="Protocol. Default: what the URL says."),
            click.option(
                "--param",
                "parameters",
                type=PARAMETER,
                multiple=True,
                metavar="NAME=VALUE",
                help="An input of the model, e.g. top_p=0.9; repeatable.",
            ),
            click.option(
                "--token",
                envvar="TRTCLIENT_TOKEN",
                default="",
                show_envvar=True,
                help="Bearer token for a gateway. Better in the environment than here.",
            ),
            click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="CA bundle for TLS."),
        )
    ):
        command = option(command)
    return command


def output_options(command: F) -> F:
    """Add how results and log lines look."""
    for option in reversed(
        (
            click.option(
                "--format",
                "output",
                type=click.Choice(["text", "json"]),
                default="text",
                help="Form of the result on standard output.",
            ),
            click.option(
                "--log-format",
                type=click.Choice(["auto", "human", "text", "json"]),
                default="auto",
                envvar="TRTCLIENT_LOG_FORMAT",
                show_envvar=True,
                help="Form of the lines on standard error; auto: human on a terminal, else text.",
            ),
        )
    ):
        command = option(command)
    return command


def configure_log(log_format: str) -> None:
    """Make the sink that ``--log-format`` asks for."""
    chosen = log_format
    if chosen == "auto":
        chosen = "human" if sys.stderr.isatty() else "text"
    formats: dict[str, Literal["human", "text", "json"]] = {"human": "human", "text": "text", "json": "json"}
    log.configure(log_format=formats[chosen])


def write_text(path: Path, text: str) -> None:
    """Write a result file.

    Raises:
        SpecError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def refuse_unwritable(*paths: Path | None) -> None:
    """Find out before the work whether its results can be written; leaves existing files as they are.

    Raises:
        SpecError: One cannot.
    """
    for path in filter(None, paths):
        try:
            is_new = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            if is_new:
                path.unlink()
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(f"cannot write {path}: {error.strerror}", hint="name a file in a directory that can be written")
