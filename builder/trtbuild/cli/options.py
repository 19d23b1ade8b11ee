"""Click options made from the one options table, and what every command needs from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtbuild.cli.config import default_hf_cache, default_store, load_spec
from trtbuild.console import log
from trtbuild.spec import OPTIONS, Option, Section, Spec

if TYPE_CHECKING:
    from trtbuild.pipeline import Context

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(*sections: Section, also: Collection[str] = ()) -> Callable[[F], F]:
    """Add MODEL, ``--config``, the options table and the output options to a command.

    Every option is accepted, as from the environment and engine.yaml, so that the words of one command serve another.
    ``--help`` shows what matters to this one.

    Args:
        sections: Sections of the table whose options matter.
        also: Names of single options that matter; without ``model`` here or as a section there is no MODEL.
    """
    shown = {option.name for option in OPTIONS if option.section in sections} | set(also)

    def decorate(function: F) -> F:
        for option in reversed(OPTIONS):
            if option.name != "model":
                function = _click_option(option, is_hidden=option.name not in shown)(function)
        config = click.option(
            "--config",
            "-c",
            type=click.Path(path_type=Path, dir_okay=False),
            help="An engine.yaml: any option, with underscores.  [env: TRTBUILD_CONFIG]",
        )
        function = output_options(config(function))
        if "model" in shown:
            function = click.argument("model", required=False, shell_complete=_complete_model)(function)
        return function

    return decorate


def output_options(function: F) -> F:
    """Add ``--format``, ``--log-format`` and ``--log-level``."""
    formats = click.option(
        "--format", "output", type=click.Choice(["text", "json"]), default="text", help="What standard output holds."
    )
    log_format = click.option(
        "--log-format",
        type=click.Choice(["auto", "human", "text", "json"]),
        envvar="TRTBUILD_LOG_FORMAT",
        default="auto",
        help="Lines on standard error; auto: human on a terminal, json in a pod, else text.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(list(log.LEVELS)),
        envvar="TRTBUILD_LOG_LEVEL",
        default="info",
        help="Least important line to show.",
    )
    return formats(log_format(level(function)))


def configure_log(log_format: str, level: str) -> log.Log:
    """Make the sink that ``--log-format`` asks for."""
    chosen: log.Format = "text"
    if log_format == "auto":
        if sys.stderr.isatty():
            chosen = "human"
        elif "KUBERNETES_SERVICE_HOST" in os.environ:
            chosen = "json"
    elif log_format in {"human", "json"}:
        chosen = "human" if log_format == "human" else "json"
    return log.configure(log_format=chosen, level=level)


def read_spec(flags: dict[str, Any], config: Path | None, *, default_model: str | None = None) -> Spec:
    """Return the spec of this command: flags over environment over engine.yaml."""
    return load_spec(flags, config, os.environ, default_model=default_model)


def make_context(spec: Spec) -> Context:
    """Return what the pipeline needs from this machine and environment."""
    from trtbuild.fetch import Hub
    from trtbuild.host import inspect_host
    from trtbuild.pipeline import Context
    from trtbuild.store import Store

    root = spec.store.store or default_store(os.environ)
    return Context(
        host=inspect_host(os.environ),
        hub=Hub.from_env(os.environ),
        store=Store(root, group=spec.store.store_group, is_group_writable=spec.store.store_group is not None),
        hf_cache=spec.store.hf_cache or default_hf_cache(os.environ),
        image=os.environ.get("TRTBUILD_IMAGE"),
    )


def echo_json(value: object) -> None:
    """Write one JSON document to standard output."""
    import json

    from trtbuild import redact

    plain = json.loads(json.dumps(value, default=str, ensure_ascii=False))
    click.echo(json.dumps(redact.value(plain), indent=2, sort_keys=True, ensure_ascii=False))


def _click_option(option: Option, *, is_hidden: bool) -> Callable[[F], F]:
    flags = [option.flag, *option.flags]
    text = f"{option.help}  [env: {option.env}]"
    if option.kind == "bool":
        flags = [f"{option.flag}/--no-{option.flag[2:]}"]
        return click.option(*flags, option.name, default=None, help=text, hidden=is_hidden)
    if option.kind == "pairs":
        return click.option(*flags, option.name, multiple=True, metavar="NAME=VALUE", help=text, hidden=is_hidden)
    if option.kind in {"choice", "choices"}:
        words, complete = "|".join(option.choices), _choices(option)
        return click.option(
            *flags, option.name, metavar=words, help=text, shell_complete=complete, hidden=is_hidden,
            multiple=option.kind == "choices",
        )  # fmt: skip
    if option.kind == "words":
        return click.option(*flags, option.name, multiple=True, metavar="WORD", help=text, hidden=is_hidden)
    return click.option(*flags, option.name, metavar=option.kind.upper(), help=text, hidden=is_hidden)


def _choices(option: Option) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [choice for choice in option.choices if choice.startswith(incomplete)]

    return complete


def _complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from trtbuild import catalog

    return [model.name for model in catalog.models() if model.name.startswith(incomplete)]
