"""Packages that are used where they are installed."""

from __future__ import annotations

import importlib
from typing import Any


def load(name: str) -> Any:
    """Return a package, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


httptools = load("httptools")
"""Reads HTTP; without it the endpoint does not start."""
orjson = load("orjson")
uvloop = load("uvloop")
