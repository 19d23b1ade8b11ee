"""What is finished, on disk before anything counts on it: an append-only journal beside the result.

A record is appended, synced and only then reported. A crash at any byte leaves whole records and at most one
torn line at the end, which the next run cuts off. The result itself is written in one piece when all is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where a finished record is: its file, its place, what it answers and whether it is an answer."""

    file: int
    offset: int
    length: int
    key: str
    is_ok: bool


def scan(file: int) -> tuple[dict[str, Found], int]:
    """Return the records of an open file by id, the last one of each, and the offset behind the last whole line.

    A whole line that is no record is passed over: what stands behind it is still true.
    """
    records: dict[str, Found] = {}
    offset = 0
    with os.fdopen(os.dup(file), "rb") as lines:
        lines.seek(0)
        for raw in lines:
            if not raw.endswith(b"\n"):
                break
            row = _record(raw)
            if row:
                records[str(row["id"])] = Found(
                    file=file, offset=offset, length=len(raw), key=str(row["key"]), is_ok="error" not in row
                )
            offset += len(raw)
    return records, offset


def _record(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and {"id", "key"} <= row.keys() else {}


class Journal:
    """The journal of one result file; only one process at a time has it."""

    def __init__(self, out: Path) -> None:
        """Open or make the journal, take its lock and read what earlier runs finished.

        Raises:
            SpecError: Another run has it, or the directory cannot be written.
        """
        self.path = out.with_name(f"{out.name}.journal")
        self._out = out
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise SpecError(
                f"cannot write {self.path}: {error.strerror}", hint="choose another -o OUT.jsonl"
            ) from error
        self._old = os.open(out, os.O_RDONLY) if out.exists() else -1
        old = scan(self._old)[0] if self._old >= 0 else {}
        new, self._end = scan(self._file)
        self.had_torn_end = os.fstat(self._file).st_size > self._end
        os.ftruncate(self._file, self._end)
        self.records: dict[str, Found] = old | new
        self._waiting: list[tuple[str, bytes, dict[str, Any], asyncio.Future[None]]] = []
        self._syncing: asyncio.Task[None] | None = None

    def _open(self) -> int:
        """Open and lock the file that is at the path now, not one that another run just removed."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise SpecError(
                    f"another run is writing {self.path}", hint="wait for it, or choose another -o OUT.jsonl"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(self.path)):  # noqa: PTH116 - os.path.samestat's kind
                    return file
            os.close(file)

    async def append(self, row: dict[str, Any]) -> None:
        """Add a record; return when it is on disk. Records of the same moment share one sync."""
        raw = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((str(row["id"]), raw, row, done))
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        await asyncio.shield(done)

    async def _sync(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(_write, self._file, b"".join(raw for _, raw, _, _ in batch))
            except OSError as error:
                failure = SpecError(f"cannot write {self.path}: {error.strerror}", hint="free space and run it again")
                for *_, done in batch:
                    if not done.done():
                        done.set_exception(failure)
                return
            for name, raw, row, done in batch:
                self.records[name] = Found(
                    file=self._file, offset=self._end, length=len(raw), key=row["key"], is_ok="error" not in row
                )
                self._end += len(raw)
                if not done.cancelled():
                    done.set_result(None)

    def read(self, name: str) -> dict[str, Any]:
        """Return the record with this id."""
        found = self.records[name]
        row = json.loads(os.pread(found.file, found.length, found.offset))
        assert isinstance(row, dict)
        return row

    def publish(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the result in one piece, in the order of ``rows``, then remove the journal.

        Raises:
            SpecError: It cannot be written.
        """
        staged = self._out.with_name(f"{self._out.name}.{os.getpid()}.new")
        try:
            with staged.open("wb") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self._out)
            _sync_directory(self._out.parent)
            self.path.unlink()
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise SpecError(
                f"cannot write {self._out}: {error.strerror}", hint=f"every answer is in {self.path}; run it again"
            ) from error

    def close(self) -> None:
        """Give the files and the lock back; a journal that holds nothing is removed."""
        with contextlib.suppress(OSError):
            status = os.fstat(self._file)
            if not status.st_size and os.path.samestat(status, os.stat(self.path)):  # noqa: PTH116 - as above
                self.path.unlink()
        os.close(self._file)
        if self._old >= 0:
            os.close(self._old)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
