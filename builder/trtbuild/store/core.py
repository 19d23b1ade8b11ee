"""The store: one directory of published engines, shared by any number of processes and pods.

It decides what is published, found, kept and removed. Correctness rests on ``publish`` alone: an entry is staged,
described by a manifest written last, and renamed into place, so that it is absent or whole whoever dies when.
Claims, leases and budgets save work and room; none of them is needed for a right answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtbuild.console import log
from trtbuild.console.log import format_duration
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue, VerifyMode
from trtbuild.store import beacon, disk, durations, leases, leftovers, links
from trtbuild.store import entries as reading
from trtbuild.store.beacon import Beacon
from trtbuild.store.claims import Claims, Held
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Broken, Entry, Explanation, Miss
from trtbuild.store.files import Problem, check_files, hash_files, list_files
from trtbuild.store.leases import Lease
from trtbuild.store.manifest import MANIFEST, FileRecord, Manifest, make_manifest
from trtbuild.store.owner import Owner, current_owner
from trtbuild.store.sharing import Sharing, give_back_to_group, sharing_of

WAIT_REPORT_S = 10.0
_POLL_S = (0.1, 1.0)
_PUBLISH_ATTEMPTS = 8
_PUT_BACK_S = 2.0
_GET_ANOTHER = "get another copy, or build the engine here"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things are below the root."""

    root: Path

    @property
    def engines(self) -> Path:
        """Published entries."""
        return self.root / "engines"

    @property
    def staging(self) -> Path:
        """Builds under way, one directory and one ``.owner`` beacon each."""
        return self.root / ".staging"

    @property
    def claims(self) -> Path:
        """Who builds which key."""
        return self.root / ".claims"

    @property
    def leases(self) -> Path:
        """Who uses which entry."""
        return self.root / ".leases"

    @property
    def downloads(self) -> Path:
        """Unfinished downloads from the shared tier, one directory per digest, resumed by whoever comes next."""
        return self.root / ".downloads"

    @property
    def quarantine(self) -> Path:
        """Entries that failed a check, kept for inspection until collected."""
        return self.root / ".quarantine"

    @property
    def trash(self) -> Path:
        """Entries on their way out."""
        return self.root / ".trash"

    @property
    def used(self) -> Path:
        """One file per digest; its modification time is the last use."""
        return self.root / ".state" / "used"

    @property
    def pins(self) -> Path:
        """One file per pinned digest."""
        return self.root / ".state" / "pins"

    @property
    def durations(self) -> Path:
        """Recorded build times."""
        return self.root / ".state" / "durations"

    @property
    def logs(self) -> Path:
        """Logs of failed builds."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Work directories that were asked to be kept."""
        return self.root / "checkpoints"

    def own(self) -> tuple[Path, ...]:
        """Return every directory that the store itself writes to or removes from."""
        places = (self.engines, self.staging, self.claims, self.leases, self.downloads, self.quarantine, self.trash)
        return (*places, self.used, self.pins, self.durations, self.logs, self.checkpoints)

    def entry(self, key: EngineKey) -> Path:
        """Return where the entry of ``key`` is, or would be."""
        return self.engines / key.relative_path


class Claim:
    """What :meth:`Store.lock` yields.

    Attributes:
        is_held: False when the entry appeared while waiting, so that nothing needs to be built.
        waited_s: Seconds spent waiting for another builder.
    """

    def __init__(self, held: Held | None, waited_s: float) -> None:
        self._held = held
        self.waited_s = waited_s

    @property
    def is_held(self) -> bool:
        """Whether this process is the builder."""
        return self._held is not None

    def set_phase(self, phase: str) -> None:
        """Tell the waiters what is being done now."""
        if self._held:
            self._held.beacon.set_phase(phase)


