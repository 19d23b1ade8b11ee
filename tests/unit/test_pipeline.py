"""The order of things and what is decided between the stages, with a backend of a few lines."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.cpu_parity.checkpoints import safetensors_bytes
from tests.fakes.machines import gpu_host
from trtbuild import backends, diskspace, pipeline, registry, repository
from trtbuild.console import log
from trtbuild.errors import BuildError, HostError, RepositoryError, SpecError, StoreError
from trtbuild.fetch import Hub, RemoteFile
from trtbuild.fetch.cache import RepoCache
from trtbuild.model.config import resolve_config
from trtbuild.model.tensors import expected_tensors
from trtbuild.pipeline import Context, make_plan, provision
from trtbuild.plan import (
    Availability,
    Budget,
    BuildPlan,
    EngineInfo,
    EngineKey,
    EngineShape,
    EngineTemplate,
    ResolvedModel,
)
from trtbuild.repository import pin_to_repository, record, served_name_of
from trtbuild.spec import CpuInfo, EngineSpec, HostInfo, RepositorySpec, Spec, parse_spec
from trtbuild.store import Store
from trtbuild.store.owner import current_owner

TOKENIZER = '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
}
ENGINE_CONFIG = """
name: {{ name | pbtxt }}
backend: "python"
max_batch_size: 0
input [ { name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] } ]
parameters { key: "engine_dir" value { string_value: {{ engine_dir | pbtxt }} } }
"""


class TinyBackend:
    """A backend whose engine is one file; what it needs and how it fails can be set."""

    name = "tiny"
    reads = frozenset({"max_batch_size"})

    def __init__(self, template: Path) -> None:
        self.template_directory = template
        self.built = self.checked = 0
        self.fault: Callable[[Path], None] = lambda _: None
        self.budget = Budget(snapshot_bytes=100, checkpoint_bytes=0, engine_bytes=10, host_memory_bytes=1, shm_bytes=0)

    def availability(self, host: HostInfo) -> Availability:
        return Availability(is_available=True, reason="always")

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        fields = {"model": model.model_id, "revision": model.revision, "batch": spec.max_batch_size}
        key = EngineKey(fields=fields, model_part=model.model_id, sku_part="tiny", shape_part="tp1-pp1-float32")
        shape = EngineShape(
            dtype="float32", quantization="none", kv_cache_dtype="auto", tp_size=1, pp_size=1, max_batch_size=4,
            max_input_len=32, max_seq_len=64, max_num_tokens=64,
        )  # fmt: skip
        return BuildPlan(
            backend="tiny", model=model, shape=shape, key=key, sku="tiny", budget=self.budget, steps=("write a file",),
            arithmetic=("1 + 1 = 2",), warnings=("it is tiny",),
        )  # fmt: skip

    def check_serving(self, plan: BuildPlan, spec: RepositorySpec) -> None:
        pass

    def check_model(self, plan: BuildPlan, snapshot: Path) -> None:
        pass

    def check(self, plan: BuildPlan) -> None:
        self.checked += 1

    def build(
        self, plan: BuildPlan, snapshot: Path, engine_dir: Path, work_dir: Path, *, logs: Path, hints: Path
    ) -> None:
        self.logs = logs
        self.built += 1
        self.fault(work_dir)
        (engine_dir / "engine.bin").write_bytes(b"engine")

    def inspect(self, engine_dir: Path) -> EngineInfo:
        assert (engine_dir / "engine.bin").is_file()
        return EngineInfo(
            backend="tiny", tp_size=1, pp_size=1, max_batch_size=4, max_input_len=32, max_seq_len=64,
            max_num_tokens=64, dtype="float32", vocab_size=32,
        )  # fmt: skip

    def template(self, info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> EngineTemplate:
        return EngineTemplate(directory=str(self.template_directory), variables={"engine_dir": str(engine_dir)})


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyBackend:
    template = tmp_path / "template"
    (template / "1").mkdir(parents=True)
    (template / "config.pbtxt.j2").write_text(ENGINE_CONFIG)
    (template / "1" / "model.py").write_text("ENGINE = 1\n")
    tiny = TinyBackend(template)
    monkeypatch.setattr("trtbuild.backends.get", lambda name: tiny)
    return tiny


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    host = HostInfo(
        platform="linux/x86_64", cpu=CpuInfo(vendor="v", model="m", isa=(), cores=1), gpus=(), memory_bytes=1 << 30,
        shm_bytes=1 << 30, versions={}, tools={},
    )  # fmt: skip
    hub = Hub(endpoint="http://127.0.0.1:9", is_offline=True)
    return Context(host=host, hub=hub, store=Store(tmp_path / "store"), hf_cache=tmp_path / "hub", image="r/i:1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "Tiny Model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text(TOKENIZER)
    (directory / "README.md").write_text("not needed by a server")
    shapes = expected_tensors(resolve_config(CONFIG, "config.json")) or {}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return directory


def request(model: Path | str, **options: object) -> Spec:
    return parse_spec({"model": str(model), "min_free": "0", **options})


@pytest.mark.parametrize(
    ("name", "served"),
    [
        pytest.param("llama-3-8b", "llama-3-8b", id="alias"),
        pytest.param("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct", id="id"),
        pytest.param("/no/such/Model Ünïcode", "model-n-code", id="unicode"),
        pytest.param("/x/..", "model", id="nothing-left"),
        pytest.param("/x/'a\nb' ${c}", "a-b-c", id="hostile"),
    ],
)
def test_served_names(name: str, served: str) -> None:
    assert served_name_of(request(name)) == served
    assert served_name_of(request(name, served_name="Mine")) == "Mine"


def test_a_directory_is_served_under_its_own_name(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert served_name_of(request(model)) == "tiny-model"
    monkeypatch.chdir(model)
    assert served_name_of(request(".")) == "tiny-model"


def test_a_backend_that_does_not_work_says_why(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, name: str) -> None:
            self.name = name

        def availability(self, host: HostInfo) -> Availability:
            return Availability(is_available=self.name == "cpu" and is_cpu_there, reason=f"no {self.name} here")

    monkeypatch.setattr("trtbuild.backends.get", Absent)
    is_cpu_there = False
    with pytest.raises(HostError) as one:
        backends.choose("llmapi", ctx.host)
    assert one.value.message == "llmapi: no llmapi here"
    with pytest.raises(HostError) as every:
        backends.choose("auto", ctx.host)
    lines = every.value.message.splitlines()
    assert lines[1:] == [f"  {name}: no {name} here" for name in registry.NAMES]
    assert "trtbuild doctor" in every.value.hint
    is_cpu_there = True
    assert backends.choose("auto", ctx.host).name == "cpu"
    with_gpu = gpu_host("h100", 1)
    assert backends.choose("cpu", with_gpu).name == "cpu"
    with pytest.raises(HostError, match="this machine's GPUs") as passed_over:
        backends.choose("auto", with_gpu)
    assert "--backend cpu" in passed_over.value.hint


def test_everything_then_a_hit(ctx: Context, backend: TinyBackend, model: Path) -> None:
    first = provision(request(model), ctx)
    assert (first.was_hit, first.served_name, backend.built, backend.checked) == (False, "tiny-model", 1, 1)
    assert sorted(p.name for p in (first.entry.path / "tokenizer").iterdir()) == ["config.json", "tokenizer.json"]
    facts = first.entry.manifest.provenance
    assert (facts["image"], facts["backend"], facts["steps"]) == ("r/i:1", "tiny", ["write a file"])
    assert set(facts["durations"]) == {"fetch_s", "build_s"}  # type: ignore[arg-type]
    second = provision(request(model), ctx)
    assert (second.was_hit, backend.built, backend.checked) == (True, 1, 1)
    assert (second.entry.path, second.repository) == (first.entry.path, first.repository)
    assert first.repository == ctx.store.root / "repositories" / "tiny-model"
    assert (first.repository / "tensorrt_llm" / "config.pbtxt").is_file()
    changed = provision(request(model, max_batch_size=2), ctx)
    assert (changed.was_hit, backend.built) == (False, 2)


def test_a_plan_tells_its_warnings(ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        log.configure(log_format="json", stream=stream)
        _, made = make_plan(request(model), ctx)
        stream.seek(0)
        lines = [json.loads(line) for line in stream]
    assert [(line["level"], line["msg"]) for line in lines] == [("warning", "it is tiny")]
    assert made.model.revision.startswith("tree-")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("no such id!", "is no catalog alias, no directory and no Hugging Face id", id="no-id"),
        pytest.param("a/b/c", "no Hugging Face id", id="three-parts"),
        pytest.param("lama-3-8b", "did you mean llama-3-8b", id="near"),
    ],
)
def test_a_name_that_can_be_nothing_is_refused_without_a_network(
    ctx: Context, backend: TinyBackend, name: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make_plan(request(name), ctx)


def test_a_hit_renders_nothing(
    ctx: Context, backend: TinyBackend, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = provision(request(model), ctx)
    monkeypatch.setattr(record, "write_repository", lambda *_, **__: pytest.fail("it was written again"))
    assert provision(request(model), ctx).repository == done.repository


def _edit(root: Path) -> None:
    path = root / "tensorrt_llm" / "1" / "model.py"
    before = path.stat()
    path.write_text("ENGINE = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same length and time: only ctime tells


def _template(root: Path) -> None:
    (root.parent.parent.parent / "template" / "1" / "model.py").write_text("ENGINE = 3\n")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_edit, id="edited-in-place"),
        pytest.param(lambda root: (root / "tiny-model" / "config.pbtxt").unlink(), id="file-gone"),
        pytest.param(lambda root: (root / "tensorrt_llm" / "1" / "more.py").write_text(""), id="file-more"),
        pytest.param(lambda root: root.unlink(), id="link-gone"),
        pytest.param(_template, id="template-changed"),
        pytest.param(lambda root: root.with_name(f".{root.name}.trtbuild.json").unlink(), id="no-record"),
        pytest.param(lambda root: root.with_name(f".{root.name}.trtbuild.json").write_text("{"), id="half-a-record"),
        pytest.param(lambda root: root.with_name(f".{root.name}.trtbuild.json").write_text("[]"), id="no-mapping"),
    ],
)
def test_whatever_happened_to_a_repository_a_hit_makes_it_right(
    ctx: Context, backend: TinyBackend, model: Path, spoil: Callable[[Path], Any]
) -> None:
    root = provision(request(model), ctx).repository
    spoil(root)
    assert provision(request(model), ctx).repository == root
    wanted = (backend.template_directory / "1" / "model.py").read_text()
    assert (root / "tensorrt_llm" / "1" / "model.py").read_text() == wanted
    assert (root / "tiny-model" / "config.pbtxt").is_file()
    assert not (root / "tensorrt_llm" / "1" / "more.py").exists()


@pytest.mark.parametrize(
    "options", [{"max_queue_size": 7}, {"layout": "full"}, {"max_batch_size": 2}], ids=lambda o: next(iter(o))
)
def test_another_request_is_another_repository(
    ctx: Context, backend: TinyBackend, model: Path, options: dict[str, object]
) -> None:
    root = provision(request(model), ctx).repository
    before = root.resolve()
    if "layout" in options:  # the tiny engine has too few tensors for it; that it is rendered is enough
        with pytest.raises(RepositoryError):
            provision(request(model, **options), ctx)
        return
    assert provision(request(model, **options), ctx).repository.resolve() != before
    assert provision(request(model), ctx).repository.resolve() == before


def test_others_are_kept_only_when_asked(ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for name in ("one", "two"):
        provision(request(model, served_name=name, repository=shared, add_to_repository=True), ctx)
    assert {"one", "two"} <= {p.name for p in shared.iterdir()}
    provision(request(model, served_name="two", repository=shared, add_to_repository=True), ctx)
    assert {"one", "two"} <= {p.name for p in shared.iterdir()}
    provision(request(model, served_name="two", repository=shared), ctx)
    assert "one" not in {p.name for p in shared.iterdir()}


def _plan_at(ctx: Context, backend: TinyBackend, model: Path, commit: str) -> BuildPlan:
    _, made = make_plan(request(model), ctx)
    return replace(made, model=replace(made.model, revision=commit))


def test_a_server_takes_the_commit_that_init_built(
    ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path
) -> None:
    spec = request("acme/tiny", repository=tmp_path / "models")
    assert pin_to_repository(spec, ctx.store.root) == spec, "nothing was built yet"
    record.remember_commit(tmp_path / "models", spec.engine, _plan_at(ctx, backend, model, COMMIT))
    assert pin_to_repository(spec, ctx.store.root).engine.revision == COMMIT
    for other in ({"revision": "v2"}, {"max_batch_size": 2}, {"model": "acme/other"}):
        changed = request(**{"model": "acme/tiny", "repository": tmp_path / "models", **other})  # type: ignore[arg-type]
        assert pin_to_repository(changed, ctx.store.root) == changed, "another request is resolved anew"
    for damage in ("{", "[]", "7", json.dumps({"spec": "x"}), "[" * 5000, " " * (1 << 20)):
        (tmp_path / ".models.trtbuild.json").write_text(damage)
        assert pin_to_repository(spec, ctx.store.root) == spec


def test_a_directory_is_never_pinned(ctx: Context, backend: TinyBackend, model: Path) -> None:
    spec = request(model)
    provision(spec, ctx)
    assert pin_to_repository(spec, ctx.store.root) == spec


def test_a_record_that_cannot_be_written_is_named(
    ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path
) -> None:
    plan = _plan_at(ctx, backend, model, COMMIT)
    (tmp_path / ".models.trtbuild.json").mkdir()
    with pytest.raises(RepositoryError, match=r"cannot write .*\.models\.trtbuild\.json: Is a directory"):
        record.remember_commit(tmp_path / "models", request(model).engine, plan)


def test_a_record_is_written_through_no_link(ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path) -> None:
    plan = _plan_at(ctx, backend, model, COMMIT)
    (tmp_path / "precious").write_text("not to be cut")
    (tmp_path / ".models.trtbuild.json").symlink_to(tmp_path / "precious")
    with pytest.raises(RepositoryError, match=r"cannot write .*\.models\.trtbuild\.json: .*symbolic link"):
        record.remember_commit(tmp_path / "models", request(model).engine, plan)
    assert (tmp_path / "precious").read_text() == "not to be cut"


def test_files_that_another_writer_removes_meanwhile_are_no_fault(tmp_path: Path) -> None:
    is_over = threading.Event()
    (tmp_path / "kept").write_text("x")

    def come_and_go() -> None:
        while not is_over.is_set():
            for name in "abcdefgh":
                (tmp_path / name).write_text("x")
            for name in "abcdefgh":
                (tmp_path / name).unlink()

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        lines = [record._file_times(tmp_path) for _ in range(1000)]
    finally:
        is_over.set()
        writer.join()
    assert all(any(line.startswith(f"{tmp_path}/kept 1 ") for line in found) for found in lines)
    assert max(map(len, lines)) > 1, "the writer never ran"


def test_a_hit_sweeps_what_a_killed_builder_left(ctx: Context, backend: TinyBackend, model: Path) -> None:
    """Nobody may ever build again on a machine that has its engine."""
    provision(request(model), ctx)
    gone = current_owner("pod", now=0.0).__dict__ | {"pid": 2**22 + 1}
    left = ctx.store.layout.staging / "dead.1"
    (left / "work").mkdir(parents=True)
    (left / "work" / "checkpoint").write_bytes(b"x" * 1000)
    left.with_name("dead.1.owner").write_text(json.dumps(gone))
    assert provision(request(model), ctx).was_hit
    assert list(ctx.store.layout.staging.iterdir()) == []


def test_room_is_asked_for_before_anything_is_built(ctx: Context, backend: TinyBackend, model: Path) -> None:
    backend.budget = replace(backend.budget, engine_bytes=1 << 60, checkpoint_bytes=1 << 50)
    with pytest.raises(StoreError) as refused:
        provision(request(model), ctx)
    assert "engine 1048576.0 TiB" in refused.value.message
    assert "checkpoint 1024.0 TiB" in refused.value.message
    assert backend.built == 0
    backend.budget = replace(backend.budget, engine_bytes=10, checkpoint_bytes=0)
    with pytest.raises(StoreError, match="max_bytes"):
        provision(request(model, max_bytes="5"), ctx)
    assert provision(request(model), ctx).was_hit is False


def test_a_known_file_list_is_no_downloaded_snapshot(ctx: Context, backend: TinyBackend, model: Path) -> None:
    """With the Hugging Face cache inside the store, the snapshot counts until it is really there."""
    ctx = replace(ctx, hf_cache=ctx.store.root / "hub")
    weights, names = b"w" * 1000, {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 1000}
    source = replace(_plan_at(ctx, backend, model, COMMIT).model, source="hub", model_id="acme/tiny", directory=None)
    plan = replace(_plan_at(ctx, backend, model, COMMIT), model=replace(source, revision=COMMIT))
    spec = request("acme/tiny").engine
    assert pipeline._build_needs(spec, plan, ctx)["snapshot"] == 100, "the plan's figure while nothing is known"
    repo = RepoCache(ctx.hf_cache, "acme/tiny")
    files = [
        RemoteFile(path=name, size=len(data), oid=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
        for name, data in names.items()
    ]
    repo.write_tree(COMMIT, files)
    assert pipeline._build_needs(spec, plan, ctx)["snapshot"] == 1000 + 2, "both small files are one blob"
    repo.create()
    for file in files:
        repo.blob(file).write_bytes(names[file.path])
        repo.link(COMMIT, file)
    assert "snapshot" not in pipeline._build_needs(spec, plan, ctx)
    repo.pointer(COMMIT, "model.safetensors").resolve().unlink()
    assert pipeline._build_needs(spec, plan, ctx)["snapshot"] == len(weights)
    outside = replace(ctx, hf_cache=ctx.store.root.parent / "elsewhere")
    assert "snapshot" not in pipeline._build_needs(spec, plan, outside), "that is not the store's room"


def _no_room(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_is_the_stores_fault_and_not_a_bug(
    ctx: Context, backend: TinyBackend, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.fault = _no_room
    with pytest.raises(StoreError, match=r"cannot be written to .*: No space left on device$"):
        provision(request(model), ctx)
    monkeypatch.setattr(diskspace, "shortage", lambda _, needed_bytes: "the disk of X is full: 0 B are free")
    with pytest.raises(StoreError, match=r"; the disk of X is full: 0 B are free, this build writes engine 10 B"):
        provision(request(model), ctx)
    backend.fault = lambda _: (_ for _ in ()).throw(BuildError("the compiler gave up", hint="look"))
    with pytest.raises(
        BuildError, match=r"the compiler gave up; the disk of X is full: 0 B are free, this build writes engine 10 B"
    ):
        provision(request(model), ctx)
    assert not list(ctx.store.root.glob(".staging/*/*")), "nothing half-built stays"
    backend.fault = lambda _: None
    assert provision(request(model), ctx).was_hit is False


def test_an_error_names_the_logs_that_are_kept(ctx: Context, backend: TinyBackend, model: Path) -> None:
    def fail(work_dir: Path) -> None:
        (work_dir / "build.log").write_text("why\n")
        raise BuildError(f"it failed, see {backend.logs}/build.log", hint=f"read {backend.logs}/build.log")

    backend.fault = fail
    with pytest.raises(BuildError) as failed:
        provision(request(model), ctx)
    kept = Path(failed.value.hint.removeprefix("read "))
    assert kept.read_text() == "why\n"
    assert str(kept) in str(failed.value)


def test_the_state_of_a_repository_is_that_of_its_files(
    ctx: Context, backend: TinyBackend, model: Path, tmp_path: Path
) -> None:
    done = provision(request(model), ctx)
    served = repository.ServedModel(
        served_name="x", engine_template=backend.template(done.info, done.entry.path, RepositorySpec()),
        engine_info=done.info, tokenizer_dir=done.entry.path / "tokenizer",
    )  # fmt: skip
    before = record.repository_state(done.repository, served, keep_others=False)
    (done.repository / "tensorrt_llm" / "1" / "__pycache__").mkdir()
    (done.repository / "tensorrt_llm" / "1" / "__pycache__" / "model.pyc").write_text("what Python leaves behind")
    assert record.repository_state(done.repository, served, keep_others=False) == before
    assert record.repository_state(done.repository, served, keep_others=True) != before
    assert record.repository_state(tmp_path / "none", served, keep_others=False) != before
