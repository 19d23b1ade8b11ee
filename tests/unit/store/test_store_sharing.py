"""Whose the things are that a store creates."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trtbuild.store import Store
from trtbuild.store.sharing import Sharing, give_back_to_group, share

OTHER_GROUP = next(
    (group for group in (*os.getgroups(), 1234 if os.geteuid() == 0 else -1) if group != os.getegid()), -1
)


def test_a_root_that_its_group_may_write_is_shared_whatever_the_arguments_say(tmp_path: Path) -> None:
    root = tmp_path / "store"
    asked = Sharing(group=7, is_group_writable=True)
    assert Store(root, group=7, is_group_writable=True).directory.sharing() == asked
    assert Store(root).directory.sharing() == Sharing()
    root.mkdir()
    root.chmod(0o2775)
    assert Store(root).directory.sharing() == Sharing(group=root.stat().st_gid, is_group_writable=True)
    assert Store(root, group=7, is_group_writable=True).directory.sharing() == asked
    root.chmod(0o2755)
    assert Store(root).directory.sharing() == Sharing()


@pytest.mark.skipif(OTHER_GROUP < 0, reason="this user is in one group only")
def test_a_directory_is_given_to_the_group_with_its_bits(tmp_path: Path) -> None:
    share(tmp_path, mode=0o2775, group=OTHER_GROUP)
    assert (tmp_path.stat().st_gid, stat.S_IMODE(tmp_path.stat().st_mode)) == (OTHER_GROUP, 0o2775)
    inside = tmp_path / "inside"
    inside.mkdir()
    os.chown(inside, -1, os.getegid())
    inside.chmod(0o755)
    give_back_to_group(inside, Sharing(group=OTHER_GROUP, is_group_writable=True))
    assert (inside.stat().st_gid, stat.S_IMODE(inside.stat().st_mode)) == (OTHER_GROUP, 0o2775)
    inside.chmod(0o700)
    give_back_to_group(inside, Sharing())
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700
