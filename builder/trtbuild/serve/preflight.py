"""What must hold before a server is started, one clear line each. Pure: the machine's facts come in as values.

It decides which of them stop a start (the server would hang or die with an obscure message) and which only
warn. It does not read the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtbuild.console.log import format_bytes
from trtbuild.errors import LaunchError
from trtbuild.plan import EngineInfo
from trtbuild.plan.feasibility import engine_mismatches
from trtbuild.registry import find_backend
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
        *_match(host, info, key_fields),
        _open_files(limits),
        *_locked_memory(limits, info),
    )


def refuse(checks: tuple[Check, ...]) -> None:
    """Raise when a check says that the start would fail, naming all that do.

    Raises:
        LaunchError: With what was seen, what was expected and what to do.
    """
    fatal = [check for check in checks if check.is_fatal and not check.is_ok]
    if fatal:
        raise LaunchError("; ".join(f"{check.name}: {check.text}" for check in fatal), hint=fatal[0].remedy)


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


def _match(host: HostInfo, info: EngineInfo, fields: Mapping[str, JsonValue]) -> list[Check]:
    """Compare what the engine was built on with what is here; TensorRT's own message names neither side's GPU."""
    backend = find_backend(info.backend)
    if not backend.needs_gpu:
        seen = [
            f"built with {name} {fields[name]}, here is {host.versions.get(name) or 'none'}"
            for name in backend.distributions
            if name in fields and fields[name] != host.versions.get(name)
        ]
    else:
        seen = list(engine_mismatches(fields, host, world_size=info.world_size))
    remedy = "serve it where it was built for, or build again here: trtbuild explain shows every difference"
    if not seen:
        return [Check(name="engine", is_ok=True, is_fatal=True, text="it was built for this machine")]
    return [Check(name="engine", is_ok=False, is_fatal=True, text=text, remedy=remedy) for text in seen]


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
    if info.world_size == 1 or not find_backend(info.backend).needs_gpu:
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
