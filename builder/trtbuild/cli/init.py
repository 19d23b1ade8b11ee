"""``trtbuild init``: what a pod's init container runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import configure_log, make_context, read_spec, spec_options

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last words (terminationMessagePath's default)."""


@click.command()
@spec_options("model", "engine", "repository", "store")
def init(config: Path | None, output: str, log_format: str, log_level: str, **flags: Any) -> None:
    """Provide the engine and the repository of an engine.yaml, as an init container does.

    The same pipeline as `trtbuild MODEL`, with JSON log lines by default and one short final line. One
    engine.yaml serves both containers of a pod: what only the server needs is passed over here.
    """
    configure_log("json" if log_format == "auto" else log_format, log_level)
    spec = read_spec(flags, config)
    from trtbuild.cli.build import report
    from trtbuild.pipeline import provision

    done = provision(spec, make_context(spec))
    _say_last_words(f"{'hit' if done.was_hit else 'built'} {done.plan.key.short} for {done.plan.sku}\n")
    report(done, output)


def _say_last_words(text: str) -> None:
    if os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(text)
