"""Read what this machine is and has: processor, GPUs, memory, installed engines and tools.

It decides how facts are read, never what follows from them. Versions come from what is installed here, not from the
name of an image: published tables are wrong often enough that they cannot be trusted.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from trtbuild import catalog
from trtbuild.process import Command, run
from trtbuild.registry import least_demanding_first
from trtbuild.spec import CpuInfo, GpuInfo, HostInfo

DISTRIBUTIONS = {
    **{name: found for backend in least_demanding_first() for name, found in backend.distributions.items()},
    "tokenizers": ("tokenizers",),
    "triton_wheel": ("nvidia-pytriton",),
}
"""HostInfo version name -> distributions that carry it, the first that is installed counts."""

TOOLS = ("trtllm-build", "mpirun", "tritonserver", "nvidia-smi")

# Extensions that OpenVINO's CPU plugin picks kernels by, as /proc/cpuinfo spells them.
# Source: OpenVINO CPU plugin, documentation "CPU Device", supported instruction sets.
ISA_FLAGS = (
    "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "amx_fp16", "fma", "sse4_2", "asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip

EXAMPLES = "trtllm-examples"
"""Name among the tools of the directory with TensorRT-LLM's own conversion scripts."""

_GPU_QUERY = "index,name,compute_cap,memory.total,uuid"
_SMI_TIMEOUT_S = 30.0


def inspect_host(environ: Mapping[str, str]) -> HostInfo:
    """Return this machine as a value.

    Args:
        environ: Environment of the process (``PATH``, ``CUDA_VISIBLE_DEVICES``, versions that images announce,
            ``TRTBUILD_TRTLLM_EXAMPLES``).
    """
    search_path = environ.get("PATH", os.defpath)
    own = str(Path(sys.executable).parent)
    tools = {name: found for name in TOOLS if (found := shutil.which(name, path=os.pathsep.join([own, search_path])))}
    examples = environ.get("TRTBUILD_TRTLLM_EXAMPLES") or catalog.EXAMPLES_DIR
    if Path(examples).is_dir():
        tools[EXAMPLES] = str(Path(examples).absolute())
    return HostInfo(
        platform=f"{platform.system().lower()}/{platform.machine()}",
        cpu=read_cpu(Path("/proc/cpuinfo")),
        gpus=read_gpus(tools.get("nvidia-smi"), environ.get("CUDA_VISIBLE_DEVICES")),
        memory_bytes=read_memory_bytes(Path("/proc/meminfo"), Path("/sys/fs/cgroup")),
        shm_bytes=_free_size(Path("/dev/shm")),  # noqa: S108 - the name the kernel gives shared memory
        versions=read_versions(environ) | read_driver(Path("/proc/driver/nvidia/version")),
        tools=tools,
    )


def read_versions(environ: Mapping[str, str]) -> dict[str, str]:
    """Return installed versions by :class:`HostInfo` name; what is not installed is absent."""
    versions: dict[str, str] = {}
    for name, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions.setdefault(name, importlib.metadata.version(distribution))
    for name, variable in (("triton", "TRITON_SERVER_VERSION"), ("triton_image", "NVIDIA_TRITON_SERVER_VERSION")):
        if environ.get(variable):
            versions[name] = environ[variable]
    cuda = environ.get("CUDA_VERSION") or _cuda_from_toolkit(Path("/usr/local/cuda/version.json"))
    if cuda:
        versions["cuda"] = cuda
    return versions


def read_driver(version: Path) -> dict[str, str]:
    """Return the NVIDIA kernel driver's version as ``{"driver": ...}``, empty where there is none.

    Source: the driver's README, chapter "The /proc interface": one line with the version before the build date.
    """
    try:
        match = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", version.read_text(), re.MULTILINE)
    except OSError:
        return {}
    return {"driver": match[1]} if match else {}


def read_cpu(cpuinfo: Path) -> CpuInfo:
    """Return the processor as ``/proc/cpuinfo`` describes it."""
    fields: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    vendor = fields.get("vendor_id") or ("ARM" if "CPU implementer" in fields else platform.machine())
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    model = fields.get("model name") or platform.processor() or "unknown"
    return CpuInfo(vendor=vendor, model=model, isa=tuple(f for f in sorted(ISA_FLAGS) if f in flags), cores=cores)


