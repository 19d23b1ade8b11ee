"""Models in a local directory: is it a usable checkpoint, and which exact bytes is it?

Decides what identifies a directory (names and contents, never dates or its own path) and what is refused by names
alone: missing files, links that lead out. Whether the weights are whole, ``trtbuild.model`` decides.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.metadata import check_metadata, load_config
from trtbuild.fetch.select import select
from trtbuild.untrusted import outward_links, read

_IGNORED = {"__pycache__"}
_MEMO_FORMAT = 1
_MEMO_ENTRIES = 10_000
_MEMO_LIMIT_BYTES = 16 << 20
_RACY_NS = 2_000_000_000


def local_snapshot(path: Path, *, allow_pickle: bool = False) -> Path:
    """Return the absolute path of a local model after checking its files by their names, and the small ones whole.

    Raises:
        FetchError: It is no model directory, a file is missing, or one leads out of it.
    """
    directory = path.expanduser().absolute()
    if not directory.is_dir():
        raise FetchError(
            f"there is no directory {directory}",
            hint="name a directory with config.json and *.safetensors, or a Hugging Face id such as owner/name",
        )
    load_config(directory)
    names = [entry.name for entry in directory.iterdir() if entry.is_file()]
    selection = select(names, model_id=str(path), allow_pickle=allow_pickle, allow_code=False)
    check_metadata(directory, selection.first)
    if links := outward_links(directory):
        raise FetchError(
            f"{directory}: {links[0]}: the link leads out of the model, whose files are kept with its engine",
            hint="put a copy of the file in its place",
        )
    return directory


def hash_directory(path: Path, *, memo: Path | None = None) -> str:
    """Return ``tree-<sha256>`` over the names and contents of a directory's files.

    Hidden files and directories and ``__pycache__`` do not count; links count as what they point to, so a directory
    and a Hugging Face snapshot with the same files are the same.

    Args:
        path: The directory.
        memo: File in which hashes are remembered by inode, length and time stamps, so that an unchanged directory of
            gigabytes takes milliseconds; rewritten as needed.

    Raises:
        FetchError: Something in it cannot be read, or it changed meanwhile.
    """
    root = path.expanduser().absolute()
    names = sorted(_walk(root))
    known = _read_memo(memo)
    try:
        stats = {name: (root / name).stat() for name in names}
    except OSError as error:
        raise _unreadable(error) from error
    fresh = {name: known[key] for name in names if (key := _stat_key(stats[name])) in known}
    todo = [name for name in names if name not in fresh]
    total = sum(stats[name].st_size for name in todo)
    with (
        log.get().progress("hash", f"hashing {root}", total=total) as progress,
        concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1), "hash") as pool,
    ):
        hashes = dict(
            zip(todo, pool.map(lambda name: _hash_file(root / name, stats[name], progress), todo), strict=True)
        )
    if memo is not None and hashes:
        _write_memo(memo, known | _memorable(stats, hashes))
    fresh |= hashes
    listing = [[name, stats[name].st_size, fresh[name]] for name in names]
    return f"tree-{hashlib.sha256(json.dumps(listing).encode()).hexdigest()}"


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative names of all files that count."""
    seen = set()

    def fail(error: OSError) -> None:
        raise _unreadable(error) from error

    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:
            raise FetchError(f"{folder} links back to {real}", hint="remove the link, or name the inner directory")
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _IGNORED)
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118 - names as os.walk has them


def _hash_file(path: Path, before: os.stat_result, progress: log.Progress) -> str:
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(before.st_mode):
            raise FetchError(f"{path} is not a file", hint="remove it from the model directory")
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(4 << 20):
                digest.update(piece)
                progress.advance(len(piece))
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise _unreadable(error) from error
    if _stat_key(before) != _stat_key(after):
        raise FetchError(f"{path} changed while it was read", hint="wait until nothing writes to it, then try again")
    return digest.hexdigest()


def _stat_key(info: os.stat_result) -> str:
    return f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"


def _memorable(stats: dict[str, os.stat_result], hashes: dict[str, str]) -> dict[str, str]:
    """Return what may be remembered: not a file so young that a change could keep its time stamps."""
    now_ns = time.time_ns()
    return {
        _stat_key(stats[name]): value for name, value in hashes.items() if now_ns - stats[name].st_ctime_ns > _RACY_NS
    }


def _read_memo(memo: Path | None) -> dict[str, str]:
    if memo is None:
        return {}
    try:
        record = read(memo, _MEMO_LIMIT_BYTES)
        return dict(record["hashes"]) if record["format"] == _MEMO_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_memo(memo: Path, hashes: dict[str, str]) -> None:
    temporary = memo.with_name(f"{memo.name}.{secrets.token_hex(4)}.tmp")
    newest = dict(list(hashes.items())[-_MEMO_ENTRIES:])
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"format": _MEMO_FORMAT, "hashes": newest}, indent=0), encoding="utf-8")
        temporary.replace(memo)
    except OSError as error:  # hashing again is slow, not wrong
        log.get().debug("memo-not-written", f"{memo} was not written: {error}")
        with contextlib.suppress(OSError):
            temporary.unlink()


def _unreadable(error: OSError) -> FetchError:
    return FetchError(
        f"{error.filename or 'the model directory'} cannot be read: {error.strerror or error}",
        hint="check the path, its permissions and broken links",
    )
