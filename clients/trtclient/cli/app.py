"""The command tree. Subcommands are imported when they are used, so that ``trtclient --help`` stays instant."""

from __future__ import annotations

import click

from trtbuild import __version__
from trtbuild.console.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "chat": ("trtclient.cli.chat:chat", "Talk to a model in the terminal."),
    "load": ("trtclient.cli.load:load", "Put a load on a model and measure it."),
    "batch": ("trtclient.cli.batch:batch", "Run a file of requests through a model; resumable."),
}
"""Command name -> where it lives and its line in ``--help``."""


_EPILOG = """\b
Examples:
  trtclient chat http://127.0.0.1:8000 llama
  trtclient load http://127.0.0.1:8000 llama --rate 2..20 --html report.html
  trtclient batch in.jsonl -o out.jsonl --url http://127.0.0.1:8000 --model m

URL: http(s)://HOST:PORT is Triton's generate endpoint, grpc(s)://HOST:PORT its gRPC port, http(s)://HOST/v1 an
OpenAI-style server.

Exit codes: those of trtbuild (0, 1 bug, 2 request, 9 server, 130, 143) and 10: the command ran,
but requests failed or the goal was missed.
"""


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="trtclient")
def app() -> None:
    """Talk to a served model, put a load on it, run a batch through it."""
