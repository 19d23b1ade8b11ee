"""The llmapi backend: what it refuses, what it keeps, and keys that any GPU shares."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.fakes.machines import gpu_host, resolved
from trtbuild.backends.llmapi.backend import BACKEND
from trtbuild.errors import BuildError, ConvertError, HostError, SpecError
from trtbuild.plan import BuildPlan
from trtbuild.spec import EngineSpec, HostInfo, RepositorySpec


def newer_host(sku: str = "h100", gpus: int = 8, version: str = "1.3.0") -> HostInfo:
    """A host whose TensorRT-LLM has no engines any more."""
    host = gpu_host(sku, gpus)
    return dataclasses.replace(host, versions={"tensorrt_llm": version}, tools={})


def make(alias: str = "llama-3-8b", host: HostInfo | None = None, **options: object) -> BuildPlan:
    return BACKEND.plan(EngineSpec(model=alias, **options), resolved(alias), host or newer_host())  # type: ignore[arg-type]


def test_it_works_where_engines_are_gone() -> None:
    assert BACKEND.availability(newer_host()).is_available
    assert BACKEND.availability(gpu_host(version="1.0.0")).is_available
    old = BACKEND.availability(gpu_host(version="0.21.0"))
    assert not old.is_available
    assert "needs 1.0.0 or later" in old.reason


def test_one_entry_serves_every_gpu() -> None:
    on_h100, on_l40s = make(), make(host=newer_host("l40s"))
    assert on_h100.key == on_l40s.key
    assert (on_h100.sku, on_l40s.sku) == ("NVIDIA-H100-80GB-HBM3", "NVIDIA-L40S")
    assert on_h100.key.relative_path.parts[1] == "any-gpu"
    assert make(tp_size=2).key != on_h100.key
    assert make(max_seq_len=4096).key != on_h100.key


def test_the_llms_arguments() -> None:
    plan = make("llama-3-70b-instruct", tp_size=4, kv_cache_dtype="fp8")
    assert plan.shape.options["llm"] == {
        "model": "model",
        "backend": "pytorch",
        "dtype": "bfloat16",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1,
        "max_batch_size": 128,
        "max_input_len": 8191,
        "max_seq_len": 8192,
        "max_num_tokens": 8192,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "kv_cache_config": {"dtype": "fp8"},
    }


@pytest.mark.parametrize(
    ("host", "options", "kind", "said", "hint"),
    [
        (newer_host(), {"quantization": "fp8"}, SpecError, "does not quantize", "--backend tensorrt_llm"),
        (newer_host(), {"build_option": {"gemm_plugin": "auto"}}, SpecError, "builds no engine", "drop them"),
        (newer_host(), {"kv_cache_dtype": "int8"}, SpecError, "auto and fp8", "fp8"),
        (newer_host(), {"tp_size": 3}, SpecError, "32 attention heads", "--tp 2"),
        (newer_host("a100"), {"kv_cache_dtype": "fp8"}, HostError, "no attention kernels", "--kv-cache-dtype int8"),
        (newer_host("v100"), {}, HostError, "does not support volta", "8.0 or later"),
        (newer_host(gpus=1), {"tp_size": 2}, HostError, "2 GPUs are needed, 1 are visible", "--tp"),
        (newer_host("l4"), {"model": "llama-3-70b"}, HostError, "does not fit NVIDIA-L4", "--tp"),
        (gpu_host(version="0.20.0"), {}, HostError, "needs 1.0.0 or later", "--backend tensorrt_llm"),
    ],
    ids=["quantization", "build-option", "int8-cache", "tp", "no-fp8", "volta", "gpus", "too-small", "old"],
)
def test_refusals(host: HostInfo, options: dict[str, object], kind: type[Exception], said: str, hint: str) -> None:
    rest = {name: value for name, value in options.items() if name != "model"}
    with pytest.raises(kind) as caught:
        make(str(options.get("model", "llama-3-8b")), host, **rest)
    assert said in caught.value.message  # type: ignore[attr-defined]
    assert hint in caught.value.hint  # type: ignore[attr-defined]


def write_snapshot(path: Path) -> Path:
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "pytorch_model.bin", "modeling.py"):
        (path / name).write_text(name)
    return path


@pytest.mark.parametrize(("is_trusted", "code"), [(False, set()), (True, {"modeling.py"})], ids=["safe", "trusted"])
def test_the_models_files_are_kept(is_trusted: bool, code: set[str], tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    snapshot = write_snapshot(tmp_path / "snapshot")
    BACKEND.build(make(tp_size=2, trust_remote_code=is_trusted), snapshot, engine, tmp_path)
    kept = {path.name for path in (engine / "model").iterdir()}
    assert kept == {"config.json", "model.safetensors", "tokenizer.json"} | code
    assert (engine / "model" / "model.safetensors").samefile(snapshot / "model.safetensors")
    assert json.loads((engine / "model.yaml").read_text())["tensor_parallel_size"] == 2
    info = BACKEND.inspect(engine)
    assert (info.world_size, info.max_batch_size, info.vocab_size) == (1, 128, 128256)
    (engine / "model" / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"model/tokenizer\.json is missing"):
        BACKEND.inspect(engine)


def test_pickles_alone_are_refused(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    snapshot = write_snapshot(tmp_path / "snapshot")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ConvertError, match="no safetensors"):
        BACKEND.build(make(), snapshot, engine, tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 99}'], ids=["cut", "empty", "schema"])
def test_damaged_entries_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BuildError, match=r"config\.json"):
        BACKEND.inspect(tmp_path)


def test_template_parameters(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    BACKEND.build(make(), write_snapshot(tmp_path / "snapshot"), engine, tmp_path)
    info = BACKEND.inspect(engine)
    spec = RepositorySpec(max_queue_size=7, template_parameter={"cancellation_check_period_ms": "50"})
    variables = BACKEND.template(info, engine, spec).variables
    parameters = dict(variables["parameters"])  # type: ignore[arg-type]
    assert (parameters["max_queue_size"], parameters["cancellation_check_period_ms"]) == ("7", "50")
    with pytest.raises(SpecError, match="did you mean 'cancellation_check_period_ms'"):
        BACKEND.template(info, engine, RepositorySpec(template_parameter={"cancellation_check_period": "5"}))


def test_pickled_weights_are_refused_before_the_download() -> None:
    with pytest.raises(SpecError, match="only pickled weights on its main branch"):
        make("opt-125m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_type": "ntk"}, "by 'ntk'"),
        ({"config": {"rope_parameters": {"rope_theta": 500000.0}}}, "rope_theta in rope_parameters only"),
        ({"rope_type": "yarn"}, None),
    ],
    ids=["unknown", "where only transformers 5 looks", "known"],
)
def test_positions_that_may_be_computed_otherwise_are_told(changes: dict[str, object], said: str | None) -> None:
    model = resolved("llama-3-8b")
    model = dataclasses.replace(model, info=dataclasses.replace(model.info, **changes))  # type: ignore[arg-type]
    warnings = BACKEND.plan(EngineSpec(model="x"), model, newer_host()).warnings
    assert sum("rope" in text or "rotary" in text for text in warnings) == (said is not None)
    assert any(said is None or said in text for text in (*warnings, ""))


def test_what_is_linked_from_elsewhere_is_not_kept_with_the_engine(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "snapshot")
    (tmp_path / "secret").write_text("a private key")
    (snapshot / "notes.json").symlink_to(tmp_path / "secret")
    engine = tmp_path / "engine"
    with pytest.raises(ConvertError, match=r"notes.json -> .*/secret: the link leads out"):
        BACKEND.build(make(), snapshot, engine, tmp_path)
    assert not list((engine / "model").iterdir())


def test_pickles_that_would_be_downloaded_for_nothing_are_told() -> None:
    assert any("allow_pickle is of no use" in text for text in make(allow_pickle=True).warnings)
    assert not any("allow_pickle" in text for text in make().warnings)
