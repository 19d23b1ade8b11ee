"""The command tree. Subcommands are imported when they are used, so that ``trtbuild --help`` stays instant."""

from __future__ import annotations

from typing import Any

import click

from trtbuild import __version__
from trtbuild.console.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("trtbuild.cli.build:build", "Build MODEL and its repository (what `trtbuild MODEL` does)."),
    "plan": ("trtbuild.cli.plan:plan", "Show what would be built, where it fits and what it needs."),
    "serve": ("trtbuild.cli.serve:serve", "Build if needed, then become the Triton server."),
    "init": ("trtbuild.cli.init:init", "The same build, as a pod's init container runs it."),
    "demo": ("trtbuild.cli.demo:demo", "Build, serve and stream from a small model, on this machine, now."),
    "models": ("trtbuild.cli.models:models", "List the catalog."),
    "explain": ("trtbuild.cli.explain:explain", "Say why an engine is a hit or a miss."),
    "store": ("trtbuild.cli.store:store", "Look at the engine store and clean it."),
    "doctor": ("trtbuild.cli.doctor:doctor", "Say what this machine can do, and why not."),
    "health": ("trtbuild.cli.health:health", "Ask a running server whether it works."),
    "drain": ("trtbuild.cli.health:drain", "Wait until no request is in flight (a pod's preStop)."),
    "completion": ("trtbuild.cli.completion:completion", "Print shell completion for bash, zsh or fish."),
}
"""Command name -> where it lives and its line in ``--help``."""


class _Commands(LazyGroup):
    """The group that builds when the first word is no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not _is_own_word(args):
            args = ["build", *args]
        return super().parse_args(ctx, args)


def _is_own_word(args: list[str]) -> bool:
    return args[0] in COMMANDS or args[0] in {"--help", "-h", "--version"}


_EPILOG = """\b
Examples:
  trtbuild demo                        a real model on a real Triton, here
  trtbuild plan llama-3-70b-instruct   which GPUs, how many, how much room
  trtbuild llama-3-8b --tp 2           build engine and model repository
  trtbuild serve llama-3-8b --tp 2     ... and serve it
  trtbuild build ./plan                a directory named like a command

Exit codes: 0 success, 1 bug, 2 request, 3 host, 4 fetch, 5 convert, 6 build, 7 store, 8 repository, 9 launch,
130 interrupted, 143 terminated.

Every option is also TRTBUILD_<OPTION> in the environment and <option>: in engine.yaml. What takes an engine.yaml takes
every option; its --help shows those that matter to it.
"""


@click.group(
    cls=_Commands,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="trtbuild")
def app(**_: Any) -> None:
    """Build engines from Hugging Face models, keep them per GPU SKU, serve them with Triton.

    trtbuild MODEL [OPTIONS] builds MODEL (a catalog alias, a Hugging Face id or a directory) and prints the path of the
    Triton model repository.
    """
