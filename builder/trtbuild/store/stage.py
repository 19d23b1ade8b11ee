"""A private place to build in, on the store's file system.

It decides what is kept of a build that failed (its logs) and that everything else goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trtbuild.console import log
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.store import disk
from trtbuild.store.beacon import Beacon
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.elect import Claim
from trtbuild.store.leftovers import owner_file
from trtbuild.store.owner import Owner


class Staging:
    """A private place to build in, on the store's file system.

    Attributes:
        path: Empty directory that becomes the entry.
        work_dir: Scratch space; ``*.log`` files in it are kept when the build fails.
    """

    def __init__(self, directory: Path, owner: Beacon, claim: Claim | None, *, logs: Path) -> None:
        self._directory = directory
        self._owner = owner
        self._claim = claim
        self._logs = logs
        self.path = directory / "engine"
        self.work_dir = directory / "work"

    @property
    def name(self) -> str:
        """Unique name of the staging directory."""
        return self._directory.name

    @property
    def kept_logs(self) -> Path:
        """Directory in which the logs are when the build has failed."""
        return self._logs / self.name

    @property
    def owner(self) -> Owner:
        """The process that builds here."""
        return self._owner.owner

    def set_phase(self, phase: str) -> None:
        """Tell the waiters what is being done now: ``fetch``, ``convert``, ``build`` ..."""
        self._owner.set_phase(phase)
        if self._claim:
            self._claim.set_phase(phase)


@contextlib.contextmanager
def stage(directory: StoreDirectory, key: EngineKey, *, claim: Claim | None) -> Iterator[Staging]:
    """Give a private place to build ``key`` in; whatever was not published is removed at the end.

    Raises:
        StoreError: The store cannot be written.
    """
    owner = directory.new_owner()
    place = directory.layout.staging / f"{key.short}.{owner.token[:12]}"
    with explained("stage a build", place):
        directory.prepare(directory.layout.staging)
        # The beacon is there before the directory and goes after it: a directory without one has no owner.
        kept = directory.create_beacon(owner_file(place), owner)
        if kept is None:
            raise StoreError(f"{place} is taken", hint="run the command again")
        staging = Staging(place, kept, claim, logs=directory.layout.logs)
        try:
            for path in (staging.path, staging.work_dir):
                disk.make_dir(path, mode=directory.sharing().dir_mode, group=directory.sharing().group)
        except OSError:
            with contextlib.suppress(OSError):  # its beacon goes next, and nobody could tell whose the directory is
                disk.remove_tree(place)
            kept.close()
            raise
    try:
        yield staging
    except BaseException:
        with contextlib.suppress(OSError):
            _keep_logs(directory, staging)
        raise
    finally:
        try:
            disk.remove_tree(place)
            kept.close()
        except (OSError, StoreError) as error:
            # What was published is published; what is left here is swept when this process has ended.
            log.get().warning("store-staging-left", f"could not remove {place}: {error}")


def _keep_logs(directory: StoreDirectory, staging: Staging) -> None:
    logs = sorted(path for path in staging.work_dir.rglob("*.log") if path.is_file() and not path.is_symlink())
    if not logs:
        return
    target = staging.kept_logs
    directory.prepare(target)
    for path in logs:
        path.rename(target / "-".join(path.relative_to(staging.work_dir).parts))
    log.get().info("store-logs-kept", f"the build's logs are in {target}", path=str(target))


def keep_work(directory: StoreDirectory, key: EngineKey, staging: Staging) -> None:
    """Move the work directory of a build, with its checkpoint, to where checkpoints are kept."""
    target = directory.layout.checkpoints / key.relative_path
    directory.prepare(target.parent)
    if target.exists():
        disk.remove_tree(target)
    with contextlib.suppress(FileNotFoundError):
        disk.rename(staging.work_dir, target)
