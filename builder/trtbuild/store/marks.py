"""What is noted beside entries: their last use, and which are pinned.

A store that cannot be written can still be read, so a use that cannot be noted is no failure.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from trtbuild.console import log
from trtbuild.store import disk, links
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.manifest import MANIFEST


def touch(directory: StoreDirectory, digest: str, path: Path) -> None:
    """Note a use of an entry that exists; a store that cannot be written can still be read."""
    stamp, moment = directory.layout.used / digest, directory.now()
    try:
        links.refuse_links(stamp, below=directory.root)
    except OSError as error:
        log.get().debug("store-last-use", f"last use not noted: {error}")
        return
    try:
        os.utime(stamp, (moment, moment))
    except FileNotFoundError:
        if path.is_dir():
            with contextlib.suppress(OSError):
                directory.prepare(stamp.parent)
                disk.write_file(stamp, b"", mode=directory.sharing().file_mode)
                os.utime(stamp, (moment, moment))
    except OSError as error:
        # Another user's stamp can be set to the present, by those who may write it, but to no other time.
        try:
            os.utime(stamp)
        except OSError:
            log.get().debug("store-last-use", f"last use not noted: {error}")


def last_used(directory: StoreDirectory, digest: str, path: Path) -> float:
    """Return the last use in seconds since 1970; a time in the future (a clock was set back) counts as now."""
    for file in (directory.layout.used / digest, path / MANIFEST):
        with contextlib.suppress(OSError):
            return min(file.stat().st_mtime, directory.now())
    return 0.0


def pin(directory: StoreDirectory, entry: Entry) -> None:
    """Keep an entry for good: collection never takes it."""
    with explained("pin an entry", directory.layout.pins):
        directory.prepare(directory.layout.pins)
        disk.write_file(directory.layout.pins / entry.digest, b"", mode=directory.sharing().file_mode)


def unpin(directory: StoreDirectory, entry: Entry) -> None:
    """Let collection take an entry again."""
    with explained("unpin an entry", directory.layout.pins):
        directory.refuse_links()
        disk.unlink(directory.layout.pins / entry.digest)


def is_pinned(directory: StoreDirectory, digest: str) -> bool:
    """Say whether collection never takes this entry."""
    return (directory.layout.pins / digest).exists()
