"""The order of things: resolve, plan, look in the store, fetch, build, publish, write the repository.

The only file that knows the order. Every stage takes and returns frozen values; this file passes them on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trtbuild import __version__, backends, catalog, diskspace, fetch, registry, untrusted
from trtbuild.catalog import ModelInfo
from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.errors import HostError, SpecError, StoreError, TrtBuildError
from trtbuild.fetch import Hub
from trtbuild.fetch.cache import RepoCache
from trtbuild.model.checkpoint import Weights, resolve_weights
from trtbuild.model.files import choose_weights
from trtbuild.plan import Backend, BuildPlan, EngineInfo, EngineTemplate, ResolvedModel, canonical_json, path_part
from trtbuild.repository import ServedModel, unwritable, write_repository
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, Spec
from trtbuild.store import Entry, Staging, Store

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files of a snapshot that the front model needs; they are kept beside the engine, in ``tokenizer/``."""


SHOWN_DIFFERENCES = 8
"""Differences from the nearest engine that a miss names; ``trtbuild explain`` names all."""

RECORD_LIMIT_BYTES = 1 << 16
"""Largest record beside a repository that is read; it holds three hashes and a commit."""


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


def choose_backend(name: str, host: HostInfo) -> Backend:
    """Return the backend called ``name``, or for ``auto`` the first that works on ``host``.

    A machine with GPUs and TensorRT-LLM is not served from its processor unless that is asked for.

    Raises:
        HostError: It does not work here; the message says why for each one tried.
    """
    tried: list[str] = []
    has_gpu_stack = bool(host.gpus) and any(b.needs_gpu and b.package in host.versions for b in registry.BACKENDS)
    for candidate in backends.names() if name == "auto" else (name,):
        backend = backends.get(candidate)
        availability = backend.availability(host)
        is_passed_over = name == "auto" and has_gpu_stack and not registry.find_backend(candidate).needs_gpu
        if availability.is_available and not is_passed_over:
            for reason in tried if has_gpu_stack else ():
                log.get().warning("backend", f"{candidate} is used: {reason}")
            return backend
        if not availability.is_available:
            tried.append(f"{candidate}: {availability.reason}")
    if name != "auto":
        raise HostError(tried[0], hint="trtbuild doctor shows what every backend can do here")
    if has_gpu_stack:
        raise HostError(
            "no engine backend works on this machine's GPUs\n  " + "\n  ".join(tried),
            hint="use another image, or pass --backend cpu to compute on the processor",
        )
    raise HostError(
        "no engine backend works on this machine\n  " + "\n  ".join(tried),
        hint="pip install 'trtbuild[cpu]' brings an engine that needs no GPU; trtbuild doctor shows every backend",
    )


def resolve_model(spec: EngineSpec, ctx: Context) -> ResolvedModel:
    """Pin the model to exact bytes: a commit, or the tree hash of a directory.

    Raises:
        SpecError: The directory holds no model.
        FetchError: The hub does not know it, or cannot be reached.
    """
    directory = Path(spec.model).expanduser()
    known = catalog.find_model(spec.model)
    if directory.is_dir() and (known is None or "/" in spec.model):
        return _resolve_directory(directory, ctx.store.part("hashes"))
    _check_hub_id(spec.model, known)
    model_id = known.model_id if known else spec.model
    resolved = fetch.resolve(model_id, spec.revision, hub=ctx.hub, cache=ctx.hf_cache)
    info = known or catalog.find_model(model_id)
    if info is None:
        config = fetch.read_config(resolved, hub=ctx.hub, cache=ctx.hf_cache)
        listed = RepoCache(ctx.hf_cache, model_id).read_tree(resolved.commit) or ()
        info = _with_listing(ModelInfo.from_hf_config(model_id, config), {file.path: file.size for file in listed})
    alias = spec.model if known and spec.model != model_id else None
    return ResolvedModel(model_id=model_id, revision=resolved.commit, source="hub", info=info, alias=alias)


