"""What the LLM API can serve here: the GPU, the model, the options. Pure judgement.

It decides what is refused and what is only said. What is kept instead of an engine is ``backend.py``'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtbuild.backends.gpu import gpu_label
from trtbuild.catalog import (
    LLMAPI_SINCE,
    GpuArchitecture,
    ModelInfo,
    gpu_architecture,
    llm_api,
    parse_version,
    trtllm_releases,
)
from trtbuild.console.log import format_bytes
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import feasibility, memory
from trtbuild.plan.llm_api import llm_api_problem
from trtbuild.plan.rope import unread_rope
from trtbuild.spec import EngineSpec, GpuInfo, HostInfo

_ROPE_TYPES = ("linear", "dynamic", "longrope", "llama3", "yarn", "mrope")
"""Source: TensorRT-LLM 1.2, tensorrt_llm/functional.py, RotaryScalingType; later ones know ``default`` as well."""


def find_gpu(host: HostInfo, *, world_size: int) -> GpuInfo:
    """Return the smallest of the GPUs that ranks would get.

    Raises:
        HostError: There are too few, or no LLM API.
    """
    version = host.versions.get("tensorrt_llm")
    if version is None:
        raise HostError("tensorrt_llm is not installed here", hint="run inside NVIDIA's Triton TensorRT-LLM image")
    if parse_version(version) < parse_version(LLMAPI_SINCE):
        raise HostError(
            f"TensorRT-LLM {version}: the llmapi backend needs {LLMAPI_SINCE} or later",
            hint=f"run inside {trtllm_releases()[-1].images[-1]}, or use --backend tensorrt_llm with this one",
        )
    if len(host.gpus) < world_size or not host.gpus:
        raise HostError(
            f"{world_size} GPUs are needed, {len(host.gpus)} are visible",
            hint="docker: --gpus all; Kubernetes: request nvidia.com/gpu; or fewer ranks with --tp and --pp",
        )
    return min(host.gpus[:world_size], key=lambda gpu: gpu.memory_mib)


def refuse_impossible(spec: EngineSpec, model: ModelInfo, host: HostInfo, gpu: GpuInfo, dtype: str) -> None:
    """Refuse what no LLM API of the installed version loads or computes.

    Raises:
        SpecError: An option or the model.
        HostError: The GPU.
    """
    version = host.versions["tensorrt_llm"]
    if spec.quantization != "none":
        raise SpecError(
            f"--quantization {spec.quantization}: the LLM API does not quantize, it loads quantized checkpoints",
            hint="name a checkpoint that is quantized already, or use --backend tensorrt_llm",
        )
    if spec.build_option or spec.calibration:
        raise SpecError("--build-option and --calibration: the llmapi backend builds no engine", hint="drop them")
    kinds = llm_api(version).kv_cache_dtypes
    if spec.kv_cache_dtype not in kinds:
        raise SpecError(
            f"--kv-cache-dtype {spec.kv_cache_dtype}: the LLM API has {' and '.join(kinds)}",
            hint="pass --kv-cache-dtype fp8 or drop the option",
        )
    if not model.safetensors:
        raise SpecError(
            f"{model.name} has only pickled weights; the LLM API reads safetensors",
            hint="name a revision that has them; on the hub often --revision refs/pr/N, made by its converter",
        )
    architecture = gpu_architecture(gpu.compute_capability)
    found = [
        llm_api_problem(
            version,
            model,
            kv_cache_dtype=spec.kv_cache_dtype,
            is_code_trusted=spec.trust_remote_code,
            architecture=architecture,
        ),
        feasibility.parallel_problem(model, spec.tp_size, spec.pp_size, family=None),
    ]
    if architecture is not None:
        product = gpu_label(gpu)
        if reason := unsupported(version, architecture, gpu):
            raise HostError(reason, hint="a GPU of compute capability 8.0 or later")
        types = {"dtype": dtype, "quantization": "none", "kv_cache_dtype": spec.kv_cache_dtype}
        found.append(feasibility.gpu_problem(architecture, product, **types))
    for problem in found:
        if problem is not None:
            kind = HostError if problem.is_host else SpecError
            raise kind(problem.reason, hint=f"nearest possible: {problem.remedy}")


def unsupported(version: str, architecture: GpuArchitecture, gpu: GpuInfo) -> str:
    """Return why an installed TensorRT-LLM cannot use a GPU, or "".  Its version may be newer than every table."""
    if architecture.trtllm_until and parse_version(version) > parse_version(architecture.trtllm_until):
        return f"TensorRT-LLM {version} does not support {architecture.name} GPUs such as {gpu_label(gpu)}"
    return ""


def refuse_too_big(model: ModelInfo, need: memory.GpuMemory, gpu: GpuInfo) -> None:
    """Refuse a model that does not fit the GPU.

    Raises:
        HostError: The missing bytes and what helps.
    """
    # Without a listing, how much smaller a quantized checkpoint is may not be known; then this arithmetic is no reason.
    if need.fits or (model.pre_quantized and not model.are_sizes_known):
        return
    raise HostError(
        f"{model.name} does not fit {gpu_label(gpu)}: about {format_bytes(need.missing_bytes)} per GPU are missing",
        hint="use more GPUs (--tp), a smaller --max-seq-len or --max-num-tokens, or a quantized checkpoint",
    )


def plan_warnings(
    spec: EngineSpec, model: ModelInfo, architecture: GpuArchitecture | None, gpu: GpuInfo
) -> Iterator[str]:
    """Yield what a plan that is possible should still say."""
    if spec.allow_pickle:
        yield (
            "allow_pickle is of no use to the llmapi backend, which keeps safetensors only: a model that has none is "
            "downloaded with it, and refused then"
        )
    if architecture is None:
        yield f"{gpu_label(gpu)} is not in the catalog; what it can compute is not checked"
    if model.rope_type and model.rope_type not in _ROPE_TYPES:
        yield (
            f"{model.name} scales rotary positions by {model.rope_type!r}; the LLM API of the releases known here has "
            f"{', '.join(_ROPE_TYPES)} and may not load the model"
        )
    if missed := unread_rope(model):
        yield (
            f"config.json has {missed} in rope_parameters only, where transformers 5 writes it; a TensorRT-LLM that "
            "reads it with transformers 4 takes a default, and answers are wrong"
        )
    if model.pre_quantized and not model.are_sizes_known:
        yield (
            f"{model.name} is quantized already ({model.pre_quantized}) in a way that config.json does not tell; the "
            "memory figures are those without that"
        )
    elif not model.is_exact:
        yield memory.estimate_warning(model)
