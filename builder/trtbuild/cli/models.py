"""``trtbuild models``: the catalog as a table."""

from __future__ import annotations

import dataclasses

import click

from trtbuild.cli.options import echo_json, output_options
from trtbuild.console.tables import echo_table


@click.command()
@click.argument("text", required=False)
@output_options
def models(text: str | None, output: str, log_format: str, log_level: str) -> None:
    """List the models that can be named by an alias; TEXT narrows the list.

    Any other Hugging Face id or directory works, too: its config.json is read instead.
    """
    from trtbuild import catalog

    needle = (text or "").lower()
    chosen = [m for m in catalog.models() if needle in m.name or needle in m.model_id.lower()]
    if output == "json":
        listed = [dataclasses.asdict(model) for model in chosen]
        echo_json([{name: value for name, value in model.items() if name != "config"} for model in listed])
        return
    rows = [("ALIAS", "MODEL", "PARAMETERS", "CONTEXT", "TYPE", "GATED", "LICENCE")]
    for m in chosen:
        size = f"{m.parameters / 1e9:.2f} B" if m.parameters >= 1e9 else f"{m.parameters / 1e6:.0f} M"
        gated = "yes" if m.gated else "no"
        rows.append((m.name, m.model_id, size, f"{m.context_tokens:,}", m.dtype, gated, m.licence))
    echo_table(rows)
