"""Engine backends by name. Each lives in a package of its own that is imported when it is asked for.

Which exist, and in which order ``auto`` tries them, is :data:`trtbuild.registry.BACKENDS`.
"""

from __future__ import annotations

import importlib
from typing import cast

from trtbuild.errors import SpecError
from trtbuild.plan import Backend
from trtbuild.registry import NAMES, find_backend
from trtbuild.spec import closest


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