def make_plan(spec: EngineSpec, ctx: Context) -> tuple[Backend, BuildPlan]:
    """Resolve the model and let the backend plan.

    Raises:
        TrtBuildError: Whatever makes the request impossible, before a weight is downloaded.
    """
    with log.get().stage("plan"):
        model = resolve_model(spec, ctx)
        _check_model_files(model, spec, ctx)
        spec = _pin_calibration(spec, ctx)
        backend = choose_backend(spec.backend, ctx.host)
        plan = backends.make_plan(backend, spec, model, ctx.host)
        for warning in plan.warnings:
            log.get().warning("plan_warning", warning)
        log.get().bind(key=plan.key.short)
    return backend, plan


def _check_model_files(model: ResolvedModel, spec: EngineSpec, ctx: Context) -> None:
    """Refuse what a build would refuse as early as it can be known: from a directory, or by the hub's listing.

    Raises:
        FetchError: The weights contradict themselves or config.json, or there is no tokenizer that the server can read.
    """
    if model.directory is not None:
        fetch.local_snapshot(model.directory, allow_pickle=spec.allow_pickle)
        fetch.check_tokenizer(model.directory)
        _check_weights(model.directory, spec)
        _warn_of_template(model.directory)
        return
    files = RepoCache(ctx.hf_cache, model.model_id).read_tree(model.revision)
    if files is not None:
        names = [file.path for file in files]
        fetch.check_tokenizer_names(model.model_id, names)
        choose_weights(names, model.model_id, allow_pickle=spec.allow_pickle)


def _check_weights(directory: Path, spec: EngineSpec) -> Weights:
    """Return the weights as transformers would load them, after saying what is left out of them."""
    weights = resolve_weights(directory, fetch.load_config(directory), allow_pickle=spec.allow_pickle)
    for warning in weights.warnings():
        log.get().warning("weights", warning)
    return weights


def _pin_calibration(spec: EngineSpec, ctx: Context) -> EngineSpec:
    """Pin local calibration data by its contents: what it says ends up in the engine's scales."""
    directory = Path(spec.calibration).expanduser() if spec.calibration else None
    if directory is None or not directory.is_dir():
        return spec
    pin = fetch.hash_directory(directory, memo=ctx.store.part("hashes"))
    return replace(spec, calibration=f"{directory.resolve()}@{pin}")


def provision(spec: Spec, ctx: Context) -> Provisioned:
    """Do everything: after this, the repository can be served.

    Raises:
        TrtBuildError: From the stage that failed; nothing half-written is left where it could be used.
    """
    started = time.monotonic()
    backend, plan = make_plan(spec.engine, ctx)
    entry, was_hit = provide_engine(spec, plan, backend, ctx)
    info = backend.inspect(entry.path)
    with log.get().stage("repository"):
        model = ServedModel(
            served_name=served_name_of(spec),
            engine_template=backend.template(info, entry.path, spec.repository),
            engine_info=info,
            tokenizer_dir=entry.path / "tokenizer",
            layout=spec.repository.layout,
            decoupled=spec.repository.decoupled,
            max_queue_size=spec.repository.max_queue_size,
        )
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
        missing = _missing_bytes(spec, plan, ctx)
        needs["snapshot"] = plan.budget.snapshot_bytes if missing is None else missing
    return {name: size for name, size in needs.items() if size}


def _missing_bytes(spec: EngineSpec, plan: BuildPlan, ctx: Context) -> int | None:
    """Return the bytes of the snapshot that are not on the disk yet, or None when its files are not known yet."""
    found = fetch.find_cached(plan.model.model_id, plan.model.revision, ctx.hf_cache)
    if found is None:
        return None
    return fetch.missing_bytes(
        found, cache=ctx.hf_cache, allow_pickle=spec.allow_pickle, allow_code=spec.trust_remote_code
    )


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
    backend.check(plan, spec.repository)
    needs = _build_needs(spec.engine, plan, ctx)
    _make_room(spec, plan, ctx, needs)
    estimate_s = ctx.store.estimate(plan.key)
    if estimate_s is not None:
        sink.info("estimate", f"builds like this took about {log.format_duration(estimate_s)}", eta_s=estimate_s)
    with ctx.store.stage(plan.key) as staging:
        started = time.monotonic()
        with sink.stage("fetch"):
            staging.set_phase("fetch")
            snapshot = _fetch(spec.engine, plan, ctx)
            if plan.model.directory is None:  # of a directory it was said with the plan
                _check_weights(snapshot, spec.engine)
                _warn_of_template(snapshot)
            snapshot = _without_other_weights(snapshot, spec.engine, staging.work_dir)
            durations["fetch_s"] = round(time.monotonic() - started, 3)
        with sink.stage("build"), _told_well(needs, staging, ctx), _timing_cache(plan, backend, staging, ctx):
            staging.set_phase("build")
            started = time.monotonic()
            backend.build(plan, snapshot, staging.path, staging.work_dir)
            copy_tokenizer(snapshot, staging.path / "tokenizer")
            template = backend.template(backend.inspect(staging.path), staging.path, spec.repository)
            durations["build_s"] = round(time.monotonic() - started, 3)
            sink.info("built", f"engine {plan.key.short} built in {log.format_duration(durations['build_s'])}")
        with sink.stage("store"):
            facts = provenance(plan, ctx, durations) | {"serving": serving_values(template, staging.path)}
            return ctx.store.publish(plan.key, staging, facts, keep_work=spec.store.keep_checkpoint)


