"""A store that pods of several users share: an administrator's command does not lock pods out."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import REPOSITORY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users"),
]

GROUP, FIRST, SECOND = 7000, 12345, 23456


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store as a pod's fsGroup leaves it: setgid, of the pods' group, group-writable."""
    for part in (tmp_path, *tmp_path.parents):
        if part != Path("/tmp") and part.stat().st_uid == 0 and part != Path("/"):
            part.chmod(0o755)
    root = tmp_path / "store"
    root.mkdir()
    os.chown(root, 0, GROUP)
    root.chmod(0o2775)
    yield root
    shutil.rmtree(root)


def _as(uid: int, code: str, root: Path) -> str:
    """Run ``code`` as a pod's user whose only other group is the store's, under a umask that gives nothing away."""
    become = f"os.setgroups([{GROUP}]); os.setgid({uid}); os.setuid({uid})" if uid else "pass"
    whole = f"""
import os, sys
from pathlib import Path
from tests.unit.store.store_helpers import *
from trtbuild.store import *
from trtbuild.store import usage
import concurrent.futures.thread
{become}
os.umask(0o077)
store = Store(Path(sys.argv[1]))
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", whole, str(root)], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _command(root: Path, *arguments: str) -> None:
    """Run ``trtbuild store`` as an administrator: root, no option that names the group, a strict umask."""
    done = subprocess.run(
        [sys.executable, "-m", "trtbuild", "store", *arguments, "--store", str(root)],
        cwd=root.parent, capture_output=True, text=True, timeout=120, umask=0o077,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _own(root: Path) -> list[Path]:
    """Return the store's own directories and small files, which every pod must be able to change."""
    return [root, *(path for path in root.rglob("*") if "engines" not in path.relative_to(root).parts[:1])]


def _check_shared(root: Path) -> None:
    for path in _own(root):
        info = path.lstat()
        assert info.st_gid == GROUP, path
        if stat.S_ISDIR(info.st_mode):
            assert stat.S_IMODE(info.st_mode) & 0o2070 == 0o2070, (path, oct(info.st_mode))


BUILD = 'print(build(store, make_key(%d), durations={"build_s": 1.0}).short)'


@pytest.mark.parametrize("command", ["rm --yes", "pin", "verify", "gc --max-bytes 0"])
def test_an_administrators_command_leaves_everything_to_the_group(root: Path, command: str) -> None:
    arguments = command.split()
    first = _as(FIRST, BUILD % 0, root).strip()
    second = _as(SECOND, BUILD % 1, root).strip()
    key = () if arguments[0] == "gc" else (first,)
    _command(root, arguments[0], *key, *arguments[1:])
    if arguments[0] == "pin":
        _command(root, "unpin", first)
    _check_shared(root)
    # Each pod goes on as before: it builds, pins, collects what the other built, and takes the administrator's place.
    _as(SECOND, """
for entry in store.ls():
    store.pin(entry); store.unpin(entry)
    with store.lease(entry): pass
usage.GRACE_S = -1.0
done = make_room(store, {"engine": 1}, max_bytes=1 << 10)
build(store, make_key(3))
""", root)  # fmt: skip
    _check_shared(root)
    left = _as(FIRST, BUILD % 4 + "\nprint(len(store.ls()))", root)
    assert int(left.split()[-1]) >= 2
    assert second


def test_an_administrator_who_creates_a_shared_store_passes_its_group_on(tmp_path: Path) -> None:
    root = tmp_path / "new"
    _as(0, f"store = Store(Path(sys.argv[1]), group={GROUP}, is_group_writable=True); build(store, make_key(0))", root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o2775
    _as(0, "build(store, make_key(1))", root)
    _check_shared(root)


def test_a_directory_that_was_made_without_the_group_is_given_back_to_it(root: Path) -> None:
    _as(FIRST, BUILD % 0, root)
    for name in (".trash", ".state/pins"):
        (root / name).mkdir(parents=True, exist_ok=True)
        os.chown(root / name, 0, 0)
        (root / name).chmod(0o755)
    key = _as(SECOND, "print(store.ls()[0].short)", root).strip()
    _command(root, "pin", key)
    _command(root, "unpin", key)
    _command(root, "rm", key, "--yes")
    _check_shared(root)


def test_a_private_store_stays_private(tmp_path: Path) -> None:
    root = tmp_path / "own"
    _as(0, "build(store, make_key(0)); store.pin(store.ls()[0])", root)
    for path in _own(root):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o755, path
    for path in (root / "engines").rglob("*"):
        if path.is_dir() and (path / "manifest.json").exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o555


def test_a_refusal_names_the_directory_that_refused(root: Path) -> None:
    _as(FIRST, BUILD % 0, root)
    (root / ".trash").mkdir(exist_ok=True)
    os.chown(root / ".trash", 0, 0)
    (root / ".trash").chmod(0o755)
    seen = _as(SECOND, """
from trtbuild.errors import StoreError
try:
    store.remove(store.ls())
except StoreError as error:
    print(error.message)
""", root)  # fmt: skip
    assert f"{root}/.trash belongs to uid 0 gid 0 mode 0755, this process is uid {SECOND}" in seen
