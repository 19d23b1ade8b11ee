"""Dead model processes, in a small /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.serve.launch import SHM_PREFIX
from trtbuild.serve.processes import dead_model_processes

SHM = f"--backend-config=python,shm-region-prefix-name={SHM_PREFIX}"


def write_process(proc: Path, pid: int, name: str, state: str, parent: int, *argv: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {parent} 1 1 0 -1 4194304 0 0\n")
    (proc / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))


@pytest.mark.parametrize(
    ("processes", "dead"),
    [
        pytest.param([(8, "triton_python_b", "Z", 7)], [8], id="a-zombie-of-the-server"),
        pytest.param([(8, "triton_python_b", "S", 7)], [], id="alive"),
        pytest.param([(8, "python) Z 7 (x", "S", 7), (9, "sh", "Z", 7)], [], id="other-programs"),
        pytest.param([(8, "triton_python_b", "Z", 50)], [], id="of-another-server"),
        pytest.param([(8, "triton_python_b", "Z", 60), (9, "triton_python_b", "Z", 7)], [8, 9], id="of-another-rank"),
    ],
)
def test_a_dead_model_process_is_a_zombie_of_its_server(
    tmp_path: Path, processes: list[tuple[int, str, str, int]], dead: list[int]
) -> None:
    write_process(tmp_path, 7, "tritonserver", "S", 1, "tritonserver", "--http-port=8000", f"{SHM}8000r0_")
    write_process(tmp_path, 50, "tritonserver", "S", 1, "tritonserver", "--http-port=80", f"{SHM}80r0_")
    write_process(tmp_path, 60, "tritonserver", "S", 1, "tritonserver", "--id=rank12", f"{SHM}8000r12_")
    (tmp_path / "70").mkdir()  # ended while it was looked at
    for pid, name, state, parent in processes:
        write_process(tmp_path, pid, name, state, parent)
    assert dead_model_processes("http://127.0.0.1:8000", proc=tmp_path) == dead
    assert dead_model_processes("http://[::1]:9000", proc=tmp_path) == []
