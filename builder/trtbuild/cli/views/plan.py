"""A build plan as people and as programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trtbuild.console.log import format_bytes

if TYPE_CHECKING:
    from trtbuild.plan import BuildPlan

UNRESOLVED = "0" * 40
"""Stands for a commit that was not resolved: a plan for another machine needs no network."""


def plan_document(made: BuildPlan) -> dict[str, object]:
    """Return a plan as JSON values."""
    known = made.model.revision != UNRESOLVED
    return {
        "backend": made.backend,
        "model_id": made.model.model_id,
        "revision": made.model.revision if known else None,
        "sku": made.sku,
        "shape": {**asdict(made.shape), "options": dict(made.shape.options)},
        "key": made.key.digest if known else None,
        "key_fields": dict(made.key.fields),
        "entry": str(made.key.relative_path) if known else None,
        "budget": asdict(made.budget),
        "sizes": sizes_word(made),
        "arithmetic": list(made.arithmetic),
        "steps": list(made.steps),
        "warnings": list(made.warnings),
    }


def sizes_word(made: BuildPlan) -> str:
    """Return where the sizes of a plan's weights come from: ``counted`` exactly, ``listed``, or ``estimated``."""
    info = made.model.info
    return "listed" if info.listed_bytes else "counted" if info.are_sizes_known else "estimated"


def plan_lines(made: BuildPlan) -> list[tuple[str, int]]:
    """Return a plan as people read it: lines, and how far each is indented where it has to be folded."""
    shape, budget = made.shape, made.budget
    known = made.model.revision != UNRESOLVED
    options = ", ".join(_option_words(shape.options))
    rows = [
        ("model", f"{made.model.model_id} @ {made.model.revision if known else 'a commit not asked for yet'}"),
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
            f"{'about ' if sizes_word(made) == 'estimated' else ''}snapshot {format_bytes(budget.snapshot_bytes)}, "
            f"checkpoint {format_bytes(budget.checkpoint_bytes)}, "
            f"engine {format_bytes(budget.engine_bytes)}; host memory {format_bytes(budget.host_memory_bytes)}, "
            f"shared memory {format_bytes(budget.shm_bytes)}",
        ),
        ("key", made.key.digest if known else "depends on the commit"),
        *([("entry", str(made.key.relative_path))] if known else []),
    ]
    lines = [(f"{name:<8} {value}", 9) for name, value in rows]
    lines += [("", 0), ("arithmetic", 0), *((f"  {line}", line.rfind("  ") + 4) for line in made.arithmetic)]
    lines += [("", 0), ("steps", 0), *((f"  {number}. {step}", 6) for number, step in enumerate(made.steps, 1))]
    return lines


def _option_words(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``name=value`` of options and of the options inside of them; paths and empty ones say nothing here."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _option_words(value)
        elif not str(value).startswith("/"):
            yield f"{name}={value}"
