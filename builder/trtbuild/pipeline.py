"""The order of things: resolve, plan, look in the store, fetch, build, publish, write the repository.

The only file that knows the order. Every stage takes and returns frozen values; this file passes them on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from trtbuild import backends, fetch
from trtbuild.console import log
from trtbuild.fetch import Hub
from trtbuild.fetch.cache import RepoCache
from trtbuild.plan import Backend, BuildPlan, EngineInfo
from trtbuild.plan.provenance import provenance, serving_values
from trtbuild.repository import Origin, ServedModel, provide_repository, served_name_of
from trtbuild.resolve import (
    ModelSource,
    check_files,
    complete_files,
    fetch_model,
    missing_bytes,
    pin_calibration,
    resolve_model,
)
from trtbuild.spec import EngineSpec, HostInfo, Spec
from trtbuild.store import Entry, Store
from trtbuild.store.build_failure import explain_build_failure

SHOWN_DIFFERENCES = 8
"""Differences from the nearest engine that a miss names; ``trtbuild explain`` names all."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a run needs besides the spec: this machine, the hub, the store.

    Attributes:
        host: This machine.
        hub: How to reach Hugging Face.
        store: The engine store.
        hf_cache: The Hugging Face cache directory (``.../hub``).
        image: Container image that this process runs in, as its deployment calls it; for manifests.
    """

    host: HostInfo
    hub: Hub
    store: Store
    hf_cache: Path
    image: str | None = None

    @property
    def models(self) -> ModelSource:
        """Where models come from."""
        hashes, packaged = self.store.part("hashes"), self.store.part("models")
        return ModelSource(hub=self.hub, cache=self.hf_cache, memo=hashes, packaged=packaged)


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What a run leaves behind.

    Attributes:
        plan: The plan that was followed.
        entry: The engine in the store.
        info: What the engine says of itself.
        repository: The Triton model repository.
        served_name: Name of the front model.
        was_hit: The engine was there before.
        elapsed_s: Seconds from start to end.
    """

    plan: BuildPlan
    entry: Entry
    info: EngineInfo
    repository: Path
    served_name: str
    was_hit: bool
    elapsed_s: float


def make_plan(spec: Spec, ctx: Context) -> tuple[Backend, BuildPlan]:
    """Resolve the model and let the backend plan.

    Raises:
        TrtBuildError: Whatever makes the request impossible, before a weight is downloaded.
    """
    with log.get().stage("plan"):
        model = resolve_model(spec.engine, ctx.models)
        check_files(model, spec.engine)
        spec = replace(spec, engine=pin_calibration(spec.engine, ctx.models))
        backend = backends.choose(spec.engine.backend, ctx.host)
        plan = backends.make_plan(backend, spec, model, ctx.host)
        for warning in plan.warnings:
            log.get().warning("plan_warning", warning)
        log.get().bind(key=plan.key.short)
    return backend, plan


def check_build(spec: Spec, plan: BuildPlan, backend: Backend, ctx: Context) -> None:
    """Refuse what the build of an engine that is not in the store would refuse, as far as files are on this machine.

    Raises:
        TrtBuildError: A tool is missing, or the model's files cannot be built from.
    """
    backend.check(plan)
    if (directory := complete_files(plan.model, spec.engine, ctx.models)) is not None:
        backend.check_model(plan, directory)


def provision(spec: Spec, ctx: Context) -> Provisioned:
    """Do everything: after this, the repository can be served.

    Raises:
        TrtBuildError: From the stage that failed; nothing half-written is left where it could be used.
    """
    started = time.monotonic()
    backend, plan = make_plan(spec, ctx)
    entry, was_hit = provide_engine(spec, plan, backend, ctx)
    info = backend.inspect(entry.path)
    with log.get().stage("repository"):
        model = served_model(spec, backend, info, entry.path, _origin(plan, entry))
        if spec.repository.repository is None:
            ctx.store.part("repositories")  # refused when it is a link
        repository = provide_repository(spec, plan, model, ctx.store.root)
    return Provisioned(
        plan=plan,
        entry=entry,
        info=info,
        repository=repository,
        served_name=served_name_of(spec),
        was_hit=was_hit,
        elapsed_s=time.monotonic() - started,
    )


def _origin(plan: BuildPlan, entry: Entry) -> Origin:
    """Return what clients may know of where a served model comes from."""
    built_at = 0
    with contextlib.suppress(ValueError, OverflowError):  # another machine may have written the manifest
        built_at = max(0, int(datetime.fromisoformat(entry.manifest.created_at).timestamp()))
    return Origin(
        model_id=plan.model.model_id, revision=plan.model.revision, engine_key=entry.digest, built_at=built_at
    )


def served_model(
    spec: Spec, backend: Backend, info: EngineInfo, engine_dir: Path, origin: Origin | None = None
) -> ServedModel:
    """Return how an engine is presented to clients."""
    return ServedModel(
        served_name=served_name_of(spec),
        engine_template=backend.template(info, engine_dir, spec.repository),
        engine_info=info,
        tokenizer_dir=engine_dir / "tokenizer",
        layout=spec.repository.layout,
        decoupled=spec.repository.decoupled,
        max_queue_size=spec.repository.max_queue_size,
        origin=origin or Origin(),
    )


