"""Kernel timings of earlier builds, kept between builds on one SKU with one TensorRT version.

A hint only: a lost or damaged cache costs time, never correctness, so nothing here fails a build.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from trtbuild.plan import BuildPlan, path_part


@contextlib.contextmanager
def kept_timings(plan: BuildPlan, cache: Path, hints: Path | None) -> Iterator[None]:
    """Let a build begin with the timings of earlier ones in ``cache``, and keep what it leaves there.

    Args:
        plan: What is built; its SKU and TensorRT version say whose timings count.
        cache: File that the compiler reads and writes.
        hints: Directory in which they are kept; None keeps nothing.
    """
    version = plan.key.fields.get("tensorrt")
    if hints is None or version is None:
        yield
        return
    kept = hints / path_part(plan.sku) / f"{path_part(str(version))}.cache"
    with contextlib.suppress(OSError):
        shutil.copyfile(kept, cache)
    yield
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{kept.name}.{uuid.uuid4().hex}")
        shutil.copyfile(cache, draft)
        draft.rename(kept)
