"""Engine backends by name. Each lives in a package of its own that is imported when it is asked for.

Which exist, and in which order ``auto`` tries them, is :data:`trtbuild.registry.BACKENDS`.
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from typing import cast

from trtbuild.console import log
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import READ_FOR_EVERY_BACKEND, Backend, BuildPlan, ResolvedModel
from trtbuild.registry import BACKENDS, NAMES, find_backend
from trtbuild.spec import OPTIONS_BY_NAME, HostInfo, Spec, closest


def names() -> tuple[str, ...]:
    """Return every backend's name, best first: the order in which ``auto`` looks for one that is available."""
    return NAMES


def get(name: str) -> Backend:
    """Return the backend called ``name``.

    Raises:
        SpecError: There is no such backend.
    """
    if name not in NAMES:
        raise SpecError(
            f"backend: expected one of {', '.join(NAMES)}, got {name!r}{closest(name, NAMES)}",
            hint="trtbuild doctor shows which backends can work on this machine",
        )
    return cast(Backend, importlib.import_module(find_backend(name).module).BACKEND)


def make_plan(backend: Backend, spec: Spec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
    """Let a backend plan, after refusing options that it does not read; then check how the engine is to be served.

    Raises:
        SpecError: It does not read an option, or cannot build or serve this.
        HostError: It cannot be built on this host.
    """
    refuse_unread(backend, spec)
    plan = backend.plan(spec.engine, model, host)
    backend.check_serving(plan, spec.repository)
    return plan


def refuse_unread(backend: Backend, spec: Spec) -> None:
    """Refuse options that a backend does not read, which would be ignored without a word.

    Raises:
        SpecError: One has another value than its default.
    """
    for section in (spec.engine, spec.repository, spec.server):
        for field in fields(section):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            value = getattr(section, field.name)
            if value != default and field.name not in backend.reads | READ_FOR_EVERY_BACKEND:
                readers = " and ".join(name for name in names() if field.name in get(name).reads)
                raise SpecError(
                    f"{field.name}={value}: the {backend.name} backend does not read it",
                    hint=f"leave {OPTIONS_BY_NAME[field.name].flag} out; it is for --backend {readers}",
                )


def choose(name: str, host: HostInfo) -> Backend:
    """Return the backend called ``name``, or for ``auto`` the first that works on ``host``.

    A machine with GPUs and TensorRT-LLM is not served from its processor unless that is asked for.

    Raises:
        HostError: It does not work here; the message says why for each one tried.
    """
    tried: list[str] = []
    has_gpu_stack = bool(host.gpus) and any(b.needs_gpu and b.package in host.versions for b in BACKENDS)
    for candidate in names() if name == "auto" else (name,):
        backend = get(candidate)
        availability = backend.availability(host)
        is_passed_over = name == "auto" and has_gpu_stack and not find_backend(candidate).needs_gpu
        if availability.is_available and not is_passed_over:
            for reason in tried if has_gpu_stack else ():
                log.get().warning("backend", f"{candidate} is used: {reason}")
            return backend
        if not availability.is_available:
            tried.append(f"{candidate}: {availability.reason}")
    if name != "auto":
        raise HostError(tried[0], hint="trtbuild doctor shows what every backend can do here")
    if has_gpu_stack:
        raise HostError(
            "no engine backend works on this machine's GPUs\n  " + "\n  ".join(tried),
            hint="use another image, or pass --backend cpu to compute on the processor",
        )
    raise HostError(
        "no engine backend works on this machine\n  " + "\n  ".join(tried),
        hint="pip install 'trtbuild[cpu]' brings an engine that needs no GPU; trtbuild doctor shows every backend",
    )
