"""``trtbuild plan``: what would be built, printed before anything is."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options
from trtbuild.console.tables import echo_folded, echo_table, table_width, terminal_width
from trtbuild.errors import SpecError

if TYPE_CHECKING:
    from trtbuild.catalog import GpuSku, ModelInfo
    from trtbuild.plan import BuildPlan
    from trtbuild.spec import EngineSpec, HostInfo, Spec
    from trtbuild.survey import SkuFit

UNRESOLVED = "0" * 40
"""Stands for a commit that nobody has asked the hub for: a plan for another machine needs no network."""

VALUES_OPTIONS = (
    "served_name", "layout", "max_queue_size", "kv_cache_free_gpu_mem_fraction", "enable_kv_cache_reuse",
    "enable_chunked_context", "batch_scheduler_policy", "template_parameter",
)  # fmt: skip
"""Options of the repository that end up in what ``--values`` prints."""


@click.command()
@spec_options("model", "engine", also=(*VALUES_OPTIONS, "store", "hf_cache"))
@click.option("--gpu", metavar="SKU|all", help="Plan for this GPU product instead of this machine; all: a table.")
@click.option("--here", is_flag=True, help="Plan for this machine, also where it has no GPU.")
@click.option(
    "--trtllm-version", metavar="VERSION", help="TensorRT-LLM version of --gpu.  Default: the newest with engines."
)
@click.option("--values", is_flag=True, help="Print a values file for the chart (with --gpu SKU).")
def plan(
    config: Path | None,
    output: str,
    log_format: str,
    log_level: str,
    gpu: str | None,
    here: bool,
    trtllm_version: str | None,
    values: bool,
    **flags: Any,
) -> None:
    """Show what would be built for MODEL: choices, arithmetic, room, steps and the engine's key. Builds nothing.

    On a machine with a GPU, or with --here or --backend: the plan for this machine. Elsewhere, or with --gpu all: a
    table of GPU products with the fewest GPUs that serve MODEL. --gpu SKU: the plan for that product.
    """
    configure_log(log_format, log_level)
    spec = read_spec(flags, config)
    if values and (not gpu or gpu == "all"):
        raise click.UsageError("--values needs --gpu SKU")
    if gpu and gpu != "all":
        _show_for_sku(spec, gpu, trtllm_version, output, values=values)
        return
    from trtbuild.host import inspect_host

    if not gpu and (here or spec.engine.backend != "auto" or inspect_host(os.environ).gpus):
        from trtbuild.pipeline import make_plan

        _, made = make_plan(spec.engine, make_context(spec))
        _show(made, output)
        return
    _show_table(spec, trtllm_version, output)


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
        "arithmetic": list(made.arithmetic),
        "steps": list(made.steps),
        "warnings": list(made.warnings),
    }


def plan_lines(made: BuildPlan) -> list[tuple[str, int]]:
    """Return a plan as people read it: lines, and how far each is indented where it has to be folded."""
    from trtbuild.log import format_bytes

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
            f"snapshot {format_bytes(budget.snapshot_bytes)}, checkpoint {format_bytes(budget.checkpoint_bytes)}, "
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


def _show(made: BuildPlan, output: str) -> None:
    if output == "json":
        echo_json(plan_document(made))
    else:
        for line, indent in plan_lines(made):
            echo_folded(line, indent=indent)


def _model_info(spec: Spec) -> ModelInfo:
    """Return what is known of the model: from the catalog without network, else from its config.json."""
    from trtbuild import catalog

    known = catalog.find_model(spec.engine.model)
    if known is not None:
        return known
    from trtbuild.pipeline import resolve_model

    return resolve_model(spec.engine, make_context(spec)).info


def _release(version: str | None) -> str:
    from trtbuild import catalog

    return version or catalog.trtllm_versions()[-1]


def _show_table(spec: Spec, version: str | None, output: str) -> None:
    from trtbuild import catalog
    from trtbuild.backends.tensorrt_llm_plan import choose_limits
    from trtbuild.memory import Limits
    from trtbuild.survey import COLUMNS, MAX_GPUS, survey

    model, release = _model_info(spec), catalog.trtllm(_release(version))
    batch, seq, _, tokens = choose_limits(spec.engine, model)
    limits = Limits(max_batch_size=batch, max_seq_len=seq, max_num_tokens=tokens)
    asked = spec.engine.quantization
    columns = COLUMNS if asked == "none" else (asked,)
    rows = survey(
        model,
        limits,
        release,
        dtype=spec.engine.dtype,
        kv_cache_dtype=spec.engine.kv_cache_dtype,
        quantizations=columns,
    )
    if output == "json":
        echo_json(
            {
                "model_id": model.model_id,
                "trtllm": release.version,
                "limits": asdict(limits),
                "skus": [_row(r) for r in rows],
            }
        )
        return
    echo_folded(
        f"{model.model_id}, {model.parameters:,} parameters; TensorRT-LLM {release.version}; up to "
        f"{limits.max_batch_size} requests of {limits.max_seq_len:,} tokens, {limits.max_num_tokens:,} tokens per step"
    )
    fitting = [row for row in rows if any(row.fits.values())]
    tables, is_short = _lay_out(fitting, columns, terminal_width())
    echo_folded(
        f"fewest GPUs as tensor x pipeline parallel, and {'thousands of ' if is_short else ''}tokens left for the "
        f"key/value cache; -: not with {MAX_GPUS} GPUs, or not at all"
    )
    for table in tables:
        click.echo("")
        echo_table(table)
    _say_where_else(spec, rows, fitting)


def _lay_out(
    rows: Sequence[SkuFit], quantizations: Sequence[str], width: int | None
) -> tuple[list[list[tuple[str, ...]]], bool]:
    """Return the tables to print and whether they count tokens in thousands.

    One table where it fits or nobody looks, with exact tokens if possible; else what is needed, then its room.
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


