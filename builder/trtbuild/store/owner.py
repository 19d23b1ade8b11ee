"""Which process is at work: who it is, as others can check it, and how that is written into a file.

It decides identity. Process ids and host names are not identities: pods share a directory under different process id
namespaces, names are reused, clocks jump. So an owner also carries its start time, its boot and its namespace.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trtbuild.console.log import format_duration
from trtbuild.store import links

RECORD_BYTES = 2048
MAX_RECORD_BYTES = 1 << 16
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
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
        uid=os.geteuid(),
        since=now,
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def boot_id() -> str:
    """Return the kernel's name for this boot of this machine; empty if unknown."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return the kernel's name for this process id namespace; empty if unknown."""
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


def encode_owner(owner: Owner) -> bytes:
    """Return the beacon's bytes, always the same length, so that a beat overwrites in place."""
    text = json.dumps(asdict(owner), sort_keys=True)
    if len(text) >= RECORD_BYTES:
        text = json.dumps({**asdict(owner), "label": owner.label[:64], "phase": owner.phase[:64]}, sort_keys=True)
    return text.ljust(RECORD_BYTES - 1).encode() + b"\n"


def read_owner(path: Path) -> Owner | None:
    """Return the owner named in a beacon; None when there is no such file.

    Raises:
        ValueError: The file is not a whole beacon.
        OSError: It cannot be read.
    """
    try:
        # Reopened each time: on NFS only open() promises fresh contents. Source: nfs(5), close-to-open consistency.
        owner = Owner(**json.loads(links.read_small(path, limit_bytes=MAX_RECORD_BYTES)))
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