@contextlib.contextmanager
def _told_well(needs: Mapping[str, int], staging: Staging, ctx: Context) -> Iterator[None]:
    """Let a failed build name the place where its logs are kept, not the one that is swept, and a full disk.

    Raises:
        StoreError: The disk refused what this file wrote.
    """
    try:
        yield
    except (OSError, TrtBuildError) as error:
        lack = diskspace.shortage(staging.work_dir, needed_bytes=sum(needs.values()))  # compilers rarely say so
        writes = " + ".join(f"{what} {format_bytes(size)}" for what, size in needs.items())
        figures = f"; {lack}, this build writes {writes}" if lack else ""
        if isinstance(error, OSError):
            raise StoreError(
                f"the engine cannot be written to {ctx.store.root}: {error.strerror or error}{figures}",
                hint="make room (trtbuild store gc), or use another --store",
            ) from error
        swept, kept = str(staging.work_dir), str(ctx.store.layout.logs / staging.name)
        error.message, error.hint = error.message.replace(swept, kept) + figures, error.hint.replace(swept, kept)
        error.args = (error.message,)
        raise


@contextlib.contextmanager
def _timing_cache(plan: BuildPlan, backend: Backend, staging: Staging, ctx: Context) -> Iterator[None]:
    """Lend a TensorRT build the kernel timings of earlier ones on this SKU and TensorRT version, and keep its own.

    A hint only: a lost or damaged cache costs time, never correctness, so nothing here fails a build.
    """
    version = ctx.host.versions.get("tensorrt")
    if backend.timing_cache is None or version is None:
        yield
        return
    kept = ctx.store.part("timing") / path_part(plan.sku) / f"{path_part(version)}.cache"
    lent = staging.work_dir / backend.timing_cache
    with contextlib.suppress(OSError):
        shutil.copyfile(kept, lent)
    yield
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}.{staging.name}")
        shutil.copyfile(lent, draft)
        draft.rename(kept)


def _fetch(spec: EngineSpec, plan: BuildPlan, ctx: Context) -> Path:
    model = plan.model
    if model.directory is not None:
        directory = fetch.local_snapshot(model.directory, allow_pickle=spec.allow_pickle)
        fetch.check_tokenizer(directory)
        return directory
    resolved = fetch.resolve(model.model_id, model.revision, hub=ctx.hub, cache=ctx.hf_cache)
    return fetch.snapshot(
        resolved, cache=ctx.hf_cache, hub=ctx.hub, allow_pickle=spec.allow_pickle, allow_code=spec.trust_remote_code,
        check=fetch.check_tokenizer,
    )  # fmt: skip


