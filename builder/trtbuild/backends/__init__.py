"""Engine backends by name. Each lives in a module of its own that is imported when it is asked for.

It decides which backends exist and in which order ``auto`` tries them, nothing about what they can do.
"""

from __future__ import annotations

import importlib
from typing import cast

from trtbuild.errors import SpecError
from trtbuild.plan import Backend
from trtbuild.spec import closest

_MODULES = {
    "tensorrt_llm": "trtbuild.backends.tensorrt_llm.backend",
    "llmapi": "trtbuild.backends.llmapi.backend",
    "cpu": "trtbuild.backends.cpu.backend",
}


def names() -> tuple[str, ...]:
    """Return every backend's name, best first: the order in which ``auto`` looks for one that is available."""
    return tuple(_MODULES)


def get(name: str) -> Backend:
    """Return the backend called ``name``.

    Raises:
        SpecError: There is no such backend.
    """
    module = _MODULES.get(name)
    if module is None:
        raise SpecError(
            f"backend: expected one of {', '.join(_MODULES)}, got {name!r}{closest(name, tuple(_MODULES))}",
            hint="trtbuild doctor shows which backends can work on this machine",
        )
    return cast(Backend, importlib.import_module(module).BACKEND)
