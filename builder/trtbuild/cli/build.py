"""``trtbuild build MODEL`` (also ``trtbuild MODEL``): everything up to a model repository that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options
from trtbuild.console import log

if TYPE_CHECKING:
    from trtbuild.pipeline import Provisioned


@click.command()
@spec_options("model", "engine", "repository", "store")
def build(config: Path | None, output: str, log_format: str, log_level: str, **flags: Any) -> None:
    """Build MODEL and its Triton model repository; print the repository's path.

    MODEL is a catalog alias (trtbuild models), a Hugging Face id, or a directory. A second run with the same request is
    a hit: nothing is downloaded or built.
    """
    configure_log(log_format, log_level)
    spec = read_spec(flags, config)
    from trtbuild.pipeline import provision

    report(provision(spec, make_context(spec)), output)


def report(done: Provisioned, output: str) -> None:
    """Write the result to standard output and one closing line to standard error."""
    how = "hit" if done.was_hit else "built"
    log.get().info(
        "done",
        f"{how}: {done.plan.model.model_id} @ {done.plan.model.revision[:12]} for {done.plan.sku} "
        f"in {log.format_duration(done.elapsed_s)}",
        elapsed_s=round(done.elapsed_s, 3),
        hit=done.was_hit,
    )
    if output == "json":
        echo_json(result(done))
    else:
        click.echo(str(done.repository))


def result(done: Provisioned) -> dict[str, object]:
    """Return what ``--format json`` prints."""
    return {
        "repository": str(done.repository),
        "served_name": done.served_name,
        "engine": str(done.entry.path),
        "key": done.plan.key.digest,
        "hit": done.was_hit,
        "backend": done.plan.backend,
        "model_id": done.plan.model.model_id,
        "revision": done.plan.model.revision,
        "sku": done.plan.sku,
        "world_size": done.info.world_size,
        "max_batch_size": done.info.max_batch_size,
        "max_seq_len": done.info.max_seq_len,
        "elapsed_s": round(done.elapsed_s, 3),
    }
