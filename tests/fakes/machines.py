"""Machines with GPUs, as values: what ``host.inspect_host`` would return inside NVIDIA's images."""

from __future__ import annotations

from trtbuild import catalog
from trtbuild.plan import ResolvedModel
from trtbuild.plan.memory import GIB
from trtbuild.spec import CpuInfo, GpuInfo, HostInfo

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def gpu_host(
    sku: str = "h100",
    gpus: int = 8,
    *,
    version: str = "1.2.1",
    tensorrt: str | None = None,
    memory_gib: int = 2048,
    shm_gib: int = 64,
) -> HostInfo:
    """Return a host with ``gpus`` GPUs of a product and TensorRT-LLM of a version."""
    product = catalog.find_sku(sku)
    assert product is not None
    release = catalog.trtllm(version)
    return HostInfo(
        platform="linux/x86_64",
        cpu=CpuInfo(vendor="GenuineIntel", model="Xeon", isa=("avx512f",), cores=64),
        gpus=tuple(
            GpuInfo(
                index=index,
                product=product.product,
                compute_capability=product.compute_capability,
                memory_mib=product.memory_mib,
            )
            for index in range(gpus)
        ),
        memory_bytes=memory_gib * GIB,
        shm_bytes=shm_gib * GIB,
        versions={"tensorrt_llm": version, "tensorrt": tensorrt or release.tensorrt, "cuda": release.cuda},
        tools={"trtllm-build": "/usr/local/bin/trtllm-build", "mpirun": "/usr/bin/mpirun"},
    )


def resolved(alias: str) -> ResolvedModel:
    """Return a catalog model pinned to a commit."""
    info = catalog.find_model(alias)
    assert info is not None
    return ResolvedModel(model_id=info.model_id, revision=COMMIT, source="hub", info=info, alias=alias)
