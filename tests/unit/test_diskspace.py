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
def test_system_errors_are_explained(number: int, words: str, tmp_path: Path) -> None:
    found = diskspace.reason(tmp_path / "x", OSError(number, os.strerror(number)))
    assert found is not None
    assert words in found
    assert str(tmp_path) in found


def test_other_errors_are_not_explained_as_lack_of_space(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("option", ["--store", "--repository"])
@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        pytest.param(errno.ENOSPC, "the disk of {there} is full: ", "df -h {there}", id="full"),
        pytest.param(errno.EDQUOT, "the disk quota of uid ", "quota -s", id="quota"),
        pytest.param(errno.EFBIG, "takes no file as large as that, 3.0 KiB are needed", "ulimit -f", id="large"),
        pytest.param(errno.EROFS, "{there} is on a read-only file system", "mount it writable", id="read-only"),
        pytest.param(errno.EACCES, "permission denied on {path}: {there} belongs to uid ", "fsGroup", id="not-ours"),
        pytest.param(errno.EPERM, "permission denied on {path}: {there} belongs to uid ", "chown", id="not-permitted"),
        pytest.param(errno.EIO, "{path} reports an input/output error", "dmesg", id="broken"),
        pytest.param(errno.ELOOP, "{path} is a symbolic link", "rm {path}", id="link"),
    ],
)
def test_a_refusal_has_its_cause_its_figures_and_a_remedy(
    number: int, cause: str, remedy: str, option: str, tmp_path: Path
) -> None:
    path = tmp_path / "not" / "there"
    found = diskspace.explain(path, OSError(number, os.strerror(number)), option=option, needed_bytes=3 << 10)
    known = {"there": tmp_path, "path": path}
    assert cause.format(**known) in found.cause
    assert found.remedy is not None
    assert remedy.format(**known) in found.remedy
    assert option in found.remedy or number == errno.EFBIG


def test_what_nothing_is_known_about_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    found = diskspace.explain(tmp_path, OSError(errno.EXDEV, "Invalid cross-device link"), option="--store")
    assert found == diskspace.Refusal(cause="Invalid cross-device link", remedy=None)
    named = OSError(errno.EXDEV, "Invalid cross-device link", "engine")
    assert diskspace.explain(tmp_path, named, option="--store").cause == f"Invalid cross-device link: {tmp_path}/engine"
