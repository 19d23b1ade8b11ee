"""``trtbuild plan``: what would be built, printed before anything is. How it looks is in ``views``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options
from trtbuild.console import log
from trtbuild.console.tables import echo_folded
from trtbuild.errors import SpecError, StoreError

if TYPE_CHECKING:
    from trtbuild.catalog import GpuSku
    from trtbuild.pipeline import Context
    from trtbuild.plan import BuildPlan, ResolvedModel
    from trtbuild.spec import EngineSpec, HostInfo, Spec

VALUES_OPTIONS = (
    "served_name", "layout", "decoupled", "max_queue_size", "kv_cache_free_gpu_mem_fraction",
    "enable_kv_cache_reuse", "enable_chunked_context", "batch_scheduler_policy", "template_parameter",
)  # fmt: skip
"""Options of the repository that end up in what ``--values`` prints."""

VERSION_FLAG = "--trtllm-version"


@click.command()
@spec_options("model", "engine", also=(*VALUES_OPTIONS, "store", "hf_cache"))
@click.option("--gpu", metavar="SKU|all", help="Plan for this GPU product instead of this machine; all: a table.")
@click.option("--here", is_flag=True, help="Plan for this machine, also where it has no GPU.")
@click.option(VERSION_FLAG, metavar="VERSION", help="TensorRT-LLM version of --gpu.  Default: the newest with engines.")
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
    if here and (gpu or trtllm_version):
        raise click.UsageError(f"--here plans for this machine as it is; leave out {'--gpu' if gpu else VERSION_FLAG}")
    if gpu:
        _refuse_backend(spec.engine.backend, gpu)
    if gpu and gpu != "all":
        _show_for_sku(spec, gpu, trtllm_version, output, values=values)
        return
    from trtbuild.host import inspect_host

    if not gpu and (here or spec.engine.backend != "auto" or inspect_host(os.environ).gpus):
        from trtbuild.pipeline import check_build, make_plan

        if trtllm_version:
            raise click.UsageError(f"{VERSION_FLAG} is for --gpu SKU; this machine has the version that is installed")
        ctx = make_context(spec)
        backend, made = make_plan(spec, ctx)
        if not _is_in_store(ctx, made):
            check_build(spec, made, backend, ctx)
        _show(made, output)
        return
    _show_table(spec, trtllm_version, output)


def _is_in_store(ctx: Context, made: BuildPlan) -> bool:
    """Return whether the engine needs no build. A plan needs no store: one that cannot be read has no engine."""
    try:
        return ctx.store.explain(made.key).is_hit
    except StoreError:
        return False


def _refuse_backend(name: str, gpu: str) -> None:
    """Refuse a backend for which ``--gpu`` would mean nothing, or which the table would leave unread."""
    from trtbuild import registry

    if name != "auto" and not registry.find_backend(name).needs_gpu:
        raise click.UsageError(f"--backend {name} uses no GPU; leave out --gpu to plan for this machine")
    if gpu == "all" and name not in {"auto", _best_for_gpus()}:
        raise click.UsageError(f"the table is of --backend {_best_for_gpus()}; pass --gpu SKU to plan for {name}")


def _show(made: BuildPlan, output: str) -> None:
    from trtbuild.cli.views.plan import plan_document, plan_lines

    if output == "json":
        echo_json(plan_document(made))
    else:
        for line, indent in plan_lines(made):
            echo_folded(line, indent=indent)


def _resolve(spec: Spec) -> ResolvedModel:
    """Return the model: of the catalog without network, else pinned and its files looked at as a build does."""
    from trtbuild import catalog
    from trtbuild.cli.views.plan import UNRESOLVED
    from trtbuild.plan import ResolvedModel

    known = catalog.find_model(spec.engine.model)
    if known is not None and spec.engine.revision == "main":
        return ResolvedModel(model_id=known.model_id, revision=UNRESOLVED, source="hub", info=known)
    from trtbuild.resolve import check_files, resolve_model

    model = resolve_model(spec.engine, make_context(spec).models)
    check_files(model, spec.engine)
    return model


def _release(version: str | None) -> str:
    from trtbuild import catalog

    return version or catalog.trtllm_versions()[-1]


def _best_for_gpus() -> str:
    from trtbuild import registry

    return next(backend.name for backend in registry.BACKENDS if backend.needs_gpu)


def _show_table(spec: Spec, version: str | None, output: str) -> None:
    from trtbuild import backends, catalog
    from trtbuild.backends.gpu import choose_limits
    from trtbuild.cli.views.products import echo_products, products_document
    from trtbuild.plan.memory import Limits
    from trtbuild.plan.survey import COLUMNS, survey

    backends.refuse_unread(backends.get(_best_for_gpus()), spec)
    model, release = _resolve(spec).info, catalog.trtllm(_release(version))
    if unsafe := catalog.image_warning(release):
        log.get().warning("plan_warning", unsafe)
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
        echo_json(products_document(model, release.version, limits, rows))
    else:
        echo_products(model, release.version, limits, rows, columns, asked_model=spec.engine.model)


def _show_for_sku(spec: Spec, gpu: str, version: str | None, output: str, *, values: bool) -> None:
    from trtbuild import backends, catalog
    from trtbuild.cli.views.plan import UNRESOLVED

    sku = catalog.find_sku(gpu)
    if sku is None:
        near = ", ".join(catalog.closest_skus(gpu))
        raise SpecError(
            f"unknown GPU product {gpu!r}; near: {near}", hint="trtbuild plan MODEL --gpu all lists every product"
        )
    model = _resolve(spec)
    engine = replace(spec.engine, backend=_best_for_gpus()) if spec.engine.backend == "auto" else spec.engine
    host = imagined_host(sku, engine, _release(version))
    backend = backends.get(engine.backend)
    made = backends.make_plan(backend, replace(spec, engine=engine), model, host)
    if model.revision != UNRESOLVED:
        from trtbuild.resolve import complete_files

        if (directory := complete_files(model, engine, make_context(spec).models)) is not None:
            backend.check_model(made, directory)
    if unsafe := catalog.image_warning(catalog.trtllm(_release(version))):
        log.get().warning("plan_warning", unsafe)
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
