"""``trtbuild explain``: why an engine is a hit or a miss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options

if TYPE_CHECKING:
    from trtbuild.store import Explanation


@click.command()
@spec_options("model", "engine", also=("store", "hf_cache", "shared_tier"))
def explain(config: Path | None, output: str, log_format: str, log_level: str, **flags: Any) -> None:
    """Say whether the engine for MODEL is in the store, and for a miss what differs from the nearest one there."""
    configure_log(log_format, log_level)
    spec = read_spec(flags, config)
    from trtbuild.pipeline import make_plan
    from trtbuild.store import Shared, open_tier

    ctx = make_context(spec)
    _, made = make_plan(spec, ctx)
    tier = spec.store.shared_tier
    found = ctx.store.explain(made.key, shared=Shared(ctx.store, open_tier(tier)).describe(made.key) if tier else None)
    if output == "json":
        echo_json(explanation_document(found))
    else:
        click.echo("\n".join(explanation_lines(found)))


def explanation_document(found: Explanation) -> dict[str, object]:
    """Return an explanation as JSON values."""
    from trtbuild.store import Entry

    local = found.local
    return {
        "key": found.key.digest,
        "hit": found.is_hit,
        "entry": str(local.path) if local.path else None,
        "reason": None if isinstance(local, Entry) else local.reason,
        "shared": found.shared,
        "nearest": str(found.nearest.path) if found.nearest else None,
        "differences": [{"field": d.field, "here": d.wanted, "store": d.stored} for d in found.differences],
        "builder": found.builder,
        "estimate_s": found.estimate_s,
    }


def explanation_lines(found: Explanation) -> list[str]:
    """Return an explanation as people read it."""
    from trtbuild.console.log import format_duration
    from trtbuild.store import Entry

    if isinstance(found.local, Entry):
        return [f"hit: {found.key.short} is at {found.local.path}"]
    lines = [f"miss: {found.key.short}: {found.local.reason}"]
    if found.shared:
        lines.append(f"shared tier: {found.shared}")
    if found.builder:
        lines.append(f"being built by {found.builder}")
    if found.estimate_s is not None:
        lines.append(f"a build should take about {format_duration(found.estimate_s)}")
    if found.nearest:
        lines += [f"nearest entry: {found.nearest.path}", *(f"  {difference}" for difference in found.differences)]
    else:
        lines.append("the store holds no other engine")
    return lines
