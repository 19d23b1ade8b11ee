"""A file that says which process is at work, and how others prove that the process is dead.

It decides identity, heartbeats and proof of death for everything that has an owner: claims, staging directories and
leases. It does not decide what happens when an owner is dead.

Process ids and host names are not identities: pods share a directory under different process id namespaces, names are
reused, clocks jump. The proofs, strongest first:

1. same boot and same process id namespace: ``/proc`` says whether this process (id and start time) lives;
2. same boot: the owner holds an ``flock`` on its beacon until the kernel ends it; used only after a self-test showed
   that locks work on this file system at all, and only ever to prove death;
3. otherwise the beacon's contents, a counter that a living owner advances every :data:`HEARTBEAT_S`, did not change
   while the observer watched for :data:`STALE_S` by its own monotonic clock. No two clocks are ever compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import re
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from trtbuild.console import log
from trtbuild.console.log import format_duration
from trtbuild.store import disk

HEARTBEAT_S = 2.0
STALE_S = 20.0
SILENT_S = 15 * 60.0
_RECORD_BYTES = 2048
_MAX_BYTES = 1 << 16
_MAX_TIME_S = float(1 << 40)  # 36812 AD: more than any calendar here can show is damage
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, named so that it cannot be mistaken for another.

    Attributes:
        token: Unique name of this beacon.
        label: Pod or host name, for people.
        pid: Process id inside ``pid_namespace``.
        start_ticks: Start time in clock ticks since boot, which a reused pid does not share; survives exec.
        boot_id: The kernel's name for this boot of this machine; empty if unknown.
        pid_namespace: The kernel's name for the process id namespace; empty if unknown.
        uid: Effective user id.
        since: When work began, in seconds since 1970 by the owner's clock; for people only.
        phase: What it is doing, in a word or two.
        beats: Heartbeats so far.
        elapsed_s: Seconds since work began, by the owner's monotonic clock.
    """

    token: str
    label: str
    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: str
    uid: int
    since: float
    phase: str = ""
    beats: int = 0
    elapsed_s: float = 0.0

    def describe(self) -> str:
        """Return who, since when and doing what, in one line."""
        began = time.strftime("%H:%M:%SZ", time.gmtime(self.since))
        phase = f", phase {self.phase}" if self.phase else ""
        return f"{self.label} pid {self.pid} since {began} ({format_duration(self.elapsed_s)}){phase}"


_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("token", "label", "boot_id", "pid_namespace", "phase"), (str,)),
    **dict.fromkeys(("pid", "start_ticks", "uid", "beats"), (int,)),
    **dict.fromkeys(("since", "elapsed_s"), (float, int)),
}

UNKNOWN = Owner(
    token="unknown",  # noqa: S106 - the name of a beacon
    label="somebody (unreadable beacon)",
    pid=0,
    start_ticks=0,
    boot_id="",
    pid_namespace="",
    uid=0,
    since=0.0,
)
"""Stands for the owner of a beacon that cannot be read: nothing can be proven about it but silence."""


