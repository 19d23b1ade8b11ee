"""What a failing disk means for people: who refused, where, and what to type next.

It decides that every ``OSError`` that leaves the store is a :class:`StoreError`; the cause and the remedy are found by
``diskspace``. It changes nothing on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trtbuild import diskspace
from trtbuild.errors import StoreError


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside into a :class:`StoreError` that says who, where and what to do next."""
    try:
        yield
    except OSError as error:
        raise store_error(action, path, error) from error


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """Return the error for people: what failed, what was found, what to type next."""
    found = diskspace.explain(path, error, option="--store")
    return StoreError(
        f"cannot {action}: {found.cause}", hint=found.remedy or "trtbuild doctor checks the store's directory"
    )
