"""Inputs of a front model, the way the server hands them over."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def as_inputs(**values: object) -> dict[str, npt.NDArray[Any]]:
    """Return keyword values as one-element arrays, the way the server hands them over."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in values.items():
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        is_text = any(isinstance(item, str) for item in items)
        arrays[name] = np.array([str(item).encode() for item in items], np.object_) if is_text else np.array(items)
    return arrays
