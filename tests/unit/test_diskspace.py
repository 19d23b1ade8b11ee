"""Why something could not be written, in words, on real small disks and under real limits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtbuild import diskspace

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB that takes twelve files."""
    mount = ("mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=12", "tmpfs", str(tmp_path))
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield tmp_path
    subprocess.run(("umount", str(tmp_path)), check=True)


def test_a_disk_with_room_lacks_nothing(tmp_path: Path) -> None:
    assert diskspace.shortage(tmp_path) is None
    assert diskspace.shortage(tmp_path / "not" / "there") is None
    assert list(tmp_path.iterdir()) == []


@AS_ROOT
def test_a_disk_without_inodes_says_so(small_disk: Path) -> None:
    for number in range(11):
        (small_disk / str(number)).touch()
    lack = diskspace.shortage(small_disk)
    assert lack == f"the disk of {small_disk} takes no more files, it is full: 8.0 MiB and 0 inodes are free"
    assert lack == diskspace.reason(small_disk / "x", OSError(errno.ENOSPC, "no space"))


@AS_ROOT
def test_a_full_disk_says_so(small_disk: Path) -> None:
    (small_disk / "much").write_bytes(bytes(5 << 20))
    assert diskspace.shortage(small_disk) == f"the disk of {small_disk} is full: 3.0 MiB and 10 inodes are free"
    assert sorted(path.name for path in small_disk.iterdir()) == ["much"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, f"the disk quota of uid {os.geteuid()} on "),
        (errno.EFBIG, "takes no file as large as that"),
        (errno.ENOSPC, " is full: "),
    ],
)
def test_what_the_system_says_is_put_in_words(number: int, words: str, tmp_path: Path) -> None:
    found = diskspace.reason(tmp_path / "x", OSError(number, os.strerror(number)))
    assert found is not None
    assert words in found
    assert str(tmp_path) in found


def test_another_trouble_is_not_one_of_room(tmp_path: Path) -> None:
    assert diskspace.reason(tmp_path, OSError(errno.EACCES, "denied")) is None


@pytest.mark.parametrize(("needed", "is_named"), [("None", True), ("2 << 20", True), ("1000", False)])
def test_a_limit_of_the_shell_is_named_when_it_is_too_small(needed: str, is_named: bool, tmp_path: Path) -> None:
    code = f"""
import resource, sys, pathlib
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from trtbuild import diskspace
print(diskspace.shortage(pathlib.Path(sys.argv[1]), needed_bytes={needed}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    expected = "this process may write no file larger than 1.0 MiB (ulimit -f)" if is_named else "None"
    assert done.stdout.strip() == expected