def read_memory_bytes(meminfo: Path, cgroup: Path) -> int:
    """Return the bytes this process may use: the smaller of the machine and the container limit (cgroup v1, v2)."""
    amounts: list[int] = []
    try:
        match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        amounts += [int(match[1]) * 1024] if match else []
    except OSError:
        pass
    for limit in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            text = limit.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            amounts.append(int(text))
    return min(amounts) if amounts else 0


def read_gpus(nvidia_smi: str | None, visible: str | None) -> tuple[GpuInfo, ...]:
    """Return the GPUs this process may use, as ``nvidia-smi`` reports them, in CUDA order.

    Args:
        nvidia_smi: Path of the program, or None where there is no driver.
        visible: ``CUDA_VISIBLE_DEVICES``: ordinals or UUIDs; None means all.
    """
    if not nvidia_smi:
        return ()
    query = Command(argv=(nvidia_smi, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"))
    listing = Command(argv=(nvidia_smi, "-L"))
    try:
        answer = run(query, timeout_s=_SMI_TIMEOUT_S, tail_lines=None)
        names = run(listing, timeout_s=_SMI_TIMEOUT_S, tail_lines=None) if answer.exit_code == 0 else answer
    except (OSError, TimeoutError):
        return ()
    if answer.exit_code != 0:
        return ()
    return _select(parse_gpus("\n".join(answer.tail), "\n".join(names.tail)), visible)


def parse_gpus(query: str, listing: str) -> list[tuple[GpuInfo, str]]:
    """Return ``(gpu, uuid)`` for the CSV of ``--query-gpu`` and the text of ``nvidia-smi -L`` (for MIG slices).

    Source: ``nvidia-smi --help-query-gpu``; ``nvidia-smi -L`` prints ``MIG 3g.40gb Device 0: (UUID: MIG-...)`` lines.
    """
    slices: dict[int, list[tuple[str, str]]] = {}
    current = -1
    for line in listing.splitlines():
        if top := re.match(r"\s*GPU (\d+):", line):
            current = int(top[1])
        elif mig := re.search(r"MIG (\S+)\s+Device\s+\d+:\s+\(UUID: (\S+)\)", line):
            slices.setdefault(current, []).append((mig[1], mig[2]))
    found: list[tuple[GpuInfo, str]] = []
    for row in csv.reader(io.StringIO(query), skipinitialspace=True):
        if len(row) != 5 or not row[0].isdigit():
            continue
        index, name, capability, memory, uuid = (cell.strip() for cell in row)
        product = catalog.normalize_product(name)
        whole = int(float(memory)) if memory.replace(".", "").isdigit() else 0
        if int(index) not in slices:
            gpu = GpuInfo(index=len(found), product=product, compute_capability=capability, memory_mib=whole)
            found.append((gpu, uuid))
        for profile, mig_uuid in slices.get(int(index), []):
            slice_mib = catalog.mig_memory_mib(profile)
            gpu = GpuInfo(
                index=len(found),
                product=product,
                compute_capability=capability,
                memory_mib=slice_mib if slice_mib is not None else whole,
                mig_profile=profile,
            )
            found.append((gpu, mig_uuid))
    return found


def _select(found: list[tuple[GpuInfo, str]], visible: str | None) -> tuple[GpuInfo, ...]:
    """Apply CUDA_VISIBLE_DEVICES: list order decides, the first unknown entry ends the list (as CUDA does)."""
    if visible is None:
        chosen = [gpu for gpu, _ in found]
    else:
        chosen = []
        for entry in (part.strip() for part in visible.split(",")):
            match = [
                g
                for g, uuid in found
                if (entry.isdigit() and g.index == int(entry)) or (entry and uuid.startswith(entry))
            ]
            if not match:
                break
            chosen.append(match[0])
    return tuple(
        GpuInfo(
            index=position,
            product=gpu.product,
            compute_capability=gpu.compute_capability,
            memory_mib=gpu.memory_mib,
            mig_profile=gpu.mig_profile,
        )
        for position, gpu in enumerate(chosen)
    )


def _cuda_from_toolkit(version_json: Path) -> str | None:
    import json

    try:
        document = json.loads(version_json.read_text())
        return str(document["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _free_size(path: Path) -> int:
    try:
        stats = os.statvfs(path)
    except OSError:
        return 0
    return stats.f_blocks * stats.f_frsize
