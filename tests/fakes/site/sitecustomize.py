"""Read by every Python of a faked machine at its start: file systems have the size that the test says.

``TRTBUILD_TEST_SHM_MIB`` is the size of /dev/shm, ``TRTBUILD_TEST_DISK_GIB`` what is free everywhere else: planning a
model of 140 GB must not need a disk of that size.
"""

import os
from typing import Any

_statvfs = os.statvfs


def _sized(path: Any, size_bytes: int) -> os.statvfs_result:
    real = _statvfs(path)
    blocks = size_bytes // real.f_frsize
    return os.statvfs_result((*real[:2], blocks, blocks, blocks, *real[5:]))


def _fake_statvfs(path: Any) -> os.statvfs_result:
    is_shm = str(path) == "/dev/shm"
    size = os.environ.get("TRTBUILD_TEST_SHM_MIB" if is_shm else "TRTBUILD_TEST_DISK_GIB")
    return _sized(path, int(size) << (20 if is_shm else 30)) if size else _statvfs(path)


os.statvfs = _fake_statvfs
