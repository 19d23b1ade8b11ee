"""Which engine backends exist, and what must be known of one before its module is imported.

The one list of backends: the option's choices, the order of ``auto``, the packages that are looked for and the checks
before a start are read from it. What a backend can do is decided by its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """A backend.

    Attributes:
        name: As ``--backend`` spells it.
        module: Module that has it as ``BACKEND``.
        needs_gpu: It computes on GPUs; without: on the processor, in one process.
        package: Version name, and import name, of what it cannot work at all without.
        distributions: Version name of :class:`trtbuild.spec.HostInfo`: Python distributions that carry it, the first
            that is installed counts.
    """

    name: str
    module: str
    needs_gpu: bool
    package: str
    distributions: Mapping[str, tuple[str, ...]]


BACKENDS = (
    BackendInfo(
        name="tensorrt_llm",
        module="trtbuild.backends.tensorrt_llm.backend",
        needs_gpu=True,
        package="tensorrt_llm",
        distributions={
            "tensorrt_llm": ("tensorrt-llm",),
            "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        },
    ),
    BackendInfo(
        name="llmapi",
        module="trtbuild.backends.llmapi.backend",
        needs_gpu=True,
        package="tensorrt_llm",
        distributions={"tensorrt_llm": ("tensorrt-llm",)},
    ),
    BackendInfo(
        name="cpu",
        module="trtbuild.backends.cpu.backend",
        needs_gpu=False,
        package="openvino",
        distributions={
            "openvino": ("openvino",),
            "openvino_genai": ("openvino-genai",),
            "optimum_intel": ("optimum-intel",),
        },
    ),
)
"""Best first: ``auto`` takes the first that works here."""

NAMES = tuple(backend.name for backend in BACKENDS)


def find_backend(name: str) -> BackendInfo:
    """Return what is known of a backend that exists."""
    return next(backend for backend in BACKENDS if backend.name == name)


def gpu_packages() -> tuple[str, ...]:
    """Return the packages that GPU backends cannot work without: those that NVIDIA's images bring."""
    return tuple(dict.fromkeys(backend.package for backend in BACKENDS if backend.needs_gpu))


def version_names() -> tuple[str, ...]:
    """Return every version name of every backend's packages, best backend first."""
    return tuple(dict.fromkeys(name for backend in BACKENDS for name in backend.distributions))


def least_demanding_first() -> tuple[BackendInfo, ...]:
    """Return every backend, those that need no GPU first: the order in which people are shown them."""
    return tuple(sorted(BACKENDS, key=lambda backend: backend.needs_gpu))