class Staging:
    """A private place to build in, on the store's file system.

    Attributes:
        path: Empty directory that becomes the entry.
        work_dir: Scratch space; ``*.log`` files in it are kept when the build fails.
    """

    def __init__(self, directory: Path, owner: Beacon, claim: Claim | None) -> None:
        self._directory = directory
        self._owner = owner
        self._claim = claim
        self.path = directory / "engine"
        self.work_dir = directory / "work"

    @property
    def name(self) -> str:
        """Unique name of the staging directory."""
        return self._directory.name

    @property
    def owner(self) -> Owner:
        """The process that builds here."""
        return self._owner.owner

    def set_phase(self, phase: str) -> None:
        """Tell the waiters what is being done now: ``fetch``, ``convert``, ``build`` ..."""
        self._owner.set_phase(phase)
        if self._claim:
            self._claim.set_phase(phase)


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
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - the path as named, links kept
        self.layout = Layout(root=self.root)
        self.now = now
        self._label = label
        self._asked_sharing = Sharing(group=group, is_group_writable=is_group_writable)
        self.claims = Claims(self.layout.claims, make_owner=self._owner, sharing=self.sharing)
        self.downloads = Claims(self.layout.downloads, make_owner=self._owner, sharing=self.sharing)
        self._my_claims: dict[str, Claim] = {}

    # -- finding -----------------------------------------------------------------------------------------------------

    def get(self, key: EngineKey, *, verify: VerifyMode = "sizes") -> Entry | Miss:
        """Return the entry for ``key``, or why there is none.

        A hit costs reading the manifest and one ``stat`` per file, whatever the engine's size; ``verify="full"``
        hashes everything. Changes nothing but the time of last use.

        Raises:
            StoreError: The store cannot be read at all.
        """
        path = self.layout.entry(key)
        self._touch(key.digest, path)
        with explained("read the store", path):
            found = reading.look(path, key, verify)
        return found if isinstance(found, Miss) else self._entry(path, found)

    def ls(self) -> tuple[Entry, ...]:
        """Return every readable entry, most recently used first; what dead processes left is swept on the way.

        Raises:
            StoreError: The store cannot be read at all.
        """
        self.sweep()
        return self.entries()

    def entries(self) -> tuple[Entry, ...]:
        """Return what :meth:`ls` returns, and change nothing."""
        found: list[Entry] = []
        with explained("list the store", self.layout.engines):
            for path in reading.entry_directories(self.layout.engines):
                entry = self.at(path)
                if entry:
                    found.append(entry)
        return tuple(sorted(found, key=lambda entry: (-entry.last_used, str(entry.path))))

    def broken(self) -> tuple[Broken, ...]:
        """Return every directory among the entries that has no valid manifest or does not match it by size."""
        found: list[Broken] = []
        with explained("list the store", self.layout.engines):
            for path in reading.entry_directories(self.layout.engines):
                reason = self.is_broken(path)
                if reason:
                    found.append(Broken(path=path, reason=reason))
        return tuple(found)

    def is_broken(self, path: Path) -> str | None:
        """Return why a directory is no whole entry (by sizes), or None when it is one or is gone."""
        try:
            problems = check_files(path, reading.read_manifest(path), "sizes")
        except FileNotFoundError:
            return f"{MANIFEST} is missing" if path.is_dir() else None
        except (OSError, ValueError) as error:
            return str(error)
        return str(problems[0]) if problems else None

    def find(self, text: str) -> tuple[Entry, ...]:
        """Return the entries that ``text`` names: the beginning of a key (4 hex digits or more) or a path."""
        wanted = text.strip().lower()
        path = Path(os.path.abspath(text))  # noqa: PTH100 - the path as named, links kept
        is_prefix = len(wanted) >= 4 and all(char in "0123456789abcdef" for char in wanted)
        return tuple(
            entry
            for entry in self.entries()
            if (is_prefix and entry.digest.startswith(wanted)) or entry.path == path or entry.path in path.parents
        )

    def verify(self, entry: Entry, mode: VerifyMode = "full") -> tuple[Problem, ...]:
        """Compare an entry with its manifest, read anew; hashes in parallel when ``full``."""
        with explained("verify an entry", entry.path):
            try:
                manifest = reading.read_manifest(entry.path)
            except FileNotFoundError:
                return (Problem(file=MANIFEST, message="is missing"),)
            except ValueError as error:
                return (Problem(file=MANIFEST, message=str(error).removeprefix(f"{MANIFEST}: ")),)
            if manifest.key.digest != entry.digest:
                return (Problem(file=MANIFEST, message=f"expected key {entry.short}, got {manifest.key.short}"),)
            return check_files(entry.path, manifest, mode)

    def explain(self, key: EngineKey, *, shared: str | None = None) -> Explanation:
        """Say why ``key`` is a hit or a miss, and what the store has that is most like it.

        Args:
            key: The key asked for.
            shared: What :meth:`Shared.describe` says of it, to be passed on.
        """
        found = self.get(key)
        nearest, differences = (None, ()) if isinstance(found, Entry) else reading.nearest(key, self.entries())
        with explained("read the claims", self.layout.claims):
            links.refuse_links(self.layout.claims, below=self.root)
            builder = self.claims.holder(key.digest)
        return Explanation(
            key=key,
            local=found,
            shared=shared,
            nearest=nearest,
            differences=differences,
            builder=builder.describe() if builder else None,
            estimate_s=self.estimate(key),
        )

    def at(self, path: Path) -> Entry | None:
        """Return the entry in a directory, or None when there is none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            return self._entry(path, reading.read_manifest(path))
        return None

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
        with explained("claim a key", self.layout.claims):
            self.prepare(self.layout.claims)
            claim = self._wait_for(key, on_wait or _report_wait)
        self.sweep()
        if claim.is_held:
            self._my_claims[key.digest] = claim
        try:
            yield claim
        finally:
            if claim._held:
                self._my_claims.pop(key.digest, None)
                try:
                    self.claims.release(claim._held)
                except StoreError as error:
                    # What was built is built; the claim ends with this process at the latest.
                    log.get().warning("store-claim-left", error.message)

    def _wait_for(self, key: EngineKey, on_wait: Callable[[Owner, float], None]) -> Claim:
        began = time.monotonic()
        next_report, pause = began, _POLL_S[0]
        while True:
            outcome = self.claims.try_claim(key.digest)
            now = time.monotonic()
            if isinstance(outcome, Held):
                return Claim(outcome, now - began)
            if (self.layout.entry(key) / MANIFEST).exists() and isinstance(self.get(key), Entry):
                return Claim(None, now - began)
            if now >= next_report:
                on_wait(outcome.owner, now - began)
                next_report += WAIT_REPORT_S
            time.sleep(pause)
            pause = min(_POLL_S[1], pause * 1.2)

    @contextlib.contextmanager
    def stage(self, key: EngineKey) -> Iterator[Staging]:
        """Give a private place to build ``key`` in; whatever was not published is removed at the end.

        Raises:
            StoreError: The store cannot be written.
        """
        owner = self._owner()
        directory = self.layout.staging / f"{key.short}.{owner.token[:12]}"
        with explained("stage a build", directory):
            self.prepare(self.layout.staging)
            # The beacon is there before the directory and goes after it: a directory without one has no owner.
            kept = self._create_beacon(directory.with_name(directory.name + ".owner"), owner)
            if kept is None:
                raise StoreError(f"{directory} is taken", hint="run the command again")
            staging = Staging(directory, kept, self._my_claims.get(key.digest))
            try:
                for path in (staging.path, staging.work_dir):
                    disk.make_dir(path, mode=self.sharing().dir_mode, group=self.sharing().group)
            except OSError:
                with contextlib.suppress(OSError):  # its beacon goes next, and nobody could tell whose the directory is
                    disk.remove_tree(directory)
                kept.close()
                raise
        try:
            yield staging
        except BaseException:
            with contextlib.suppress(OSError):
                self._keep_logs(staging)
            raise
        finally:
            try:
                disk.remove_tree(directory)
                kept.close()
            except (OSError, StoreError) as error:
                # What was published is published; what is left here is swept when this process has ended.
                log.get().warning("store-staging-left", f"could not remove {directory}: {error}")

    def publish(
        self,
        key: EngineKey,
        staging: Staging,
        provenance: Mapping[str, JsonValue],
        *,
        keep_work: bool = False,
    ) -> Entry:
        """Make what was staged the entry of ``key``; the manifest is written last, then all is renamed into place.

        When another process published first, its entry is verified by hash and returned instead.

        Args:
            key: What was built.
            staging: Where it was built.
            provenance: What should be known later; ``durations: {phase: seconds}`` feeds :meth:`estimate`.
                Anything that looks like a secret is taken out.
            keep_work: Move the work directory (the checkpoint) to ``checkpoints/`` instead of removing it.

        Raises:
            StoreError: Nothing was staged, or it cannot be written.
        """
        with explained("publish an engine", staging.path):
            self.refuse_links()
            by: dict[str, JsonValue] = {"host": staging.owner.label, "uid": staging.owner.uid}
            manifest = self._describe(key, staging, {"built_by": by, **provenance})
            entry = self._seal(staging, manifest)
            if keep_work:
                self._keep_work(key, staging)
        return entry

    def publish_verified(self, staging: Staging, manifest: Manifest) -> Entry:
        """Publish files that came with a manifest and were checked against its hashes by the caller.

        Raises:
            StoreError: They are not exactly the manifest's files, or cannot be written.
        """
        with explained("publish an engine", staging.path):
            self.refuse_links()
            problems = check_files(staging.path, manifest, "sizes")
            try:
                found = list_files(staging.path)
            except ValueError as error:
                raise StoreError(f"what was received cannot be published: {error}", hint=_GET_ANOTHER) from error
            extra = sorted(set(found) - set(manifest.files))
            if problems or extra:
                reason = str(problems[0]) if problems else f"{extra[0]} is not in the manifest"
                raise StoreError(f"what was received is not whole: {reason}", hint=_GET_ANOTHER)
            for name in found:
                disk.sync_file(staging.path / name)
            return self._seal(staging, manifest)

    def _seal(self, staging: Staging, manifest: Manifest) -> Entry:
        """Write the manifest, last, and rename all into place."""
        disk.write_file(staging.path / MANIFEST, manifest.to_bytes(), mode=self.sharing().file_mode)
        for parent, _, _ in os.walk(staging.path, topdown=False):
            disk.sync_dir(Path(parent))
        entry = self._move_in(manifest.key, staging.path, manifest)
        with contextlib.suppress(OSError):
            self.prepare(self.layout.durations)
            durations.record(
                self.layout.durations,
                manifest.key,
                manifest.provenance,
                sharing=self.sharing(),
            )
        return entry

    def _describe(self, key: EngineKey, staging: Staging, provenance: Mapping[str, JsonValue]) -> Manifest:
        try:
            found = list_files(staging.path)
        except ValueError as error:
            raise StoreError(
                f"the engine cannot be published: {error}", hint="this is a fault of the engine backend; please report"
            ) from error
        if not found:
            raise StoreError("the build left no files", hint="look at the build's log for the reason")
        for name in found:
            disk.sync_file(staging.path / name)
        files: dict[str, FileRecord] = {}
        for name, digest in hash_files(staging.path, list(found)):
            if isinstance(digest, OSError):
                raise digest
            files[name] = FileRecord(size=found[name].st_size, sha256=digest)
        return make_manifest(key, files, provenance, now=self.now())

    def _move_in(self, key: EngineKey, staged: Path, manifest: Manifest) -> Entry:
        target = self.layout.entry(key)
        for _ in range(_PUBLISH_ATTEMPTS):
            self.prepare(target.parent)
            try:
                disk.rename(staged, target)
            except OSError as error:
                if error.errno == errno.ENOENT and staged.exists():
                    continue  # a collector removed the empty parent in between
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                peer = reading.look(target, key, "full")
                if isinstance(peer, Manifest):
                    log.get().info("store-peer-won", f"another process published {key.short} first; using its engine")
                    self._touch(key.digest, target)
                    return self._entry(target, peer)
                self.set_aside(target, peer.reason)
                continue
            disk.sync_dir(target.parent)
            self.close_entry(target)
            self._touch(key.digest, target)
            return self._entry(target, manifest)
        raise StoreError(
            f"{target} keeps changing while it is replaced",
            hint="another program writes there; give trtbuild a directory of its own with --store",
        )

    def close_entry(self, path: Path) -> None:
        """Make a published entry read-only; in a group's store its directories stay writable for collection."""
        disk.make_read_only(path, dir_mode=self.sharing().entry_dir_mode)

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a bad entry to the quarantine, where nothing is ever used from."""
        moved = self._move_aside(path, self.layout.quarantine)
        if moved:
            log.get().warning("store-quarantine", f"moved {path} aside to {moved}: {reason}", path=str(moved))

    def _keep_work(self, key: EngineKey, staging: Staging) -> None:
        target = self.layout.checkpoints / key.relative_path
        self.prepare(target.parent)
        if target.exists():
            disk.remove_tree(target)
        with contextlib.suppress(FileNotFoundError):
            disk.rename(staging.work_dir, target)

    def _keep_logs(self, staging: Staging) -> None:
        logs = sorted(path for path in staging.work_dir.rglob("*.log") if path.is_file() and not path.is_symlink())
        if not logs:
            return
        target = self.layout.logs / staging.name
        self.prepare(target)
        for path in logs:
            path.rename(target / "-".join(path.relative_to(staging.work_dir).parts))
        log.get().info("store-logs-kept", f"the build's logs are in {target}", path=str(target))

    # -- pieces ------------------------------------------------------------------------------------------------------

    def sharing(self) -> Sharing:
        """Return the group and modes of what is created here: those of the root, else those asked for."""
        asked = self._asked_sharing
        return asked if asked.group is not None else sharing_of(self.root) or asked

    def refuse_links(self) -> None:
        """Refuse a store one of whose own directories is a link: what is behind it is somebody else's.

        Raises:
            OSError: ``ELOOP`` with the link's path.
        """
        for directory in self.layout.own():
            links.refuse_links(directory, below=self.root)

    def _move_aside(self, path: Path, into: Path) -> Path | None:
        sharing = self.sharing()
        moved = disk.move_aside(
            path, into, label=path.name, below=self.root, mode=sharing.dir_mode, group=sharing.group
        )
        give_back_to_group(into, sharing)
        return moved

    def _create_beacon(self, path: Path, owner: Owner) -> Beacon | None:
        sharing = self.sharing()
        return beacon.create(path, owner, mode=sharing.file_mode, group=sharing.group)

    def _owner(self) -> Owner:
        return current_owner(self._label, now=self.now())

    def prepare(self, directory: Path) -> None:
        """Create a directory of the store, and the root with its tag.

        Raises:
            OSError: It cannot be created, or a link is in its place.
        """
        self.refuse_links()
        links.refuse_links(directory, below=self.root)
        sharing = self.sharing()
        disk.tag_root(self.root, mode=sharing.dir_mode, group=sharing.group)
        disk.make_dir(directory, mode=sharing.dir_mode, group=sharing.group)
        for part in (directory, *directory.parents):
            if self.root not in part.parents:
                break
            give_back_to_group(part, sharing)

    def _entry(self, path: Path, manifest: Manifest) -> Entry:
        return Entry(
            path=path,
            digest=manifest.key.digest,
            manifest=manifest,
            size_bytes=manifest.size_bytes,
            last_used=self._last_used(manifest.key.digest, path),
            is_pinned=(self.layout.pins / manifest.key.digest).exists(),
        )

    def _last_used(self, digest: str, path: Path) -> float:
        """Return the last use in seconds since 1970; a time in the future (a clock was set back) counts as now."""
        for file in (self.layout.used / digest, path / MANIFEST):
            with contextlib.suppress(OSError):
                return min(file.stat().st_mtime, self.now())
        return 0.0

    def _touch(self, digest: str, path: Path) -> None:
        """Note a use of an entry that exists; a store that cannot be written can still be read."""
        stamp, moment = self.layout.used / digest, self.now()
        try:
            links.refuse_links(stamp, below=self.root)
        except OSError as error:
            log.get().debug("store-last-use", f"last use not noted: {error}")
            return
        try:
            os.utime(stamp, (moment, moment))
        except FileNotFoundError:
            if path.is_dir():
                with contextlib.suppress(OSError):
                    self.prepare(stamp.parent)
                    disk.write_file(stamp, b"", mode=self.sharing().file_mode)
                    os.utime(stamp, (moment, moment))
        except OSError as error:
            # Another user's stamp can be set to the present, by those who may write it, but to no other time.
            try:
                os.utime(stamp)
            except OSError:
                log.get().debug("store-last-use", f"last use not noted: {error}")

    # -- using ------------------------------------------------------------------------------------------------------

    def lease(self, entry: Entry) -> Lease:
        """Keep an entry from being collected while this process, or the program it becomes, lives.

        In a store that this process may only read, the lease is an empty one and a warning says so: such a store can
        be collected by others.

        Raises:
            StoreError: The entry has been collected, or the lease cannot be written.
        """
        with explained("take a lease", self.layout.leases):
            lease = self._take_lease(entry)
            # A collector that has just moved the entry sees the lease and puts it back.
            deadline = time.monotonic() + _PUT_BACK_S
            while not (entry.path / MANIFEST).exists():
                if time.monotonic() > deadline:
                    lease.release()
                    raise StoreError(
                        f"{entry.path} was collected before it could be used",
                        hint="run the command again to rebuild it",
                    )
                time.sleep(_POLL_S[0])
        return lease

    def _take_lease(self, entry: Entry) -> Lease:
        try:
            self.prepare(self.layout.leases)
            sharing = self.sharing()
            return leases.take(
                self.layout.leases,
                entry.digest,
                make_owner=self._owner,
                mode=sharing.file_mode,
                group=sharing.group,
            )
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise
            log.get().warning("store-no-lease", f"nothing keeps {entry.short} from being collected meanwhile: {error}")
            return Lease(None)

    def user(self, entry: Entry) -> str | None:
        """Return who uses an entry, for people, or None."""
        with explained("read the leases", self.layout.leases):
            links.refuse_links(self.layout.leases, below=self.root)
            return leases.user(self.layout.leases, entry.digest)

    # -- removing ----------------------------------------------------------------------------------------------------

    def pin(self, entry: Entry) -> None:
        """Keep an entry for good: collection never takes it."""
        with explained("pin an entry", self.layout.pins):
            self.prepare(self.layout.pins)
            disk.write_file(self.layout.pins / entry.digest, b"", mode=self.sharing().file_mode)

    def unpin(self, entry: Entry) -> None:
        """Let collection take an entry again."""
        with explained("unpin an entry", self.layout.pins):
            self.refuse_links()
            disk.unlink(self.layout.pins / entry.digest)

    def remove(self, entries: Sequence[Entry]) -> int:
        """Remove entries and return the bytes freed. Show them first: this acts.

        Raises:
            StoreError: The root is not marked as a cache, or an entry is not below it, pinned, or in use; nothing was
                removed.
        """
        self.insist_on_tag()
        with explained("remove an entry", self.root):
            self.refuse_links()
        for entry in entries:
            if self.layout.engines not in entry.path.parents:
                raise StoreError(f"{entry.path} is not in the store {self.root}", hint="trtbuild store ls")
            if (self.layout.pins / entry.digest).exists():
                raise StoreError(f"{entry.short} is pinned", hint=f"trtbuild store unpin {entry.short}")
            user = self.user(entry)
            if user:
                raise StoreError(
                    f"{entry.short} is in use by {user}",
                    hint=f"stop it first; a lease that outlived its server is a file in {self.layout.leases}",
                )
        freed = 0
        with explained("remove an entry", self.root):
            for entry in entries:
                moved = self.take_out(entry.path)
                if moved:
                    disk.remove_tree(moved)
                    freed += entry.size_bytes
                self.forget(entry)
        return freed

    def sweep(self) -> None:
        """Remove what processes that are proven dead left half done. Never waits and never fails; cheap when clean."""
        layout = self.layout
        leftovers.sweep(
            self.root,
            staging=layout.staging,
            thrown=layout.trash,
            beacons=(layout.staging, layout.claims, layout.leases, layout.downloads),
        )

    def take_out(self, path: Path) -> Path | None:
        """Move a directory to the trash in one step and return where it is; None when it is gone already."""
        return self._move_aside(path, self.layout.trash)

    def forget(self, entry: Entry) -> None:
        """Remove what is known about an entry that is gone, and the directories it leaves empty."""
        for path in (self.layout.used / entry.digest, self.layout.pins / entry.digest):
            disk.unlink(path)
        for parent in (entry.path.parent, entry.path.parent.parent):
            with contextlib.suppress(OSError):
                parent.rmdir()

    def insist_on_tag(self) -> None:
        """Refuse to remove anything below a root that is not marked as a cache.

        Raises:
            StoreError: There is no tag.
        """
        if not disk.is_tagged(self.root):
            raise StoreError(
                f"{self.root} has no {disk.CACHEDIR_TAG}, so it may not be a trtbuild store; nothing was removed",
                hint="check --store; a directory that trtbuild made has the file",
            )


def _report_wait(owner: Owner, waited_s: float) -> None:
    log.get().info(
        "store-wait",
        f"waiting for {owner.describe()} to build this engine, {format_duration(waited_s)} so far",
        holder=owner.label,
        holder_pid=owner.pid,
        phase=owner.phase,
        elapsed_s=round(waited_s, 1),
    )
