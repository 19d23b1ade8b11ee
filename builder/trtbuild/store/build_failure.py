"""What a build that failed says of the disk: compilers and libraries rarely pass on that it is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from trtbuild import diskspace
from trtbuild.console.log import format_bytes
from trtbuild.errors import StoreError, TrtBuildError
from trtbuild.store.stage import Staging


@contextlib.contextmanager
def explain_build_failure(staging: Staging, root: Path, needs: Mapping[str, int]) -> Iterator[None]:
    """Let an error of a build say what the disk lacks, where it lacks something.

    Args:
        staging: Where it builds.
        root: The root of the store, for messages.
        needs: Bytes that it writes, by what for.

    Raises:
        StoreError: The disk refused what this process itself wrote.
        TrtBuildError: The error of the build, with the figures.
    """
    try:
        yield
    except (OSError, TrtBuildError) as error:
        lack = diskspace.shortage(staging.work_dir, needed_bytes=sum(needs.values()))
        writes = " + ".join(f"{what} {format_bytes(size)}" for what, size in needs.items())
        figures = f"; {lack}, this build writes {writes}" if lack else ""
        if isinstance(error, OSError):
            raise StoreError(
                f"the engine cannot be written to {root}: {error.strerror or error}{figures}",
                hint="make room (trtbuild store gc), or use another --store",
            ) from error
        if figures:
            raise error.with_figures(figures) from error
        raise
