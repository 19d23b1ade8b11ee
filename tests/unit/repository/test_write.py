"""Why a repository cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild import repository
from trtbuild.errors import RepositoryError
from trtbuild.repository import ServedModel, write_repository


def test_a_parent_that_is_a_file_is_named(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="cannot write the model repository"):
        write_repository(tmp_path / "file" / "repository", [make_model()])


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        pytest.param(
            errno.EDQUOT,
            "the disk quota of uid {uid} on {there} is used up, 3.0 KiB are needed",
            "quota -s",
            id="quota",
        ),
        pytest.param(errno.ENOSPC, "the disk of {there} is full: ", "df -h {there}", id="full"),
        pytest.param(errno.EROFS, "{there} is on a read-only file system", "mount it writable", id="read-only"),
        pytest.param(
            errno.EPERM, "permission denied on {there}/not/there: {there} belongs to uid ", "fsGroup", id="not-ours"
        ),
        pytest.param(errno.ENOTDIR, "Not a directory", "another --repository", id="another"),
    ],
)
def test_why_it_cannot_be_written_and_what_to_do(tmp_path: Path, code: int, reason: str, hint: str) -> None:
    error = repository.unwritable(
        "the file x", tmp_path / "not" / "there", OSError(code, os.strerror(code)), needed_bytes=3 << 10
    )
    known = {"uid": os.geteuid(), "there": tmp_path}
    assert error.message.startswith(f"cannot write the file x: {reason.format(**known)}")
    assert hint.format(**known) in error.hint
    assert "--repository" in error.hint
