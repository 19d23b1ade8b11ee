from __future__ import annotations

from tests.unit.store.conftest import tmp_path

__all__ = ["tmp_path"]
