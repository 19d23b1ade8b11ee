"""The server's command line is data, and ports are checked before anything starts."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from trtbuild.errors import HostError
from trtbuild.process import Command
from trtbuild.serve import launch
from trtbuild.serve.access import Secrets
from trtbuild.serve.launch import SHM_PREFIX
from trtbuild.serve.ports import Ports
from trtbuild.serve.server import Server
from trtbuild.spec import ServerSpec

SERVER = Server(path=Path("/opt/tritonserver/bin/tritonserver"), kind="native", env={"A": "1"})
PORTS = Ports(http=1, grpc=2, metrics=3)
SECRETS = Secrets(api="opens-apis", engine="knows-the-front")


def server_command(server: Server, repository: Path, spec: ServerSpec, ports: Ports, **how: Any) -> Command:
    return launch.server_command(server, repository, spec, ports, secrets=SECRETS, **how)


def test_one_rank_is_the_server_itself() -> None:
    command = server_command(SERVER, Path("/r"), ServerSpec(server_arg={"--log-info": "false"}), PORTS)
    assert command.argv[0] == "/opt/tritonserver/bin/tritonserver"
    assert {"--model-repository=/r", "--http-port=1", "--grpc-port=2", "--metrics-port=3", "--log-info=false"} <= set(
        command.argv
    )
    assert "--allow-gpu-metrics=false" in command.argv
    assert command.env == {"A": "1", "TRTBUILD_ENGINE_SECRET": "knows-the-front"}
    assert not any("knows-the-front" in word for word in command.argv)


def test_several_ranks_run_under_mpirun_and_only_the_first_serves() -> None:
    command = server_command(
        SERVER, Path("/r"), ServerSpec(), PORTS, world_size=3, mpirun="/usr/bin/mpirun", has_gpus=True, is_root=True
    )
    text = " ".join(command.argv)
    ranks = text.split(" : ")
    assert command.argv[:3] == ("/usr/bin/mpirun", "--allow-run-as-root", "--oversubscribe")
    assert len(ranks) == 3
    assert not text.endswith(":")
    assert "--http-port=1" in ranks[0]
    for number, rank in enumerate(ranks[1:], 1):
        assert "--http-port" not in rank
        for argument in (
            "--allow-http=false",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--load-model=tensorrt_llm",
        ):
            assert argument in rank
        assert f"shm-region-prefix-name={SHM_PREFIX}1r{number}_" in rank
        assert "restricted" not in rank
        assert "opens-apis" not in rank
    assert (
        "--allow-run-as-root"
        not in server_command(SERVER, Path("/r"), ServerSpec(), PORTS, world_size=2, mpirun="/usr/bin/mpirun").argv
    )


def test_regions_have_names_that_clients_cannot_register() -> None:
    """Source: triton-inference-server/server, src/common.h; the server appends a UUID; NAME_MAX is 255."""
    assert SHM_PREFIX.startswith("triton_python_backend_shm_region_")
    ports = Ports(http=65535, grpc=2, metrics=3)
    argv = server_command(SERVER, Path("/r"), ServerSpec(), ports, world_size=1024, mpirun="mpirun").argv
    names = [word.partition("name=")[2] for word in argv if "shm-region-prefix-name" in word]
    assert len(set(names)) == 1024
    assert max(len(f"{name}{uuid.uuid4()}") for name in names) < 255


def test_mpirun_does_not_change_where_models_find_python() -> None:
    server = Server(
        path=Path("/w/tritonserver"), kind="wheel", env={"PATH": "/venv/bin:/bin", "LD_LIBRARY_PATH": "/lib"}
    )
    command = server_command(server, Path("/r"), ServerSpec(), PORTS, world_size=2, mpirun="mpirun")
    start = command.argv.index("env")
    assert command.argv[start : start + 4] == ("env", "PATH=/venv/bin:/bin", "LD_LIBRARY_PATH=/lib", "/w/tritonserver")
    assert command.argv.count("env") == 2


def test_orchestrator_mode_is_one_process_that_spawns_the_ranks() -> None:
    command = server_command(SERVER, Path("/r"), ServerSpec(orchestrator=True), PORTS, world_size=4)
    assert command.env["TRTLLM_ORCHESTRATOR"] == "1"
    assert "mpirun" not in command.argv[0]


def test_several_ranks_without_mpirun_are_refused() -> None:
    with pytest.raises(HostError, match="has 2 ranks, and mpirun is not on PATH"):
        server_command(SERVER, Path("/r"), ServerSpec(), PORTS, world_size=2)


def test_the_shared_memory_of_a_killed_server_is_removed_unless_it_is_in_use(tmp_path: Path) -> None:
    shm, proc = tmp_path / "shm", tmp_path / "proc"
    shm.mkdir()
    names = [f"{launch.SHM_PREFIX}{rest}" for rest in ("80r0_a_1", "80r12_b_2", "80r0_mapped_3", "8000r0_c_4", "80x")]
    for name in names:
        (shm / name).write_bytes(b"")
    (proc / "7").mkdir(parents=True)
    (proc / "7" / "maps").write_text(f"7f00-7f01 rw-s 0 00:1a 4  {shm}/{names[2]}\n")
    (proc / "8").mkdir()  # ended while it was looked at
    assert launch.remove_stale_regions(80, shm=shm, proc=proc) == sorted(names[:2])
    assert {path.name for path in shm.iterdir()} == set(names[2:])
    assert launch.remove_stale_regions(80, shm=tmp_path / "none", proc=proc) == []
