"""The table of GPU products: the fewest GPUs of each that serve a model, laid out for the terminal that shows it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from trtbuild.console.log import format_bytes
from trtbuild.console.tables import echo_folded, echo_table, table_width, terminal_width

if TYPE_CHECKING:
    from trtbuild.catalog import ModelInfo
    from trtbuild.plan.memory import Limits
    from trtbuild.plan.survey import SkuFit

_ROOM_HEADING = ("GPU MEMORY", "TYPE", "DISK", "HOST RAM", "SHM")


def products_document(model: ModelInfo, version: str, limits: Limits, rows: Sequence[SkuFit]) -> dict[str, object]:
    """Return the table as JSON values."""
    return {
        "model_id": model.model_id,
        "trtllm": version,
        "limits": asdict(limits),
        "skus": [_row(row) for row in rows],
    }


def echo_products(
    model: ModelInfo,
    version: str,
    limits: Limits,
    rows: Sequence[SkuFit],
    quantizations: Sequence[str],
    *,
    asked_model: str,
) -> None:
    """Write the table, what its figures mean, which products are not in it, and commands that go on from there.

    Args:
        model: What is known of the model.
        version: TensorRT-LLM version that the figures are of.
        limits: Requests and tokens that must fit.
        rows: One per product.
        quantizations: The columns.
        asked_model: The model as it was typed, for the commands.
    """
    from trtbuild.plan.survey import MAX_GPUS

    echo_folded(
        f"{model.model_id}, {'' if model.is_exact else 'about '}{model.parameters:,} parameters; TensorRT-LLM "
        f"{version}; up to "
        f"{limits.max_batch_size} requests of {limits.max_seq_len:,} tokens, {limits.max_num_tokens:,} tokens per step"
    )
    fitting = [row for row in rows if any(row.fits.values())]
    tables, is_short = lay_out(fitting, quantizations, terminal_width())
    echo_folded(
        f"fewest GPUs as tensor x pipeline parallel, and {'thousands of ' if is_short else ''}tokens left for the "
        f"key/value cache; -: not with {MAX_GPUS} GPUs, or not at all"
    )
    for table in tables:
        click.echo("")
        echo_table(table)
    _say_where_else(asked_model, rows, fitting)


def lay_out(
    rows: Sequence[SkuFit], quantizations: Sequence[str], width: int | None
) -> tuple[list[list[tuple[str, ...]]], bool]:
    """Return the tables to print and whether they count tokens in thousands.

    One table where it fits or the output is not a terminal, with exact tokens if possible; else need and room apart.
    """
    names = ("GPU", *(row.sku.product for row in rows))
    room = [_ROOM_HEADING, *(_room(row) for row in rows)]

    def beside(*parts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [(name, *sum(cells, ())) for name, *cells in zip(names, *parts, strict=True)]

    heading = tuple(name.upper() for name in quantizations)
    exact, short = (
        [heading, *(tuple(_cell(row, name, is_short=is_short) for name in quantizations) for row in rows)]
        for is_short in (False, True)
    )
    choices = [
        ([beside(exact, room)], False),
        ([beside(short, room)], True),
        ([beside(exact), beside(room)], False),
        ([beside(short), beside(room)], True),
    ]
    fitting = (choice for choice in choices if width is None or max(map(table_width, choice[0])) <= width)
    return next(fitting, choices[-1])


def _room(row: SkuFit) -> tuple[str, ...]:
    sizes = (row.room.disk_bytes, row.room.host_memory_bytes, row.room.shm_bytes) if row.room else ()
    cells = (format_bytes(row.sku.memory_bytes), row.dtype, *(format_bytes(size) for size in sizes))
    return (*cells, *[""] * (len(_ROOM_HEADING) - len(cells)))


def _say_where_else(asked_model: str, rows: Sequence[SkuFit], fitting: Sequence[SkuFit]) -> None:
    """Name the products left out of the table, and a command that works for one that is in it."""
    left_out = [row.sku.product for row in rows if row not in fitting]
    if left_out:
        click.echo("")
        echo_folded(f"not on: {', '.join(left_out)}", indent=8)
    if fitting:
        row = fitting[0]
        name, fit = next((name, fit) for name, fit in row.fits.items() if fit)
        words = ["trtbuild", "plan", asked_model, "--gpu", row.sku.product]
        for flag, size in (("--tp", fit.layout.tp_size), ("--pp", fit.layout.pp_size)):
            words += [flag, str(size)] if size > 1 else []
        words += ["--quantization", name] if name != "none" else []
        click.echo(f"\none product in detail:\n  {shlex.join(words)}")
    click.echo(f"this machine:\n  {shlex.join(['trtbuild', 'plan', asked_model, '--here'])}")


def _cell(row: SkuFit, name: str, *, is_short: bool = False) -> str:
    """Return the fewest GPUs and the tokens left; short: tokens in thousands, rounded down."""
    fit = row.fits[name]
    if fit is None:
        return "-"
    tokens = fit.memory.kv_tokens
    return f"{fit.layout.tp_size}x{fit.layout.pp_size} {f'{tokens // 1000:,}k' if is_short else f'{tokens:,}'}"


def _row(row: SkuFit) -> dict[str, object]:
    return {
        "product": row.sku.product,
        "memory_bytes": row.sku.memory_bytes,
        "dtype": row.dtype,
        "fits": {
            name: {"tp_size": f.layout.tp_size, "pp_size": f.layout.pp_size, "kv_tokens": f.memory.kv_tokens}
            if f
            else None
            for name, f in row.fits.items()
        },
        "disk_bytes": row.room.disk_bytes if row.room else None,
        "host_memory_bytes": row.room.host_memory_bytes if row.room else None,
        "shm_bytes": row.room.shm_bytes if row.room else None,
    }
