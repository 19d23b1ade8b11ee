"""``trtbuild plan``: what would be built, printed before anything is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options

if TYPE_CHECKING:
    from trtbuild.plan import BuildPlan


@click.command()
@spec_options("model", "engine", "repository", "store")
def plan(config: Path | None, output: str, log_format: str, log_level: str, **flags: Any) -> None:
    """Show what would be built for MODEL on this machine: choices, arithmetic, room, steps and the engine's key."""
    configure_log(log_format, log_level)
    spec = read_spec(flags, config)
    from trtbuild.pipeline import make_plan

    _, made = make_plan(spec.engine, make_context(spec))
    if output == "json":
        echo_json(plan_document(made))
    else:
        click.echo("\n".join(plan_lines(made)))


def plan_document(made: BuildPlan) -> dict[str, object]:
    """Return a plan as JSON values."""
    from dataclasses import asdict

    return {
        "backend": made.backend,
        "model_id": made.model.model_id,
        "revision": made.model.revision,
        "sku": made.sku,
        "shape": {**asdict(made.shape), "options": dict(made.shape.options)},
        "key": made.key.digest,
        "key_fields": dict(made.key.fields),
        "entry": str(made.key.relative_path),
        "budget": asdict(made.budget),
        "arithmetic": list(made.arithmetic),
        "steps": list(made.steps),
        "warnings": list(made.warnings),
    }


def plan_lines(made: BuildPlan) -> list[str]:
    """Return a plan as people read it."""
    from trtbuild.log import format_bytes

    shape, budget = made.shape, made.budget
    options = ", ".join(f"{name}={value}" for name, value in shape.options.items())
    rows = [
        ("model", f"{made.model.model_id} @ {made.model.revision}"),
        ("backend", f"{made.backend} on {made.sku}"),
        ("type", f"{shape.dtype}, quantization {shape.quantization}, key/value cache {shape.kv_cache_dtype}"),
        ("ranks", f"{shape.world_size} (tensor parallel {shape.tp_size} x pipeline parallel {shape.pp_size})"),
        (
            "limits",
            f"{shape.max_batch_size} requests at once, {shape.max_input_len} tokens in, {shape.max_seq_len} in all, "
            f"{shape.max_num_tokens} per step",
        ),
        *([("options", options)] if options else []),
        (
            "room",
            f"snapshot {format_bytes(budget.snapshot_bytes)}, checkpoint {format_bytes(budget.checkpoint_bytes)}, "
            f"engine {format_bytes(budget.engine_bytes)}; host memory {format_bytes(budget.host_memory_bytes)}, "
            f"shared memory {format_bytes(budget.shm_bytes)}",
        ),
        ("key", made.key.digest),
        ("entry", str(made.key.relative_path)),
    ]
    lines = [f"{name:<8} {value}" for name, value in rows]
    lines += ["", "arithmetic", *(f"  {line}" for line in made.arithmetic)]
    lines += ["", "steps", *(f"  {number}. {step}" for number, step in enumerate(made.steps, 1))]
    return lines