def _without_other_weights(snapshot: Path, spec: EngineSpec, work_dir: Path) -> Path:
    """Return a directory without the weights that transformers would not load: TensorRT-LLM's loaders read them all.

    Source: TensorRT-LLM 1.2, models/model_weights_loader.py and _torch/models/checkpoints/hf/weight_loader.py, which
    take every ``*.safetensors`` of a directory.
    """
    weights = resolve_weights(snapshot, fetch.load_config(snapshot), allow_pickle=spec.allow_pickle)
    if not weights.left_out_files:
        return snapshot
    view = work_dir / "model"
    view.mkdir()
    for path in snapshot.iterdir():
        if path.name in weights.files:
            (view / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.suffix not in {".safetensors", ".bin"}:
            shutil.copyfile(path, view / path.name)
    return view


def _warn_of_template(directory: Path) -> None:
    """Say before the build what the server would say after it: a chat template that does not compile."""
    if fault := fetch.template_fault(directory):
        log.get().warning("chat_template", f"{fault}; the server will refuse messages and take text_input only")


def copy_tokenizer(snapshot: Path, target: Path) -> None:
    """Copy what the front model needs from a snapshot, and write its tokenizer whole.

    Links are followed, names are a fixed list. The key needs no field for this: the server puts the tokenizer together
    in the same way from the files of an older entry, so both are served alike.
    """
    target.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        source = snapshot / name
        if source.is_file():
            shutil.copyfile(source, target / name)
    fetch.write_whole_tokenizer(snapshot, target)


def provenance(plan: BuildPlan, ctx: Context, durations: Mapping[str, float]) -> dict[str, JsonValue]:
    """Return what the manifest tells about a build besides its key; no secrets, no environment."""
    return {
        "model_id": plan.model.model_id,
        "revision": plan.model.revision,
        "alias": plan.model.alias,
        "sku": plan.sku,
        "backend": plan.backend,
        "dtype": plan.shape.dtype,
        "quantization": plan.shape.quantization,
        "tp_size": plan.shape.tp_size,
        "pp_size": plan.shape.pp_size,
        "versions": dict(ctx.host.versions),
        "gpus": [gpu.product for gpu in ctx.host.gpus],
        "cpu": ctx.host.cpu.model,
        "image": ctx.image,
        "trtbuild_version": __version__,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "durations": dict(durations),
        "steps": list(plan.steps),
    }


def serving_values(template: EngineTemplate, engine_dir: Path) -> dict[str, JsonValue]:
    """Return the effective parameters of the engine model when its engine was built, without those that are paths."""
    found = template.variables.get("parameters")
    pairs = [pair for pair in found if isinstance(pair, list)] if isinstance(found, list) else []
    return {str(name): value for name, value in pairs if not str(value).startswith(str(engine_dir))}


def served_name_of(spec: Spec) -> str:
    """Return the name of the front model: as asked, else the alias, the directory's name or the last part of the id."""
    if spec.repository.served_name:
        return spec.repository.served_name
    directory = Path(spec.engine.model).expanduser()
    last = directory.resolve().name if directory.is_dir() else spec.engine.model.rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-").lower() or "model"


def repository_path(spec: Spec, store_root: Path) -> Path:
    """Return where the repository is written."""
    return spec.repository.repository or store_root / "repositories" / served_name_of(spec)


def provide_repository(spec: Spec, plan: BuildPlan, model: ServedModel, store_root: Path) -> Path:
    """Write the repository that serves ``model``, unless it is there as it would be written; return its path."""
    path, keep_others = repository_path(spec, store_root), spec.repository.add_to_repository
    known = _read_record(path).get("state")
    if known is None or known != repository_state(path, model, keep_others=keep_others):
        write_repository(path, [model], keep_others=keep_others)
    remember_commit(path, spec.engine, plan, repository_state(path, model, keep_others=keep_others))
    log.get().info("repository", f"model repository {path} serves {model.served_name!r}")
    return path


def repository_state(path: Path, model: ServedModel, *, keep_others: bool) -> str:
    """Return a digest of all that decides what a repository holds, and of what is there now.

    Rendering and checking cost as much as everything else of a hit together, so they are left out when this is what it
    was after the last writing: the same request, the same templates and code, and a current version whose every file
    has the size and times it was written with. Anything else, also an edit by hand, is another state.
    """
    from trtbuild import repository

    served = {**asdict(model), "tokenizer_dir": str(model.tokenizer_dir), "keep_others": keep_others}
    served["tokenizer"] = [name for name in TOKENIZER_FILES if (model.tokenizer_dir / name).is_file()]
    digest = hashlib.sha256(canonical_json(served).encode())
    template = repository.TEMPLATES / model.engine_template.directory
    for part in (Path(repository.__file__).parent, repository.TEMPLATES, template, path):
        digest.update("\n".join(_file_times(part.resolve())).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_times(top: Path) -> list[str]:
    """Return a line per file of a tree with what a write to it changes; none for what Python leaves behind."""
    if not top.is_dir():
        paths = [str(top)] if top.exists() else []
    else:
        paths = [
            f"{directory}/{name}"
            for directory, _, names in os.walk(top)
            for name in names
            if "__pycache__" not in directory
        ]
    lines = []
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # another pod's writer removes old versions meanwhile
            stat = os.lstat(path)
            lines.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return lines


def pin_to_repository(spec: Spec, store_root: Path) -> Spec:
    """Return ``spec`` with the revision pinned to the commit that its repository was written from, if it was.

    A pod's init container and its server must not resolve a moving branch twice: the server takes what init built.
    """
    document = _read_record(repository_path(spec, store_root))
    commit = str(document.get("revision"))
    if document.get("spec") != _spec_digest(spec.engine) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        return spec
    if commit != spec.engine.revision:
        log.get().info(
            "pinned", f"revision {spec.engine.revision} is {commit[:12]}, from which the repository was made"
        )
    return replace(spec, engine=replace(spec.engine, revision=commit))


def remember_commit(repository: Path, spec: EngineSpec, plan: BuildPlan, state: str | None = None) -> None:
    """Write beside the repository which commit and request it was made from.

    See :func:`pin_to_repository` and :func:`repository_state`. A record that was cut short by a crash is no record,
    which costs a question to the hub and a rendering, so it is written in place and leaves nothing behind.
    """
    record = _record_path(repository)
    known = {"spec": _spec_digest(spec), "revision": plan.model.revision, "key": plan.key.digest, "state": state}
    if _read_record(repository) == known:
        return
    text = (json.dumps(known) + "\n").encode()
    try:
        file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(file, "wb") as stream:  # noqa: PTH123 - a descriptor, opened through no link of somebody else's
            stream.write(text)
    except OSError as error:
        raise unwritable(str(record), record.parent, error, needed_bytes=len(text)) from error


def _read_record(repository: Path) -> dict[str, JsonValue]:
    """Return what :func:`remember_commit` wrote, or nothing."""
    try:
        document = untrusted.read(_record_path(repository), RECORD_LIMIT_BYTES)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _record_path(repository: Path) -> Path:
    return repository.with_name(f".{repository.name}.trtbuild.json")


def _spec_digest(spec: EngineSpec) -> str:
    return hashlib.sha256(canonical_json(asdict(spec)).encode()).hexdigest()


def _resolve_directory(directory: Path, memo: Path) -> ResolvedModel:
    directory = directory.resolve()
    if not (directory / "config.json").is_file():
        raise SpecError(
            f"{directory} holds no config.json, so it is no Hugging Face model",
            hint="name a directory as huggingface_hub or save_pretrained writes it",
        )
    model_id = f"local/{directory.name}"
    sizes = {path.name: path.stat().st_size for path in directory.glob("*.safetensors") if path.is_file()}
    return ResolvedModel(
        model_id=model_id,
        revision=fetch.hash_directory(directory, memo=memo),
        source="directory",
        directory=directory,
        info=_with_listing(ModelInfo.from_hf_config(model_id, fetch.load_config(directory)), sizes),
    )


def _with_listing(info: ModelInfo, sizes: Mapping[str, int]) -> ModelInfo:
    """Return a model with the bytes of its weight files where config.json does not tell how many there are."""
    return info if info.are_sizes_known else replace(info, listed_bytes=fetch.weight_bytes(sizes))


def _check_hub_id(name: str, known: ModelInfo | None) -> None:
    """Refuse what can be no Hugging Face id before any network.

    Source: huggingface_hub ``validate_repo_id``: ``name`` or ``namespace/name`` of ``[A-Za-z0-9._-]``, at most 96.
    """
    if known is None and not re.fullmatch(r"(?:[\w.-]+/)?[\w-][\w.-]{0,95}", name):
        raise SpecError(
            f"{name!r} is no catalog alias, no directory and no Hugging Face id",
            hint="trtbuild models lists the catalog",
        )
    if known is None and "/" not in name:
        near = ", ".join(catalog.closest_models(name)[:3])
        raise SpecError(
            f"{name!r} is no catalog alias and no directory" + (f"; did you mean {near}?" if near else ""),
            hint="a Hugging Face id has the form organisation/name; trtbuild models lists the catalog",
        )