def provide_engine(spec: Spec, plan: BuildPlan, backend: Backend, ctx: Context) -> tuple[Entry, bool]:
    """Return the engine for ``plan`` and whether it was there before; build it if not."""
    sink, store, verify = log.get(), ctx.store, spec.store.verify
    with sink.stage("store"):
        found = store.get(plan.key, verify=verify)
        if isinstance(found, Entry):
            sink.info("hit", f"engine {plan.key.short} is in the store, nothing to build", path=str(found.path))
            store.sweep()  # a builder killed right after it published left its checkpoint, and nobody may build again
            return found, True
        sink.info("miss", f"engine {plan.key.short}: {found.reason}")
        _say_nearest(plan, store)
        with store.lock(plan.key):
            found = store.get(plan.key, verify=verify)
            if isinstance(found, Entry):
                sink.info("hit", f"engine {plan.key.short} was built by another process meanwhile")
                return found, True
            from trtbuild.store import Shared, open_tier  # a hit needs neither, and an init container starts warm

            shared = Shared(store, open_tier(spec.store.shared_tier)) if spec.store.shared_tier else None
            if shared is not None:
                pulled = shared.pull(plan.key, make_room=lambda size: _make_room(spec, plan, ctx, {"engine": size}))
                if isinstance(pulled, Entry):
                    sink.info("hit", f"engine {plan.key.short} came from the shared tier")
                    return pulled, True
                sink.info("miss", f"shared tier: {pulled.reason}")
            entry = _build(spec, plan, backend, ctx)
            if shared is not None:
                shared.push(entry)
            return entry, False


def _make_room(spec: Spec, plan: BuildPlan, ctx: Context, needs: Mapping[str, int]) -> None:
    """Make room within the store's budgets, or refuse before a byte is downloaded.

    Raises:
        StoreError: It cannot fit; the message holds the arithmetic.
    """
    is_hub = plan.model.source == "hub"
    protect = (RepoCache(ctx.hf_cache, plan.model.model_id).directory,) if is_hub else ()
    from trtbuild.store import make_room

    make_room(
        ctx.store,
        needs,
        max_bytes=spec.store.max_bytes,
        min_free=spec.store.min_free,
        hf_cache=ctx.hf_cache,
        protect=protect,
    )


def _build_needs(spec: EngineSpec, plan: BuildPlan, ctx: Context) -> dict[str, int]:
    """Return the bytes that a build will write below the store's root, by what for."""
    needs = {"checkpoint": plan.budget.checkpoint_bytes, "engine": plan.budget.engine_bytes}
    is_inside = ctx.store.root in ctx.hf_cache.absolute().parents
    if is_inside and plan.model.source == "hub":
        missing = missing_bytes(plan.model, spec, ctx.models)
        needs["snapshot"] = plan.budget.snapshot_bytes if missing is None else missing
    return {name: size for name, size in needs.items() if size}


def _say_nearest(plan: BuildPlan, store: Store) -> None:
    """Say what differs from the engine of the same model that is most like the one that is missing, if there is one."""
    found = store.explain(plan.key)
    if found.nearest is not None and found.nearest.key.model_part == plan.key.model_part:
        seen = [str(difference) for difference in found.differences]
        more = f"; and {len(seen) - SHOWN_DIFFERENCES} more" if len(seen) > SHOWN_DIFFERENCES else ""
        shown = "; ".join(seen[:SHOWN_DIFFERENCES])
        log.get().info("nearest", f"engine {found.nearest.key.short} is another one: {shown}{more}")


def _build(spec: Spec, plan: BuildPlan, backend: Backend, ctx: Context) -> Entry:
    sink, durations = log.get(), {}
    check_build(spec, plan, backend, ctx)
    needs = _build_needs(spec.engine, plan, ctx)
    _make_room(spec, plan, ctx, needs)
    estimate_s = ctx.store.estimate(plan.key)
    if estimate_s is not None:
        sink.info("estimate", f"builds like this took about {log.format_duration(estimate_s)}", eta_s=estimate_s)
    with ctx.store.stage(plan.key) as staging:
        started = time.monotonic()
        with sink.stage("fetch"):
            staging.set_phase("fetch")
            snapshot = fetch_model(plan.model, spec.engine, ctx.models, staging.work_dir)
            durations["fetch_s"] = round(time.monotonic() - started, 3)
        with sink.stage("build"), explain_build_failure(staging, ctx.store.root, needs):
            staging.set_phase("build")
            started = time.monotonic()
            backend.build(
                plan, snapshot, staging.path, staging.work_dir, logs=staging.kept_logs, hints=ctx.store.part("timing")
            )
            fetch.copy_tokenizer(snapshot, staging.path / "tokenizer")
            template = backend.template(backend.inspect(staging.path), staging.path, spec.repository)
            durations["build_s"] = round(time.monotonic() - started, 3)
            sink.info("built", f"engine {plan.key.short} built in {log.format_duration(durations['build_s'])}")
        with sink.stage("store"):
            facts = provenance(plan, ctx.host, image=ctx.image, durations=durations)
            facts["serving"] = serving_values(template, staging.path)
            return ctx.store.publish(plan.key, staging, facts, keep_work=spec.store.keep_checkpoint)
