"""TensorRT-LLM engines from request to repository, with the tools as real child processes (fakes on PATH)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.fakes.machines import gpu_host
from tests.fakes.toolchain import lay_out_examples
from trtbuild import catalog, host, pipeline, spec
from trtbuild.backends.tensorrt_llm import backend as tensorrt_llm
from trtbuild.errors import BuildError, ConvertError, TrtBuildError
from trtbuild.fetch import Hub
from trtbuild.spec import HostInfo
from trtbuild.store import Store

ROOT = Path(__file__).resolve().parents[3]
FAKES = ROOT / "tests" / "fakes" / "bin"
MODEL = ROOT / "examples" / "pydoc-llama"

pytestmark = pytest.mark.integration


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostInfo:
    """A machine with four L40S in NVIDIA's 26.07 image: tools on PATH, scripts in place, versions announced."""
    release = catalog.trtllm("1.2.1")
    monkeypatch.setenv("TRTBUILD_TEST_TRTLLM", release.version)
    monkeypatch.setenv("TRTBUILD_TEST_GPUS", ",".join(["NVIDIA L40S"] * 4))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "builder")]))
    # The fakes start with "env python3", which must be this interpreter.
    interpreter = tmp_path / "python" / "python3"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    path = os.pathsep.join([str(FAKES), str(interpreter.parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    examples = lay_out_examples(tmp_path / "examples", release)
    backend = tensorrt_llm.TensorRtLlmBackend(examples_dir=examples)
    monkeypatch.setattr(tensorrt_llm, "BACKEND", backend)
    # nvidia-smi is asked as in production; the versions are those of the image, not of this environment.
    template = gpu_host("l40s", 1)
    gpus = host.read_gpus(str(FAKES / "nvidia-smi"), None)
    tools = {"trtllm-build": str(FAKES / "trtllm-build")}
    return HostInfo(
        platform=template.platform,
        cpu=template.cpu,
        gpus=gpus,
        memory_bytes=template.memory_bytes,
        shm_bytes=template.shm_bytes,
        versions=template.versions,
        tools=tools,
    )


def context(image: HostInfo, tmp_path: Path) -> pipeline.Context:
    return pipeline.Context(
        host=image,
        hub=Hub(endpoint="http://127.0.0.1:9", is_offline=True),
        store=Store(tmp_path / "store"),
        hf_cache=tmp_path / "hub",
    )


def request(tmp_path: Path, **options: object) -> spec.Spec:
    values = {"model": str(MODEL), "backend": "tensorrt_llm", "repository": str(tmp_path / "repository"), **options}
    return spec.parse_spec(values)


def read_model(repository: Path, name: str) -> Any:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_nvidia_smi_is_read(image: HostInfo) -> None:
    assert [gpu.product for gpu in image.gpus] == ["NVIDIA-L40S"] * 4
    assert image.gpus[3].index == 3
    assert (image.gpus[0].compute_capability, image.gpus[0].memory_mib) == ("8.9", 46068)


def test_from_request_to_repository(image: HostInfo, tmp_path: Path) -> None:
    ctx = context(image, tmp_path)
    done = pipeline.provision(request(tmp_path, tp_size=2, max_batch_size=16), ctx)
    assert not done.was_hit
    assert (done.info.world_size, done.info.max_batch_size) == (2, 16)
    kept = {path.name for path in done.entry.path.iterdir()}
    assert {"config.json", "rank0.engine", "rank1.engine", "tokenizer", "manifest.json"} <= kept
    assert done.entry.path.parent.name == "NVIDIA-L40S"
    engine = read_model(done.repository, "tensorrt_llm")
    assert engine.backend == "tensorrtllm"
    assert engine.parameters["gpt_model_path"].string_value == str(done.entry.path)
    front = read_model(done.repository, done.served_name)
    assert front.parameters["engine_has_batch_dimension"].string_value == "true"
    manifest = json.loads((done.entry.path / "manifest.json").read_text())
    told = json.dumps(manifest)
    assert "10.14.1.48" in told
    assert "NVIDIA-L40S" in told
    again = pipeline.provision(request(tmp_path, tp_size=2, max_batch_size=16), ctx)
    assert again.was_hit
    assert again.entry.path == done.entry.path


@pytest.mark.parametrize(
    ("fail", "kind", "said"),
    [
        ("convert:killed", ConvertError, "out of host memory, needs about"),
        ("build:killed", BuildError, "out of host memory, needs about"),
        ("build:gpu-memory", BuildError, "the GPU ran out of memory"),
        ("build:partial", BuildError, "rank1.engine is missing"),
    ],
)
def test_a_failed_build_leaves_no_entry(
    image: HostInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: str, kind: type[TrtBuildError], said: str
) -> None:
    ctx = context(image, tmp_path)
    monkeypatch.setenv("TRTBUILD_TEST_FAIL", fail)
    with pytest.raises(kind) as caught:
        pipeline.provision(request(tmp_path, tp_size=2), ctx)
    assert said in caught.value.message
    assert not list((tmp_path / "store").glob("engines/*/*/*/manifest.json"))
    assert not (tmp_path / "repository").exists()
    monkeypatch.setenv("TRTBUILD_TEST_FAIL", "")
    assert not pipeline.provision(request(tmp_path, tp_size=2), ctx).was_hit


def test_another_release_builds_anew(image: HostInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(image, tmp_path)
    first = pipeline.provision(request(tmp_path), ctx)
    monkeypatch.setenv("TRTBUILD_TEST_TRTLLM", "1.2.0")
    older = gpu_host("l40s", 4, version="1.2.0")
    updated = HostInfo(
        platform=image.platform, cpu=image.cpu, gpus=image.gpus, memory_bytes=image.memory_bytes,
        shm_bytes=image.shm_bytes, versions=older.versions, tools=image.tools,
    )  # fmt: skip
    second = pipeline.provision(request(tmp_path), context(updated, tmp_path))
    assert not second.was_hit
    assert second.entry.path != first.entry.path
