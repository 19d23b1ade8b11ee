"""A build that does not fit says what is short, also where a library failed without saying so."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import EXAMPLE, Machine

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubStub() as hub:
        yield Machine(directory=tmp_path, hub=hub, env={"TRTBUILD_MIN_FREE": "0"})


def _build(machine: Machine, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        machine.command("build", str(EXAMPLE), "--backend", "cpu", "--log-format", "text"),
        env=machine.environment(), capture_output=True, text=True, timeout=300, **options,
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("inodes", [10, 14, 18, 20, 22, 24, 26, 30])
def test_a_disk_without_inodes_is_named_wherever_they_run_out(machine: Machine, inodes: int) -> None:
    disk = machine.directory / "disk"
    disk.mkdir()
    if subprocess.run(("mount", "-t", "tmpfs", "-o", f"size=64m,nr_inodes={inodes}", "tmpfs", str(disk))).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    machine.env["TRTBUILD_STORE"] = str(disk / "store")
    try:
        done = _build(machine)
    finally:
        subprocess.run(("umount", str(disk)), check=True)
    assert done.returncode in {6, 7, 8}, done.stderr
    assert " inodes are free" in done.stderr, done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_limit_on_the_size_of_files_is_named(machine: Machine) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, 200 << 10))

    done = _build(machine, preexec_fn=limit)
    assert done.returncode in {6, 7}, done.stderr
    assert "this process may write no file larger than 200.0 KiB (ulimit -f)" in done.stderr