def current_owner(label: str | None, *, now: float) -> Owner:
    """Return this process as an owner with a new token; ``now`` in seconds since 1970."""
    return Owner(
        token=uuid.uuid4().hex,
        label=_printable(label or socket.gethostname()),
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        boot_id=_read_boot_id(),
        pid_namespace=_read_pid_namespace(),
        uid=os.geteuid(),
        since=now,
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _read_pid_namespace() -> str:
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot; None when it is gone, a zombie, or not to be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the program's name, may hold anything, also spaces and brackets. Source: proc(5).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def process_is_dead(pid: int, ticks: int) -> bool | None:
    """Say whether the process of this pid namespace is gone; None when it cannot be known (hidden ``/proc``)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    found = start_ticks(pid)
    if found is not None:
        return ticks not in {0, found}
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return state in {"Z", "X"}


def encode(owner: Owner) -> bytes:
    """Return the beacon's bytes, always the same length, so that a beat overwrites in place."""
    text = json.dumps(asdict(owner), sort_keys=True)
    if len(text) >= _RECORD_BYTES:
        text = json.dumps({**asdict(owner), "label": owner.label[:64], "phase": owner.phase[:64]}, sort_keys=True)
    return text.ljust(_RECORD_BYTES - 1).encode() + b"\n"


def read(path: Path) -> Owner | None:
    """Return the owner named in a beacon; None when there is no such file.

    Raises:
        ValueError: The file is not a whole beacon.
        OSError: It cannot be read.
    """
    try:
        # Opened anew each time: on NFS only open() promises fresh contents. Source: nfs(5), close-to-open consistency.
        owner = Owner(**json.loads(disk.read_small(path, limit_bytes=_MAX_BYTES)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a whole beacon ({error})") from None
    for name, kinds in _KINDS.items():
        value = getattr(owner, name)
        if type(value) not in kinds or (str in kinds and not value.isprintable()):
            raise ValueError(f"{path.name}: expected {name} to be a plain {kinds[0].__name__}")
    if not re.fullmatch(r"[0-9A-Za-z]{1,64}", owner.token):
        raise ValueError(f"{path.name}: expected a plain token")
    if not all(math.isfinite(value) and 0 <= value < _MAX_TIME_S for value in (owner.since, owner.elapsed_s)):
        raise ValueError(f"{path.name}: expected a time, got {owner.since} and {owner.elapsed_s}")
    return owner


@functools.cache
def locks_work(directory: Path) -> bool:
    """Say whether ``flock`` excludes here: some network file systems grant every lock to everyone, or none at all."""
    probe = directory / f".probe.{uuid.uuid4().hex}.tmp"
    first = second = -1
    try:
        first = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        second = os.open(probe, os.O_RDONLY)
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            pass
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        for fd in (first, second):
            if fd >= 0:
                os.close(fd)
        with contextlib.suppress(OSError):  # a read-only file system refuses even to look for it
            probe.unlink(missing_ok=True)


def _flock_is_free(path: Path, token: str) -> bool | None:
    """Say whether nobody holds the flock of the beacon named ``token``; None when it cannot be known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # The path may name another beacon by now; what was locked is what must be judged.
        return f'"{token}"'.encode() in os.pread(fd, _RECORD_BYTES, 0) or None
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(fd)


def can_be_judged(path: Path, owner: Owner) -> bool:
    """Say whether life or death of an owner can be proven at once, without watching for heartbeats."""
    if not owner.boot_id or owner.boot_id != _read_boot_id():
        return False
    if owner.pid_namespace and owner.pid_namespace == _read_pid_namespace():
        return process_is_dead(owner.pid, owner.start_ticks) is not None
    return locks_work(path.parent)


def is_silent(path: Path, owner: Owner) -> bool:
    """Say whether an owner that cannot be judged has not been heard of for :data:`SILENT_S`.

    A look at the file's age by its file system's clock, for those who cannot watch. No proof: a jump of that clock
    makes a living owner look silent until its next heartbeat, so nothing it would miss may depend on this alone.
    """
    if can_be_judged(path, owner):
        return False
    try:
        return disk.file_system_now(path.parent) - path.lstat().st_mtime > SILENT_S
    except OSError:
        return False


def proof_of_death(path: Path, owner: Owner, *, unchanged_s: float) -> str | None:
    """Return why the owner of a beacon must be dead, in words, or None while it may live.

    Args:
        path: The beacon.
        owner: What it said when it was last read.
        unchanged_s: How long the caller has watched it not change, in seconds of the caller's monotonic clock.
    """
    same_boot = bool(owner.boot_id) and owner.boot_id == _read_boot_id()
    if same_boot and owner.pid_namespace and owner.pid_namespace == _read_pid_namespace():
        dead = process_is_dead(owner.pid, owner.start_ticks)
        if dead is not None:
            return f"process {owner.pid} is gone" if dead else None
    if same_boot and locks_work(path.parent):
        free = _flock_is_free(path, owner.token)
        if free is not None:
            return "the kernel has released its lock" if free else None
    if unchanged_s >= STALE_S:
        return f"no heartbeat for {format_duration(unchanged_s)}"
    return None


class Watch:
    """Remembers how long each beacon has not changed, by this process's monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def unchanged_s(self, path: Path) -> float:
        """Look at the beacon again and return for how long it has had the contents it has now, in seconds."""
        now = time.monotonic()
        try:
            data = disk.read_small(path, limit_bytes=_MAX_BYTES)
        except ValueError:
            data = b""  # no beacon at all, and it stays the same nothing until somebody replaces it
        except OSError:
            self._seen.pop(path, None)
            return 0.0
        before = self._seen.get(path)
        if before is None or before[0] != data:
            self._seen[path] = (data, now)
            return 0.0
        return now - before[1]


class Beacon:
    """A beacon that this process keeps alive; made by :func:`light`. A context manager that puts it out."""

    def __init__(self, path: Path, owner: Owner, fd: int) -> None:
        self.path = path
        self.owner = owner
        self._fd = fd
        self._began = time.monotonic()
        self._phase = owner.phase
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"beacon-{path.name[:12]}", daemon=True)
        self._thread.start()
        _lit.add(self)

    def set_phase(self, phase: str) -> None:
        """Tell those who look what is being done now."""
        with self._lock:
            self._phase = phase
        self._beat()

    def keep_over_exec(self) -> None:
        """Let the program this process becomes go on holding the lock; its pid and start time stay the same anyway."""
        os.set_inheritable(self._fd, True)

    def close(self, *, remove: bool = True) -> None:
        """Stop the heartbeat and remove the file (unless its place is to be kept)."""
        if self._fd < 0:
            return
        self._stop.set()
        self._thread.join()
        with self._lock:
            try:
                if remove:
                    with disk.explained("remove a beacon", self.path):
                        disk.unlink(self.path)
            finally:
                os.close(self._fd)
                self._fd = -1

    def drop_in_fork(self) -> None:
        """Let go of the beacon in a forked child: it is the parent's, and must not burn on when the parent dies."""
        self._lock = threading.Lock()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _beat(self) -> None:
        with self._lock:
            if self._fd < 0:
                return
            elapsed_s = round(time.monotonic() - self._began, 1)
            changed: Mapping[str, object] = {
                **asdict(self.owner),
                "beats": self.owner.beats + 1,
                "elapsed_s": elapsed_s,
                "phase": self._phase,
            }
            self.owner = Owner(**changed)  # type: ignore[arg-type] # the fields of Owner itself
            try:
                os.pwrite(self._fd, encode(self.owner), 0)
                # On NFS the others see a write only after it was flushed.
                os.fsync(self._fd)
            except OSError as error:
                log.get().debug("store-heartbeat", f"{self.path}: heartbeat not written: {error}")

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            self._beat()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_lit: weakref.WeakSet[Beacon] = weakref.WeakSet()


def _drop_all_in_fork() -> None:
    for lit in list(_lit):
        lit.drop_in_fork()


os.register_at_fork(after_in_child=_drop_all_in_fork)


def light(path: Path, owner: Owner, *, mode: int = disk.FILE_MODE, group: int | None = None) -> Beacon | None:
    """Create the beacon ``path`` for ``owner``; None when there is one already. Exactly one of many callers succeeds.

    The file appears whole and locked: it is written under another name and linked. Where hard links do not exist
    it is created in place, and readers must expect to meet it half written.
    """
    draft = path.with_name(f".{owner.token}.tmp")
    disk.fault_hook("beacon-draft", draft)
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _fill(fd, owner, mode=mode, group=group)
        disk.fault_hook("beacon-link", path)
        try:
            os.link(draft, path)
        except FileExistsError:
            os.close(fd)
            return None
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}:
                raise
            os.close(fd)
            return _light_in_place(path, owner, mode=mode, group=group)
        return Beacon(path, owner, fd)
    except OSError:
        _close_quietly(fd)
        raise
    finally:
        draft.unlink(missing_ok=True)


def _light_in_place(path: Path, owner: Owner, *, mode: int, group: int | None) -> Beacon | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    try:
        _fill(fd, owner, mode=mode, group=group)
    except OSError:
        _close_quietly(fd)
        path.unlink(missing_ok=True)
        raise
    return Beacon(path, owner, fd)


def _fill(fd: int, owner: Owner, *, mode: int, group: int | None) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # No locks here: death is proven by silence alone.
        log.get().debug("store-flock", "this file system has no locks; heartbeats are used instead")
    os.pwrite(fd, encode(owner), 0)
    if group is not None and os.fstat(fd).st_gid != group:
        os.fchown(fd, -1, group)
    os.fchmod(fd, mode)
    os.fsync(fd)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
