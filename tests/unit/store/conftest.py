from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtbuild.store.store import Store


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory where there is one: the store syncs every file, which a busy disk makes slow.

    Not pytest's own, whose parents no other user may enter.
    """
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="store-test-", dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    for parent, _, _ in os.walk(path):
        Path(parent).chmod(0o700)
    shutil.rmtree(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", now=lambda: 1_000_000.0)
