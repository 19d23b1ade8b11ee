"""Several ranks under a real mpirun: one tritonserver each, the first serves, and none outlives the others.

The engine model of rank 0 is the cpu backend's; on the other ranks it idles, as a TensorRT-LLM follower does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtbuild.process import Command
from trtbuild.serve import access, health, launch, probes
from trtbuild.serve.ports import Ports, choose_ports
from trtbuild.serve.server import find_server, prepare_server
from trtbuild.spec import ServerSpec

pytestmark = pytest.mark.integration
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pydoc-llama"
WORLD_SIZE = 2
GRACE_S = 40.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable,
        "-m",
        "trtbuild",
        "build",
        str(EXAMPLE),
        "--backend",
        "cpu",
        "--store",
        str(directory / "store"),
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRTBUILD_")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env, timeout=300)
    return Path(done.stdout.strip())


class Job:
    """A running mpirun with its server's URL."""

    def __init__(self, command: Command, ports: Ports, log_path: Path) -> None:
        self.url = f"http://127.0.0.1:{ports.http}"
        self.log_path = log_path
        with log_path.open("wb") as log_file:
            self.process = subprocess.Popen(
                command.argv,
                env={**os.environ, **command.env},
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
        self.marker = f"{launch.SHM_PREFIX}{ports.http}r"

    def ranks(self) -> dict[int, int]:
        """Return the PIDs of the running servers by rank."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state == "Z" or not line[0].endswith(b"tritonserver"):
                continue
            for word in line:
                name = word.decode(errors="replace")
                if f"shm-region-prefix-name={self.marker}" in name:
                    found[int(name.rsplit("r", 1)[1].rstrip("_"))] = int(entry.name)
        return found

    def wait_ready(self) -> None:
        health.wait_ready(self.url, timeout_s=180, is_alive=lambda: self.process.poll() is None)
        deadline = time.monotonic() + 60
        while len(self.ranks()) < WORLD_SIZE:
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.1)

    def wait_gone(self) -> int:
        code = self.process.wait(timeout=GRACE_S)
        deadline = time.monotonic() + 10
        while self.ranks() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.ranks()
        return code


@pytest.fixture
def job(repository: Path, tmp_path: Path) -> Iterator[Job]:
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("mpirun is not installed (apt-get install openmpi-bin)")
    path = os.environ["PATH"]
    server = prepare_server(find_server(path), cache_dir=tmp_path / "servers", search_path=path)
    spec = ServerSpec(http_port=0, grpc_port=0, metrics_port=0)
    ports = choose_ports(spec)
    command = launch.server_command(
        server, repository, spec, ports, secrets=access.make_secrets({}), world_size=WORLD_SIZE, mpirun=mpirun,
        is_root=os.geteuid() == 0,
    )  # fmt: skip
    running = Job(command, ports, tmp_path / "job.log")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
        for pid in running.ranks().values():
            os.kill(pid, signal.SIGKILL)
        running.process.wait()


def test_rank_0_generates_and_sigterm_ends_every_rank(job: Job) -> None:
    job.wait_ready()
    assert set(job.ranks()) == {0, 1}
    pieces = list(probes.generate(job.url, "pydoc-llama", {"text_input": "The", "max_tokens": 8}))
    assert "".join(str(piece["text_output"]) for piece in pieces)
    job.process.terminate()
    job.wait_gone()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_any_rank_ends_the_job(job: Job, rank: int) -> None:
    job.wait_ready()
    os.kill(job.ranks()[rank], signal.SIGKILL)
    assert job.wait_gone() != 0