_ROOM_HEADING = ("GPU MEMORY", "TYPE", "DISK", "HOST RAM", "SHM")


def _room(row: SkuFit) -> tuple[str, ...]:
    from trtbuild.log import format_bytes

    sizes = (row.room.disk_bytes, row.room.host_memory_bytes, row.room.shm_bytes) if row.room else ()
    cells = (format_bytes(row.sku.memory_bytes), row.dtype, *(format_bytes(size) for size in sizes))
    return (*cells, *[""] * (len(_ROOM_HEADING) - len(cells)))


def _say_where_else(spec: Spec, rows: Sequence[SkuFit], fitting: Sequence[SkuFit]) -> None:
    """Name the products left out of the table, and a command that works for one that is in it."""
    left_out = [row.sku.product for row in rows if row not in fitting]
    if left_out:
        click.echo("")
        echo_folded(f"not on: {', '.join(left_out)}", indent=8)
    if fitting:
        row = fitting[0]
        name, fit = next((name, fit) for name, fit in row.fits.items() if fit)
        words = ["trtbuild", "plan", spec.engine.model, "--gpu", row.sku.product]
        for flag, size in (("--tp", fit.layout.tp_size), ("--pp", fit.layout.pp_size)):
            words += [flag, str(size)] if size > 1 else []
        words += ["--quantization", name] if name != "none" else []
        click.echo(f"\none product in detail:\n  {shlex.join(words)}")
    click.echo(f"this machine:\n  {shlex.join(['trtbuild', 'plan', spec.engine.model, '--here'])}")


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


def _show_for_sku(spec: Spec, gpu: str, version: str | None, output: str, *, values: bool) -> None:
    from trtbuild import backends, catalog
    from trtbuild.plan import ResolvedModel

    sku = catalog.find_sku(gpu)
    if sku is None:
        near = ", ".join(catalog.closest_skus(gpu))
        raise SpecError(
            f"unknown GPU product {gpu!r}; near: {near}", hint="trtbuild plan MODEL --gpu all lists every product"
        )
    info = _model_info(spec)
    model = ResolvedModel(model_id=info.model_id, revision=UNRESOLVED, source="hub", info=info)
    engine = replace(spec.engine, backend="tensorrt_llm") if spec.engine.backend == "auto" else spec.engine
    made = backends.get(engine.backend).plan(engine, model, imagined_host(sku, engine, _release(version)))
    if values:
        from trtbuild.cli.values import values_file

        click.echo(values_file(spec, made, sku, version=_release(version)), nl=False)
    else:
        _show(made, output)


def imagined_host(sku: GpuSku, spec: EngineSpec, version: str) -> HostInfo:
    """Return a host with as many GPUs of a product as the spec needs, in the image that has a TensorRT-LLM version."""
    from trtbuild import catalog
    from trtbuild.spec import CpuInfo, GpuInfo, HostInfo

    release = catalog.trtllm(version)
    gpus = tuple(
        GpuInfo(index=index, product=sku.product, compute_capability=sku.compute_capability, memory_mib=sku.memory_mib)
        for index in range(spec.world_size)
    )
    return HostInfo(
        platform=sku.host_platform,
        cpu=CpuInfo(vendor="unknown", model="unknown", isa=(), cores=8),
        gpus=gpus,
        memory_bytes=1 << 50,
        shm_bytes=1 << 50,
        versions={"tensorrt_llm": release.version, "tensorrt": release.tensorrt, "cuda": release.cuda},
        tools={"trtllm-build": "trtllm-build", "mpirun": "mpirun"},
    )
