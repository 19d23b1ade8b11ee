"""GPU products: what each can compute, and the names NVML and node labels give it.

It decides how names are normalised. It does not look at this machine's GPUs: ``host`` does.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache

from trtbuild.catalog.loading import load

_LABEL = re.compile(r"^(?P<product>.+?)(?:-MIG-(?P<mig>[0-9A-Za-z.+]+))?(?P<shared>-SHARED)?$")
_MIG_GB = re.compile(r"\.(\d+)gb", re.IGNORECASE)

MIG_USABLE_SHARE = 0.89
"""Usable part of a MIG profile's nominal gigabytes, as GiB: H100 NVL 1g.12gb has 10.75 GiB, B200 1g.23gb 20.50 GiB.

Source: nvidia-smi mig -lgip output in NVIDIA/gpu-operator pull requests 900 and 1351.
"""


@dataclass(frozen=True, kw_only=True)
class ProductLabel:
    """A product label taken apart.

    Attributes:
        product: The GPU itself, e.g. ``NVIDIA-A100-SXM4-80GB``.
        mig_profile: ``3g.40gb`` when the label is that of a MIG slice, else None.
        is_shared: The node shares its GPUs by time slicing (``-SHARED``).
    """

    product: str
    mig_profile: str | None = None
    is_shared: bool = False

    @property
    def label(self) -> str:
        """The value of ``nvidia.com/gpu.product`` on a node of this kind."""
        mig = f"-MIG-{self.mig_profile}" if self.mig_profile else ""
        return f"{self.product}{mig}{'-SHARED' if self.is_shared else ''}"


@dataclass(frozen=True, kw_only=True)
class GpuArchitecture:
    """What all GPUs of one architecture can compute with TensorRT-LLM engines.

    Attributes:
        name: ``ampere``, ``hopper`` ...
        compute_capabilities: ``("8.0", "8.6")``.
        dtypes: Compute types.
        quantizations: Presets besides ``none``.
        kv_cache_dtypes: Key/value cache types besides the compute type.
        trtllm_since: First TensorRT-LLM release that supports it, or "".
        trtllm_until: Last release that supports it, or "".
    """

    name: str
    compute_capabilities: tuple[str, ...]
    dtypes: tuple[str, ...]
    quantizations: tuple[str, ...]
    kv_cache_dtypes: tuple[str, ...]
    trtllm_since: str = ""
    trtllm_until: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuSku:
    """One GPU product.

    Attributes:
        product: Label value, ``NVIDIA-H100-80GB-HBM3``.
        nvml_name: Name NVML gives, ``NVIDIA H100 80GB HBM3``.
        compute_capability: ``9.0``.
        memory_mib: Total memory in MiB, ECC on, MIG off.
        architecture: What it can compute.
        aliases: Short names.
        host_platform: ``linux/x86_64`` or ``linux/aarch64``.
    """

    product: str
    nvml_name: str
    compute_capability: str
    memory_mib: int
    architecture: GpuArchitecture
    aliases: tuple[str, ...] = ()
    host_platform: str = "linux/x86_64"

    @property
    def memory_bytes(self) -> int:
        """Total memory in bytes."""
        return self.memory_mib << 20


def parse_product(name: str) -> ProductLabel:
    """Return the parts of an NVML name or a label value.

    ``NVIDIA A100-SXM4-80GB``, ``NVIDIA-A100-SXM4-80GB-SHARED`` and ``NVIDIA A100-SXM4-80GB MIG 3g.40gb`` are the same
    product; the last two differ in what a workload gets of it, which the other fields say.
    """
    dashed = re.sub(r"\s+", "-", name.strip())
    match = _LABEL.match(dashed)
    if match is None:
        return ProductLabel(product=dashed)
    return ProductLabel(product=match["product"], mig_profile=match["mig"], is_shared=bool(match["shared"]))


def normalize_product(name: str) -> str:
    """Return the product label of an NVML name or a label value, without its MIG and sharing suffixes."""
    return parse_product(name).product


def mig_memory_mib(profile: str) -> int | None:
    """Return about how many MiB a MIG slice such as ``3g.40gb`` has, or None when the profile names no size."""
    match = _MIG_GB.search(profile)
    return int(int(match[1]) * 1024 * MIG_USABLE_SHARE) if match else None


@cache
def _architectures() -> dict[str, GpuArchitecture]:
    return {
        name: GpuArchitecture(
            name=name,
            compute_capabilities=tuple(entry["compute_capabilities"]),
            dtypes=tuple(entry["dtypes"]),
            quantizations=tuple(entry["quantizations"]),
            kv_cache_dtypes=tuple(entry["kv_cache_dtypes"]),
            trtllm_since=entry.get("trtllm_since", ""),
            trtllm_until=entry.get("trtllm_until", ""),
        )
        for name, entry in load("skus")["architectures"].items()
    }


def gpu_architecture(compute_capability: str) -> GpuArchitecture | None:
    """Return the architecture of a compute capability such as ``8.6``; None when it is unknown."""
    for architecture in _architectures().values():
        if compute_capability in architecture.compute_capabilities:
            return architecture
    return None


@cache
def skus() -> tuple[GpuSku, ...]:
    """Return all known products, oldest architecture first."""
    found = []
    for entry in load("skus")["skus"]:
        architecture = gpu_architecture(entry["compute_capability"])
        if architecture is None:
            raise ValueError(f"skus.yaml: {entry['product']}: no architecture for {entry['compute_capability']}")
        found.append(GpuSku(**{**entry, "aliases": tuple(entry["aliases"])}, architecture=architecture))
    return tuple(found)


@cache
def _by_name() -> dict[str, GpuSku]:
    index: dict[str, GpuSku] = {}
    for sku in skus():
        for name in {sku.product, normalize_product(sku.nvml_name), *sku.aliases}:
            if index.setdefault(name.lower(), sku) is not sku:
                raise ValueError(f"skus.yaml: {name!r} names two products")
    return index


def find_sku(name: str) -> GpuSku | None:
    """Return the product for an NVML name, a label value (with or without suffixes) or an alias; None when unknown."""
    return _by_name().get(normalize_product(name).lower())


def closest_skus(name: str, *, count: int = 3) -> tuple[str, ...]:
    """Return up to ``count`` labels of products that look like ``name``, nearest first."""
    near = difflib.get_close_matches(normalize_product(name).lower(), list(_by_name()), n=3 * count, cutoff=0.4)
    return tuple(dict.fromkeys(_by_name()[key].product for key in near))[:count]
