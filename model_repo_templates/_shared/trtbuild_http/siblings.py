"""The models of one server: each listens on a socket in a private directory, and finds the others there.

A file's name says which model and version listens; whoever finds that nobody does removes it. What a model is and
offers is asked over its socket once, since a name may be too long for a socket's path.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtbuild_http import jsontext
from trtbuild_http.errors import EndpointError
from trtbuild_http.relay import ask

DESCRIPTION_PATH = "/internal/model"
METRICS_PATH = "/internal/metrics"
_MOST_PATH_BYTES = 107
"""Of a Unix socket. Source: unix(7)."""
_FILE = re.compile(r"(?P<name>[^/]+)@(?P<version>\d+)\.(?P<pid>\d+)\.sock")
_YOUNG_S = 0.1
"""A directory that changed this recently is read again: two changes within one tick of its clock look like one."""

_ASK_AGAIN_S = 5.0


@dataclass(frozen=True)
class Socket:
    """A socket file: of which version, since when, where."""

    version: int
    since_ns: int
    path: str


@dataclass(frozen=True)
class Sibling:
    """Another model of this server, as it describes itself."""

    socket: Socket
    name: str
    aliases: frozenset[str]
    routes: frozenset[str]


def open_directory(directory: str) -> int:
    """Return a descriptor of the private directory, which is made if need be and kept from being cleaned away.

    Raises:
        EndpointError: It cannot be used, or others could put a socket into it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            Path(directory).mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise EndpointError(f"the endpoint's runtime_dir cannot be used: {error}") from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise EndpointError(
                f"the endpoint's runtime_dir {directory} must belong to this user (uid {os.geteuid()}) and have mode "
                f"0700, got uid {status.st_uid} and mode {stat.S_IMODE(status.st_mode):04o}"
            )
        # `trtbuild serve` removes such directories of ended servers: those that nobody has locked.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise EndpointError(f"the endpoint's runtime_dir {directory} is being removed: {error}") from None
    except EndpointError:
        os.close(descriptor)
        raise
    return descriptor


def listen(directory: str, name: str, version: str) -> tuple[socket.socket, Path]:
    """Return a listening socket for a model and its path.

    It gets its name when it listens: before, a sibling would find that nobody answers, and remove it.
    """
    number = version if version.isdigit() else "0"
    ending = f"@{number}.{os.getpid()}.sock"
    quoted = urllib.parse.quote(name, safe="")
    room = _MOST_PATH_BYTES - len(os.fsencode(directory)) - 1 - len(ending)
    if len(quoted) > room:
        quoted = f"~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    path = Path(directory) / (quoted + ending)
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise EndpointError(
            f"the endpoint's runtime_dir {directory} is too long: a socket's path has at most {_MOST_PATH_BYTES} bytes"
        )
    hidden = Path(directory) / f".{os.getpid()}.{os.urandom(3).hex()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(hidden))
        made.listen(1024)
        made.setblocking(False)
        hidden.rename(path)
    except OSError as error:
        made.close()
        raise EndpointError(f"the endpoint cannot listen at {path}: {error}") from None
    return made, path


class Siblings:
    """The other models, as far as they answer. Belongs to the loop's thread."""

    def __init__(self, directory: str, own: Path, log: Callable[[str], None]) -> None:
        self._directory = directory
        self._own = str(own)
        self._log = log
        self._changed_ns = -1
        self._sockets: tuple[Socket, ...] = ()
        self._own_socket: Socket | None = None
        self._known: dict[Socket, Sibling] = {}
        self._asked: dict[Socket, tuple[asyncio.Task[None], float]] = {}

    def sockets(self) -> tuple[Socket, ...]:
        """Return the sockets of the other models, the newest version first."""
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns  # noqa: PTH116 - on the way of every request
        except OSError:
            return ()
        if changed_ns != self._changed_ns:
            self._scan()
            self._changed_ns = changed_ns if time.time_ns() - changed_ns > _YOUNG_S * 1e9 else -1
        return self._sockets

    @property
    def last_known(self) -> list[Sibling]:
        """The models that have described themselves so far."""
        return list(self._known.values())

    def is_newer_than_own(self, sibling: Sibling) -> bool:
        """Return whether a sibling with our name is the one to ask."""
        own = self._own_socket
        return own is None or _order(sibling.socket) > _order(own)

    async def known(self) -> list[Sibling]:
        """Return the models that describe themselves, the newest version first."""
        sockets = self.sockets()
        if unknown := [each for each in sockets if each not in self._known]:
            await asyncio.gather(*filter(None, map(self._description_of, unknown)))
        self._known = {each: self._known[each] for each in sockets if each in self._known}
        self._asked = {each: self._asked[each] for each in sockets if each in self._asked}
        return list(self._known.values())

    def _description_of(self, one: Socket) -> asyncio.Task[None] | None:
        """Return the task that asks a sibling what it is; None if it was asked of late and gave no answer.

        One that stands still must not make all requests of the others wait for it, again and again.
        """
        now = asyncio.get_running_loop().time()
        task, asked_at = self._asked.get(one, (None, 0.0))
        if task is not None and not task.done():
            return task
        if task is not None and now - asked_at < _ASK_AGAIN_S:
            return None
        task = asyncio.get_running_loop().create_task(self._describe(one))
        self._asked[one] = task, now
        return task

    def forget(self, gone: Socket) -> None:
        """Remove the file of a model that nobody answers for."""
        self._known.pop(gone, None)
        self._changed_ns = -1
        with contextlib.suppress(OSError):
            Path(gone.path).unlink()
            self._log(f"removed {gone.path}: the model that listened there has ended")

    async def ask(self, one: Socket, path: str) -> bytes | None:
        """Return a sibling's answer to a question of ours; None if it gives none in time."""
        try:
            status, body = await ask(one.path, path)
        except OSError as error:
            if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                self.forget(one)
            return None
        return body if status == 200 else None

    def _scan(self) -> None:
        found = []
        self._own_socket = None
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                match = _FILE.fullmatch(entry.name)
                if match is None or len(match["version"]) > 18:
                    continue
                with contextlib.suppress(OSError):
                    each = Socket(int(match["version"]), entry.stat().st_mtime_ns, entry.path)
                    if entry.path == self._own:
                        self._own_socket = each
                    else:
                        found.append(each)
        self._sockets = tuple(sorted(found, key=_order, reverse=True))

    async def _describe(self, one: Socket) -> None:
        body = await self.ask(one, DESCRIPTION_PATH)
        if body is None:
            return
        document = jsontext.loads(body)
        self._known[one] = Sibling(one, document["name"], frozenset(document["aliases"]), frozenset(document["routes"]))


def _order(one: Socket) -> tuple[int, int]:
    return one.version, one.since_ns
