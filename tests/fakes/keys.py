"""Requests whose engine keys are recorded, and the machines they are planned for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes.machines import COMMIT, gpu_host, resolved
from trtbuild import backends
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.plan.memory import GIB
from trtbuild.spec import CpuInfo, EngineSpec, HostInfo

DATASET = "abisee/cnn_dailymail@" + "a" * 40
DIRECTORY = "/data/calibration@tree-" + "b" * 64
CPU_HOST = HostInfo(
    platform="linux/x86_64",
    cpu=CpuInfo(vendor="AuthenticAMD", model="EPYC", isa=("avx2", "avx512_bf16", "avx512f"), cores=8),
    memory_bytes=64 * GIB,
    versions={"openvino": "2026.4.1", "openvino_genai": "2026.4.1.0"},
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for an engine, on a machine."""

    backend: str
    host: HostInfo
    model: str = "llama-3-8b"
    revision: str = COMMIT
    options: dict[str, Any] = field(default_factory=dict)

    def but(self, **options: Any) -> Request:
        """Return this request with other options."""
        return replace(self, options={**self.options, **options})

    def plan(self) -> BuildPlan:
        """Return the backend's plan."""
        pinned = self.pinned()
        spec = EngineSpec(model=self.model, revision=self.revision, backend=self.backend, **self.options)
        return backends.get(self.backend).plan(spec, pinned, self.host)

    def pinned(self) -> ResolvedModel:
        """Return the model at the commit that the request names."""
        return replace(resolved(self.model), revision=self.revision)


CPU = Request(backend="cpu", host=CPU_HOST, model="llama-3.2-1b")
ENGINE = Request(backend="tensorrt_llm", host=gpu_host())
LLMAPI = Request(backend="llmapi", host=gpu_host())
LIMITS = {"max_batch_size": 16, "max_input_len": 1000, "max_seq_len": 2048, "max_num_tokens": 4096}

REQUESTS = {
    "cpu": {
        "defaults": CPU,
        "another-model": replace(CPU, model="gpt2"),
        "int8": CPU.but(quantization="int8-weight-only", kv_cache_dtype="int8"),
        "int4": CPU.but(quantization="int4-weight-only"),
        "float16": CPU.but(dtype="float16"),
        "limits": CPU.but(**LIMITS, kv_cache_tokens=65536),
        "bfloat16-arithmetic": CPU.but(
            build_option={"compute_type": "bfloat16", "dynamic_quantization_group_size": "32"}
        ),
    },
    "tensorrt_llm": {
        "defaults": ENGINE,
        "another-model": replace(ENGINE, model="opt-125m"),
        "tp4": replace(ENGINE, model="llama-3-70b-instruct", options={"tp_size": 4}),
        "pp2": ENGINE.but(pp_size=2),
        "int8-weight-only": ENGINE.but(quantization="int8-weight-only"),
        "fp8-calibrated": ENGINE.but(quantization="fp8", kv_cache_dtype="fp8", calibration=DATASET),
        "awq-calibrated": ENGINE.but(quantization="int4-awq", calibration=DIRECTORY),
        "limits": ENGINE.but(**LIMITS),
        "build-option": ENGINE.but(build_option={"max_beam_width": "4"}),
        "older-release": replace(ENGINE, host=gpu_host(version="0.18.2")),
        "another-gpu": replace(ENGINE, host=gpu_host("a100-80gb")),
    },
    "llmapi": {
        "defaults": LLMAPI,
        "another-model": replace(LLMAPI, model="qwen3-8b"),
        "tp2-pp2": LLMAPI.but(tp_size=2, pp_size=2),
        "fp8-cache": LLMAPI.but(kv_cache_dtype="fp8"),
        "limits": LLMAPI.but(**LIMITS),
        "float16": LLMAPI.but(dtype="float16"),
    },
}
"""Requests by backend and name; ``tests/golden/keys`` has the key of each."""
