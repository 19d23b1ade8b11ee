"""The Python backend of the CPU wheel, copied to one directory where the server can run it.

It decides where that directory is and whether what lies there may be run. The wheel ships one stub per Python version
outside of the backend directory, and site-packages may be read-only, so the server gets a copy. The copy is a program:
it is compared byte for byte with the wheel's files before every start, and what is not equal is replaced. It is put
where nobody else may write, where there is such a place; in a directory that others may write to, somebody could still
exchange a file between the comparison and the server's start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from trtbuild.errors import LaunchError

_CHUNK_BYTES = 1 << 20


def choose_directory(candidates: Sequence[Path]) -> Path:
    """Return where the backend goes: the first directory that only this user can write, else the first writable one.

    A directory on a file system that runs no programs is passed over.
    """
    usable = [path for path in candidates if _can_hold_programs(path)]
    return next((path for path in usable if is_private(path)), (usable or list(candidates))[0])


def is_private(path: Path) -> bool:
    """Return whether nobody but this user and root can put something at ``path``, which need not exist yet."""
    for number, directory in enumerate((path, *path.parents)):
        try:
            status = directory.lstat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        may_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a directory like /tmp others may add, but neither rename nor remove what is ours.
        is_sticky_above = number > 0 and bool(status.st_mode & stat.S_ISVTX)
        if stat.S_ISLNK(status.st_mode):
            is_ours = status.st_uid in {0, os.geteuid()}
            return is_ours and is_private(directory.parent) and is_private(directory.resolve())
        if status.st_uid not in {0, os.geteuid()} or (may_others and not is_sticky_above):
            return False
    return True


def _can_hold_programs(path: Path) -> bool:
    there = next((p for p in (path, *path.parents) if p.exists()), None)
    if there is None or not os.access(there, os.W_OK | os.X_OK):
        return False
    return not os.statvfs(there).f_flag & os.ST_NOEXEC


def lay_out(sources: Sequence[Path], program: str, cache_dir: Path, *, label: str) -> Path:
    """Return a directory with equal copies of ``sources`` below ``python``, of which ``program`` can be run.

    Args:
        sources: Files of the wheel.
        program: Name of the one that is run.
        cache_dir: Where the directory goes.
        label: Beginning of its name; a digest of the files follows, so that another wheel gets another directory.

    Raises:
        LaunchError: It cannot be written, or something there cannot be replaced.
    """
    digests = {source.name: _digest(source) for source in sources}
    whole = hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(digests.items())).encode())
    final = cache_dir / f"{label}-{whole.hexdigest()[:12]}"
    try:
        if _is_equal(final, digests):
            return final
        cache_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".triton-", dir=cache_dir))
        try:
            (staging / "python").mkdir(mode=0o755)
            for source in sources:
                copy = Path(shutil.copyfile(source, staging / "python" / source.name))
                copy.chmod(0o755 if source.name == program else 0o644)
            staging.chmod(0o755)
            _replace(staging, final, digests)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise LaunchError(
            f"cannot lay out the server's Python backend under {cache_dir}: {error.strerror or error}",
            hint="pass a writable --store DIRECTORY",
        ) from error
    return final


def _replace(staging: Path, final: Path, digests: dict[str, str]) -> None:
    """Bring ``staging`` to ``final``; what is there and differs is moved aside and removed."""
    for _ in range(3):  # another process may be as far
        try:
            staging.rename(final)
            return
        except OSError:
            if _is_equal(final, digests):
                return
        aside = final.with_name(f".foreign-{uuid.uuid4().hex}")
        final.rename(aside)
        if aside.is_symlink() or not aside.is_dir():
            aside.unlink()
        else:
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{final} is not what was put there, again and again")


def _is_equal(final: Path, digests: dict[str, str]) -> bool:
    """Return whether ``final`` holds exactly these files, none of them a link, changeable by nobody else."""
    try:
        found = dict(_regular_files(final / "python"))
        return (
            _is_own(final.lstat())
            and [path.name for path in final.iterdir()] == ["python"]
            and set(found) == set(digests)
            and all(_digest(path) == digests[name] for name, path in found.items())
        )
    except (OSError, ValueError):
        return False


def _regular_files(directory: Path) -> Iterator[tuple[str, Path]]:
    if not _is_own(directory.lstat()):
        raise ValueError(f"{directory} is not ours")
    for path in directory.iterdir():
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or not _may_only_owner_write(status):
            raise ValueError(f"{path} is no file of ours")
        yield path.name, path


def _is_own(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and _may_only_owner_write(status)


def _may_only_owner_write(status: os.stat_result) -> bool:
    is_ours = status.st_uid in {0, os.geteuid()}
    return is_ours and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
