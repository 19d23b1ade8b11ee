"""Versions of a repository on disk: one writer at a time, swapped in by a rename, old ones removed.

It decides how versions replace each other; the package says why they look as they do. What they hold is ``render.py``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from trtbuild import untrusted
from trtbuild.console import log
from trtbuild.errors import RepositoryError
from trtbuild.repository.files import PYTHON_LEFTOVERS, RECORD, Files, Record, files_below

KEPT_VERSIONS = 2
"""Versions that stay on disk: the current one and the one a running server may have been started with."""

LEFTOVER_AGE_S = 3600.0
"""Where no lock can prove a writer dead, it is taken for dead this long after it began; writing takes a second."""

_VERSION = re.compile(r"[0-9a-f]{16}")
_LEFTOVER = re.compile(r"\.(?:staging|link)-(?:(?P<boot>[0-9a-f]{12})-)?[0-9a-f]{32}")
_RECORD_LIMIT_BYTES = 1 << 20


def versions_directory(root: Path) -> Path:
    """Return where the versions of a repository are kept."""
    return root.parent / f".{root.name}.versions"


@contextlib.contextmanager
def writing(root: Path) -> Iterator[str]:
    """Let one writer at a time read, extend and replace a repository; where locks do not work, the last one wins.

    Yields the name of this boot of this machine when the lock excludes all other writers of this boot, else nothing.
    """
    versions = versions_directory(root)
    if versions.is_symlink():
        raise RepositoryError(
            f"{versions} is a symbolic link to {versions.readlink()}, and what is there is not trtbuild's to remove",
            hint=f"find out who made it; then: rm {versions}, or pass another --repository",
        )
    versions.mkdir(exist_ok=True)
    path = versions / ".lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield _boot() if _excludes(path) else ""
    finally:
        os.close(lock)


def _excludes(path: Path) -> bool:
    """Say whether the lock that is held on ``path`` keeps others out: some file systems grant every lock, or none."""
    second = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(second)
    return False


def _boot() -> str:
    """Return 12 hex digits that all processes of this machine share until it is started again; empty if unknown."""
    with contextlib.suppress(OSError):
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()  # Source: random(4)
        return name.replace("-", "")[:12]
    return ""


def _scratch(versions: Path, kind: str, boot: str) -> Path:
    """Return a new name for what is not finished; with the boot whose writers the lock keeps apart, if it does."""
    return versions / f".{kind}-{f'{boot}-' if boot else ''}{uuid.uuid4().hex}"


def sweep(versions: Path, boot: str) -> None:
    """Remove what writers left that died before they could.

    Whoever wrote during this boot under the lock that this process now holds is dead. Of all others (another node,
    an earlier boot, a file system without locks) only the age is known, by the clock that stamps the files.
    """
    found = [(path, match) for path in versions.iterdir() if (match := _LEFTOVER.fullmatch(path.name))]
    if not found:
        return
    os.utime(versions / ".lock")
    now = (versions / ".lock").stat().st_mtime
    for path, match in found:
        with contextlib.suppress(FileNotFoundError):
            if (boot and match["boot"] == boot) or now - path.lstat().st_mtime > LEFTOVER_AGE_S:
                # Renamed first: a writer that lives after all fails, and never finishes what is half removed.
                _remove(path.rename(versions / f".damaged-{uuid.uuid4().hex}"))
                log.get().debug("repository_swept", f"removed {path}, which a dead writer left")


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def refuse_foreign(root: Path) -> None:
    """Refuse to replace what this module did not write."""
    if root.is_symlink():
        if versions_directory(root).resolve() in root.resolve().parents:
            return
        raise RepositoryError(
            f"{root} is a symbolic link to {root.readlink()}, which is no repository of trtbuild",
            hint="remove the link, or pass another --repository",
        )
    if not root.exists():
        return
    if root.is_dir() and not any(root.iterdir()) and not root.is_mount():
        root.rmdir()
        return
    what = "is a mount point" if root.is_mount() else "exists and was not written by trtbuild"
    raise RepositoryError(
        f"{root} {what}; it cannot be replaced at once", hint=f"pass --repository {root / 'repository'}"
    )


def read_current(root: Path) -> tuple[Record, Files]:
    """Return the record and the files of the current version, both empty when there is none."""
    if not root.exists():
        return {}, {}
    try:
        record = untrusted.read(root / RECORD, _RECORD_LIMIT_BYTES)["served"]
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise RepositoryError(
            f"{root / RECORD} is damaged: {error!r}", hint=f"remove {root} and write its models again"
        ) from error
    base = root.resolve()
    files = {path.relative_to(base).as_posix(): path.read_bytes() for path in files_below(base)}
    for path in base.rglob("*"):
        if path.is_dir() and path.name not in PYTHON_LEFTOVERS and not any(path.iterdir()):
            files[path.relative_to(base).as_posix() + "/"] = b""
    return record, files


def _digest(files: Files) -> str:
    digest = hashlib.sha256()
    for path, data in files.items():
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def swap_in(root: Path, record: Record, files: Files, boot: str) -> Path:
    """Bring ``files`` to disk as a version and make ``root`` point to it."""
    versions = versions_directory(root)
    version = versions / _digest(files)
    if not _holds(version, files):
        staging = _scratch(versions, "staging", boot)
        try:
            _write(staging, files)
            if version.exists():  # it was changed; its contents cannot be trusted
                version.rename(versions / f".damaged-{uuid.uuid4().hex}")
            try:
                staging.rename(version)
            except OSError:
                if not _holds(version, files):  # where locks do not work, another writer of the same was faster
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    target = Path(versions.name) / version.name
    if not root.is_symlink() or root.readlink() != target:
        link = _scratch(versions, "link", boot)
        link.symlink_to(target)
        link.replace(root)
        log.get().debug("repository_swap", f"{root} now is version {version.name}", models=sorted(record))
    os.utime(version)
    _remove_old(versions, version)
    return root


def _holds(version: Path, files: Files) -> bool:
    """Return whether a version on disk has exactly these contents, apart from what Python leaves behind."""
    if not version.is_dir():
        return False
    wanted = {path for path in files if not path.endswith("/")}
    present = {path.relative_to(version).as_posix() for path in files_below(version)}
    return present == wanted and all((version / path).read_bytes() == files[path] for path in wanted)


def _write(directory: Path, files: Files) -> None:
    directory.mkdir()
    for path, data in files.items():
        target = directory / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _remove_old(versions: Path, current: Path) -> None:
    """Remove versions that no server can have been started with since the last two writes."""
    others = [path for path in versions.iterdir() if path != current]
    named = [(_written(path), path) for path in others if _VERSION.fullmatch(path.name)]
    old = [path for _, path in sorted(named, reverse=True)[KEPT_VERSIONS - 1 :]]
    for path in [*old, *(path for path in others if path.name.startswith(".damaged-"))]:
        _remove(path)


def _written(path: Path) -> float:
    with contextlib.suppress(OSError):  # where locks do not work, another writer may remove it meanwhile
        return path.lstat().st_mtime
    return 0.0
