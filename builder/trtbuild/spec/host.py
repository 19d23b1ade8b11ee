"""What the machine is and has, as plain values: made by ``trtbuild.host``, so that plans can be tested anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """One visible GPU (or MIG slice), as NVML names it.

    Attributes:
        index: CUDA ordinal.
        product: Normalised product label, as GPU Feature Discovery writes it: ``NVIDIA-H100-80GB-HBM3``.
        compute_capability: ``"9.0"``.
        memory_mib: Total memory in MiB.
        mig_profile: ``"3g.40gb"`` on a MIG slice, else None.
    """

    index: int
    product: str
    compute_capability: str
    memory_mib: int
    mig_profile: str | None = None


@dataclass(frozen=True, kw_only=True)
class CpuInfo:
    """The processor, as far as it matters to an engine.

    Attributes:
        vendor: ``GenuineIntel``, ``AuthenticAMD``, ``ARM`` ...
        model: Marketing name; for people, not for keys.
        isa: Instruction-set extensions that change the code an engine runs, sorted (``avx2``, ``avx512f``).
        cores: Cores this process may use.
    """

    vendor: str
    model: str
    isa: tuple[str, ...]
    cores: int


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """What this machine is and has. Made by ``host.inspect_host``; plain data so that plans can be tested anywhere.

    Attributes:
        platform: ``linux/x86_64``.
        cpu: The processor.
        gpus: Visible GPUs in CUDA order.
        memory_bytes: Memory this process may use (container limit or physical).
        shm_bytes: Size of ``/dev/shm``.
        versions: Installed versions by package: ``tensorrt_llm``, ``tensorrt``, ``cuda``, ``openvino``,
            ``openvino_genai``, ``triton``, ``optimum_intel``. Absent means not installed.
        tools: Absolute paths of programs found: ``trtllm-build``, ``mpirun``, ``tritonserver``.
    """

    platform: str
    cpu: CpuInfo
    gpus: tuple[GpuInfo, ...] = ()
    memory_bytes: int = 0
    shm_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
