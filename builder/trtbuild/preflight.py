"""What must hold before a server is started, one clear line each. Pure: the machine's facts come in as values.

It decides which of them stop a start (the server would hang or die with a message nobody understands) and which only
warn. It does not read the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtbuild.errors import LaunchError
from trtbuild.log import format_bytes
from trtbuild.plan import EngineInfo
from trtbuild.spec import HostInfo, JsonValue

SHM_BASE_BYTES = 64 << 20
SHM_RANK_BYTES = 256 << 20
"""Shared memory below which a start is refused: Triton's Python models map regions there, and NCCL's shared-memory
transport takes its buffers there for every rank. Docker's default of 64 MiB is enough for one rank only.
Source: NVIDIA NCCL documentation, troubleshooting, shared memory."""

MIN_OPEN_FILES = 4096
"""Sockets and model processes of a busy server; below it connections fail under load."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of this process; None means unlimited.

    Attributes:
        open_files: ``RLIMIT_NOFILE``.
        locked_bytes: ``RLIMIT_MEMLOCK``.
    """

    open_files: int | None
    locked_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a preflight.

    Attributes:
        name: What was looked at.
        is_ok: It is as it must be.
        is_fatal: A start would fail or hang.
        text: What was seen and what was expected.
        remedy: What to do when it is not ok.
    """

    name: str
    is_ok: bool
    is_fatal: bool
    text: str
    remedy: str = ""


def preflight(
    host: HostInfo, info: EngineInfo, limits: Limits, key_fields: Mapping[str, JsonValue]
) -> tuple[Check, ...]:
    """Return every check for serving an engine on a host.

    Args:
        host: This machine.
        info: What the engine says of itself.
        limits: Limits of this process.
        key_fields: The fields of the key that the engine was built for, from its manifest.
    """
    return (
        _shm(host, info),
        *_gpus(host, info),
        *_versions(host, key_fields),
        _open_files(limits),
        *_locked_memory(limits, info),
    )


def refuse(checks: tuple[Check, ...]) -> None:
    """Raise for the first check that would make the start fail.

    Raises:
        LaunchError: With what was seen, what was expected and what to do.
    """
    for check in checks:
        if check.is_fatal and not check.is_ok:
            raise LaunchError(f"{check.name}: {check.text}", hint=check.remedy)


def _shm(host: HostInfo, info: EngineInfo) -> Check:
    needed = SHM_BASE_BYTES if info.world_size == 1 else SHM_BASE_BYTES + info.world_size * SHM_RANK_BYTES
    ok = host.shm_bytes >= needed
    return Check(
        name="/dev/shm",  # noqa: S108 - its name
        is_ok=ok,
        is_fatal=True,
        text=f"{format_bytes(host.shm_bytes)}, expected at least {format_bytes(needed)} for {info.world_size} ranks",
        remedy="docker: --shm-size=2g; Kubernetes: a memory emptyDir at /dev/shm (the chart's shm.size)",
    )


def _gpus(host: HostInfo, info: EngineInfo) -> list[Check]:
    if info.backend == "cpu":
        return []
    seen = len(host.gpus)
    return [
        Check(
            name="GPUs",
            is_ok=seen >= info.world_size,
            is_fatal=True,
            text=f"{seen} visible, the engine has {info.world_size} ranks (tp {info.tp_size} x pp {info.pp_size})",
            remedy=f"give this process {info.world_size} GPUs (docker: --gpus; Kubernetes: nvidia.com/gpu), "
            "and look at CUDA_VISIBLE_DEVICES",
        )
    ]


def _versions(host: HostInfo, fields: Mapping[str, JsonValue]) -> list[Check]:
    """Compare what the engine was built for with what is here; TensorRT's own message names neither side's GPU."""
    gpu = host.gpus[0] if host.gpus else None
    here: dict[str, object] = {name: host.versions.get(name) for name in ("tensorrt_llm", "tensorrt", "openvino")}
    if gpu is not None:
        here |= {"gpu_product": gpu.product, "compute_capability": gpu.compute_capability}
    checks = []
    for name, value in here.items():
        wanted = fields.get(name)
        if wanted is None or value is None:
            continue
        checks.append(
            Check(
                name=f"engine's {name.replace('_', ' ')}",
                is_ok=str(wanted) == str(value),
                is_fatal=True,
                text=f"the engine was built for {wanted}, here is {value}",
                remedy="serve it where it was built for, or build again here: trtbuild explain shows every difference",
            )
        )
    return checks


def _open_files(limits: Limits) -> Check:
    seen = limits.open_files
    return Check(
        name="open files",
        is_ok=seen is None or seen >= MIN_OPEN_FILES,
        is_fatal=False,
        text=f"{'unlimited' if seen is None else seen}, expected at least {MIN_OPEN_FILES}",
        remedy="ulimit -n 65536",
    )


def _locked_memory(limits: Limits, info: EngineInfo) -> list[Check]:
    if info.world_size == 1 or info.backend == "cpu":
        return []
    seen = limits.locked_bytes
    return [
        Check(
            name="locked memory",
            is_ok=seen is None,
            is_fatal=False,
            text=f"{'unlimited' if seen is None else format_bytes(seen)}, expected unlimited for several ranks",
            remedy="docker: --ulimit memlock=-1; on nodes: containerd's LimitMEMLOCK=infinity",
        )
    ]
