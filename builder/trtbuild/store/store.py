"""The store: one directory of published engines, shared by any number of processes and pods.

It decides nothing itself: each verb is a file beside this one. Correctness rests on ``publish`` alone: an entry is
staged, described by a manifest written last, and renamed into place, so that it is absent or whole whoever dies when.
Claims, leases and budgets save work and room; none of them is needed for a right answer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue, VerifyMode
from trtbuild.store import durations, elect, explain, find, lease, leftovers, links, marks, publish, remove, stage
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.elect import Claim
from trtbuild.store.entries import Broken, Entry, Explanation, Miss
from trtbuild.store.files import Problem
from trtbuild.store.layout import Layout, Part
from trtbuild.store.lease import Lease
from trtbuild.store.owner import Owner
from trtbuild.store.sharing import Sharing
from trtbuild.store.stage import Staging


class Store:
    """Engines by key. Safe for any number of processes, threads and pods on one directory.

    A root that is setgid and group-writable is shared by its group, whoever opens it and whatever the arguments say: an
    administrator's command must not leave directories behind that lock the pods out.

    Args:
        root: The store's directory; created when something is first written.
        now: The clock, in seconds since 1970.
        label: Name of this pod or host in messages; default the host name.
        group: Group id that owns what is written, for pods that share a host path under different users.
        is_group_writable: Let that group write too (directories 2775 instead of 755).

    Attributes:
        directory: What the other parts of this package work on.
    """

    def __init__(
        self,
        root: Path,
        *,
        now: Callable[[], float] = time.time,
        label: str | None = None,
        group: int | None = None,
        is_group_writable: bool = False,
    ) -> None:
        self.directory = StoreDirectory(
            layout=Layout(root=Path(os.path.abspath(root))),  # noqa: PTH100 - the path as named, links kept
            now=now,
            label=label,
            asked_sharing=Sharing(group=group, is_group_writable=is_group_writable),
        )
        self._my_claims: dict[str, Claim] = {}

    @property
    def root(self) -> Path:
        """The store's root, as it was named."""
        return self.directory.root

    @property
    def layout(self) -> Layout:
        """Where things are below the root."""
        return self.directory.layout

    def part(self, name: Part) -> Path:
        """Return a directory below the root in which another part of the program keeps something.

        Raises:
            StoreError: A link is in its place.
        """
        path = self.layout.part(name)
        with explained(f"use the store's {name}", path):
            links.refuse_links(path, below=self.root)
        return path

    # -- finding -----------------------------------------------------------------------------------------------------

    def get(self, key: EngineKey, *, verify: VerifyMode = "sizes") -> Entry | Miss:
        """Return the entry for ``key``, or why there is none.

        A hit costs reading the manifest and one ``stat`` per file, whatever the engine's size; ``verify="full"``
        hashes everything. Changes nothing but the time of last use.

        Raises:
            StoreError: The store cannot be read at all.
        """
        return find.get(self.directory, key, verify)

    def ls(self) -> tuple[Entry, ...]:
        """Return every readable entry, most recently used first; what dead processes left is swept on the way.

        Raises:
            StoreError: The store cannot be read at all.
        """
        self.sweep()
        return find.entries(self.directory)

    def broken(self) -> tuple[Broken, ...]:
        """Return every directory among the entries that has no valid manifest or does not match it by size."""
        return find.broken(self.directory)

    def find(self, text: str) -> tuple[Entry, ...]:
        """Return the entries that ``text`` names: the beginning of a key (4 hex digits or more) or a path."""
        return find.matching(self.directory, text)

    def verify(self, entry: Entry, mode: VerifyMode = "full") -> tuple[Problem, ...]:
        """Compare an entry with its manifest, which is read again; hashes in parallel when ``full``."""
        return find.verify(entry, mode)

    def explain(self, key: EngineKey, *, shared: str | None = None) -> Explanation:
        """Say why ``key`` is a hit or a miss, and what the store has that is most like it.

        Args:
            key: The key asked for.
            shared: What :meth:`Shared.describe` says of it, to be passed on.
        """
        return explain.explain(self.directory, key, shared=shared)

    def estimate(self, key: EngineKey) -> float | None:
        """Return the seconds a build of ``key`` should take, from recorded builds most like it, or None."""
        return durations.estimate(self.layout.durations, key)

    # -- building ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, key: EngineKey, *, on_wait: Callable[[Owner, float], None] | None = None) -> Iterator[Claim]:
        """Become the builder of ``key``, or wait until its entry is there.

        Saves work only: callers look again first, with :meth:`get`, and :meth:`publish` is correct without it.
        While another process builds, ``on_wait(owner, waited_s)`` is called at once and every ten seconds (by default
        it logs); when that process dies this one takes over.

        Raises:
            StoreError: The store cannot be written.
        """
        with elect.lock(self.directory, key, on_wait=on_wait or elect.report_wait) as claim:
            if not claim.is_held:
                yield claim
                return
            self._my_claims[key.digest] = claim
            try:
                yield claim
            finally:
                self._my_claims.pop(key.digest, None)

    def stage(self, key: EngineKey) -> AbstractContextManager[Staging]:
        """Give a private place to build ``key`` in; whatever was not published is removed at the end.

        Raises:
            StoreError: The store cannot be written.
        """
        return stage.stage(self.directory, key, claim=self._my_claims.get(key.digest))

    def publish(
        self, key: EngineKey, staging: Staging, provenance: Mapping[str, JsonValue], *, keep_work: bool = False
    ) -> Entry:
        """Make what was staged the entry of ``key``; the manifest is written last, then all is renamed into place.

        When another process published first, its entry is verified by hash and returned instead.

        Args:
            key: What was built.
            staging: Where it was built.
            provenance: What should be known later; ``durations: {phase: seconds}`` feeds :meth:`estimate`.
                Anything that looks like a secret is masked.
            keep_work: Move the work directory (the checkpoint) to ``checkpoints/`` instead of removing it.

        Raises:
            StoreError: Nothing was staged, or it cannot be written.
        """
        return publish.publish(self.directory, key, staging, provenance, keep_work=keep_work)

    # -- using and removing ------------------------------------------------------------------------------------------

    def lease(self, entry: Entry) -> Lease:
        """Keep an entry from being collected while this process, or the program it becomes, lives.

        In a store that this process may only read, the lease is an empty one and a warning says so: such a store can
        be collected by others.

        Raises:
            StoreError: The entry has been collected, or the lease cannot be written.
        """
        return lease.take(self.directory, entry)

    def pin(self, entry: Entry) -> None:
        """Keep an entry for good: collection never takes it."""
        marks.pin(self.directory, entry)

    def unpin(self, entry: Entry) -> None:
        """Let collection take an entry again."""
        marks.unpin(self.directory, entry)

    def remove(self, entries: Sequence[Entry]) -> int:
        """Remove entries and return the bytes freed. Show them first: this acts.

        Raises:
            StoreError: The root is not marked as a cache, or an entry is not below it, pinned, or in use; nothing was
                removed.
        """
        return remove.remove(self.directory, entries)

    def sweep(self) -> None:
        """Remove what processes that are proven dead left half done. Never waits and never fails; cheap when clean."""
        leftovers.sweep(self.directory)
