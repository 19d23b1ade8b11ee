"""What an engine is built on: the release that is installed, and the GPUs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from trtbuild.backends.gpu import gpu_label
from trtbuild.catalog import (
    LLMAPI_SINCE,
    GpuArchitecture,
    TrtLlmRelease,
    gpu_architecture,
    open_advisories,
    parse_version,
    trtllm,
    trtllm_releases,
)
from trtbuild.errors import HostError
from trtbuild.spec import GpuInfo, HostInfo


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an engine is built on.

    Attributes:
        release: Tables of the installed TensorRT-LLM.
        gpu: The GPU with the least memory among those the engine will use.
        gpus: GPUs that are there.
        architecture: What they compute; None for a GPU the catalog does not know.
        product: Label of the product, MIG profile included.
    """

    release: TrtLlmRelease
    gpu: GpuInfo
    gpus: int
    architecture: GpuArchitecture | None
    product: str


def find_target(host: HostInfo, world_size: int) -> Target:
    """Return what this host can build on.

    Raises:
        HostError: No TensorRT-LLM, no compiler, no GPU, or GPUs of several kinds.
    """
    version = host.versions.get("tensorrt_llm")
    if version is None:
        last = trtllm_releases()[-1].images[-1]
        raise HostError("tensorrt_llm is not installed here", hint=f"run inside {last}, or use --backend cpu")
    release = trtllm(version)
    if "trtllm-build" not in host.tools:
        last = trtllm_releases()[-1].images[-1]
        own = release.images[-1]
        is_offered = own != last and not open_advisories(release.triton[-1])
        where = f"{own}, or {last}, the last image with it" if is_offered else last
        llmapi = ", or use --backend llmapi" if parse_version(version) >= parse_version(LLMAPI_SINCE) else ""
        raise HostError(
            f"TensorRT-LLM {version} is installed, but trtllm-build is not on PATH",
            hint=f"run inside {where}{llmapi}",
        )
    if not host.gpus:
        raise HostError(
            "no GPU is visible; an engine is built on the kind of GPU it will run on",
            hint="docker: --gpus all; Kubernetes: request nvidia.com/gpu",
        )
    used = host.gpus[:world_size]
    kinds = sorted({gpu_label(gpu) for gpu in used})
    if len(kinds) > 1:
        raise HostError(
            f"the first {len(used)} GPUs are of several kinds: {', '.join(kinds)}",
            hint="choose GPUs of one kind with CUDA_VISIBLE_DEVICES",
        )
    gpu = min(used, key=lambda each: each.memory_mib)
    return Target(
        release=release,
        gpu=gpu,
        gpus=len(host.gpus),
        architecture=gpu_architecture(gpu.compute_capability),
        product=gpu_label(gpu),
    )
