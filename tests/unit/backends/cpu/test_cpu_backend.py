"""What an engine directory of the cpu backend must be, and how it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.backends.cpu.test_cpu_plan import HOST, plan
from trtbuild import backends
from trtbuild.backends.cpu.backend import engine_config
from trtbuild.errors import BuildError, FetchError, SpecError
from trtbuild.spec import CpuInfo, HostInfo, RepositorySpec

CPU = backends.get("cpu")


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    (tmp_path / "openvino_model.bin").write_bytes(b"\0")
    document = engine_config(plan(), {"vocab_size": 128256}, {"openvino": "2026.4.1"})
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path


def test_an_engine_tells_its_limits_and_precision(engine_dir: Path) -> None:
    info = CPU.inspect(engine_dir)
    assert (info.backend, info.world_size, info.max_batch_size, info.max_seq_len) == ("cpu", 1, 8, 4096)
    assert (info.dtype, info.vocab_size, info.versions) == ("float32", 128256, {"openvino": "2026.4.1"})
    document = json.loads((engine_dir / "config.json").read_text())
    assert document["pretrained_config"]["mapping"] == {"world_size": 1, "tp_size": 1, "pp_size": 1}
    assert document["runtime"]["properties"] == {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


@pytest.mark.parametrize("name", ["config.json", "openvino_model.xml", "openvino_model.bin"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_an_incomplete_engine_is_refused(name: str, damage: str, engine_dir: Path) -> None:
    (engine_dir / name).unlink()
    if damage == "empty":
        (engine_dir / name).touch()
    with pytest.raises(BuildError, match=f"{name} is missing or empty"):
        CPU.inspect(engine_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda document: document.update(schema=99), "schema 99", id="schema"),
        pytest.param(lambda document: document.pop("build_config"), "build_config", id="missing part"),
        pytest.param(
            lambda document: document["build_config"].update(max_seq_len="x"), "cannot be read", id="not a number"
        ),
    ],
)
def test_an_unreadable_config_is_refused(change: Any, message: str, engine_dir: Path) -> None:
    document = json.loads((engine_dir / "config.json").read_text())
    change(document)
    (engine_dir / "config.json").write_text(json.dumps(document))
    with pytest.raises(BuildError, match=message):
        CPU.inspect(engine_dir)


def test_parameters_of_the_served_model(engine_dir: Path) -> None:
    spec = RepositorySpec(
        max_queue_size=5, enable_kv_cache_reuse=False, template_parameter={"inference_num_threads": "3"}
    )
    template = CPU.template(CPU.inspect(engine_dir), engine_dir, spec)
    assert template.directory == "tensorrt_llm/cpu"
    parameters = dict(template.variables["parameters"])  # type: ignore[arg-type, call-overload]
    assert parameters == {
        "engine_dir": str(engine_dir),
        "max_batch_size": "8",
        "max_queue_size": "5",
        "enable_kv_cache_reuse": "false",
        "enable_chunked_context": "true",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "inference_num_threads": "3",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inference_num_thread": "3"}, "did you mean 'inference_num_threads'"),
        ({"cancellation_check_period_ms": "0"}, "whole number from 1, got '0'"),
        ({"cancellation_check_period_ms": "soon"}, "got 'soon'"),
    ],
)
def test_unknown_template_parameters_are_refused(given: dict[str, str], message: str, engine_dir: Path) -> None:
    with pytest.raises(SpecError, match=message):
        CPU.template(CPU.inspect(engine_dir), engine_dir, RepositorySpec(template_parameter=given))


def test_availability_names_the_missing_package() -> None:
    assert CPU.availability(HOST).is_available
    bare = HostInfo(platform="linux/x86_64", cpu=CpuInfo(vendor="", model="", isa=(), cores=1))
    assert "openvino and openvino-genai not installed" in CPU.availability(bare).reason
    assert not CPU.availability(bare).is_available


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"], ids=["missing", "cut off", "a list", "no vocabulary"])
def test_a_snapshot_without_a_usable_config_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(FetchError, match="config.json of the snapshot"):
        CPU.build(plan(), tmp_path, tmp_path / "engine", tmp_path / "work")
