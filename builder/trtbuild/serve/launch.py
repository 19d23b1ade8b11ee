"""Say how a server is started: its command line, for one rank or several.

It decides the options of the server. The caller becomes that command (``process.replace``), so that the server is PID 1
of its container and receives SIGTERM itself. What leads there is ``start.py``; waiting and health are ``health.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from trtbuild.errors import HostError
from trtbuild.process import Command
from trtbuild.serve import access
from trtbuild.serve.access import Secrets
from trtbuild.serve.ports import Ports
from trtbuild.serve.server import Server
from trtbuild.spec import ServerSpec

SHM_PREFIX = "triton_python_backend_shm_region_trtbuild"
"""How names of the Python backend's shared-memory regions begin; the HTTP port and ``r<rank>_`` follow.

Servers from 25.07 on refuse to register a region with this beginning for a client: without it a client that learns a
name may read and write the memory of a model. The server adds a UUID, and a name may have 255 characters.
Source: triton-inference-server/server, src/common.h, pull request 8273; NAME_MAX in limits.h.
"""


def server_command(
    server: Server,
    repository: Path,
    spec: ServerSpec,
    ports: Ports,
    *,
    secrets: Secrets,
    openai: Mapping[str, str] | None = None,
    world_size: int = 1,
    engine_models: Sequence[str] = ("tensorrt_llm",),
    mpirun: str | None = None,
    has_gpus: bool = False,
    is_root: bool = False,
) -> Command:
    """Return the command that serves ``repository``. Pure.

    One rank: tritonserver itself. Several: mpirun, one tritonserver per rank; ranks above 0 serve nothing, load only
    the engine models, and get a shared-memory prefix of their own. APIs that clients do not need are closed, and the
    models' own secret travels in the environment (see ``access``), as do the settings of the OpenAI port (``openai``).

    Source: TensorRT-LLM ``triton_backend/scripts/launch_triton_server.py`` (leader mode); ``tritonserver --help``.

    Raises:
        HostError: Several ranks and no mpirun.
        SpecError: An API is opened and restricted at once.
    """
    common = [str(server.path), f"--model-repository={repository}", "--disable-auto-complete-config"]
    if server.backend_directory:
        common.append(f"--backend-directory={server.backend_directory}")
    if not has_gpus:
        common.append("--allow-gpu-metrics=false")
    common.append(f"--exit-timeout-secs={spec.drain_timeout}")
    listen = _listening(spec, ports, secrets)
    own_arguments = access.server_arguments(spec)
    extra = [f"--{name}={value}" for name, value in own_arguments.items()]
    silent_extra = [f"--{name}={value}" for name, value in own_arguments.items() if name not in access.RESTRICTIONS]
    prefix = f"--backend-config=python,shm-region-prefix-name={SHM_PREFIX}{ports.http}r"
    env = {**server.env, access.ENGINE_SECRET: secrets.engine, **(openai or {})}
    if world_size == 1 or spec.orchestrator:
        env |= {"TRTLLM_ORCHESTRATOR": "1"} if spec.orchestrator else {}
        return Command(argv=(*common, *listen, f"{prefix}0_", *extra), env=env)
    if not mpirun:
        raise HostError(
            f"the engine has {world_size} ranks, and mpirun is not on PATH",
            hint="install Open MPI (apt-get install openmpi-bin), or run inside NVIDIA's Triton image, which has it",
        )
    silent = ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false", "--model-control-mode=explicit"]
    silent += [f"--load-model={name}" for name in engine_models]
    ranks = [[*common, *listen, f"{prefix}0_", *extra]]
    ranks += [
        [*common, f"--id=rank{rank}", *silent, f"{prefix}{rank}_", *silent_extra] for rank in range(1, world_size)
    ]
    return Command(argv=_under_mpirun(mpirun, ranks, server.env, is_root=is_root), env=env)


def _listening(spec: ServerSpec, ports: Ports, secrets: Secrets) -> list[str]:
    """Return the options of a server that clients talk to."""
    return [
        f"--http-address={spec.host}",
        f"--http-port={ports.http}",
        f"--grpc-address={spec.host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={spec.host}",
        f"--metrics-port={ports.metrics}",
        "--metrics-config=histogram_latencies=true",
        f"--log-verbose={spec.log_verbose}",
        *access.restrictions(spec, secrets.api),
    ]


def _under_mpirun(
    mpirun: str, ranks: Sequence[Sequence[str]], env: Mapping[str, str], *, is_root: bool
) -> tuple[str, ...]:
    """Return the command line that starts one server per rank."""
    argv = [mpirun, *(["--allow-run-as-root"] if is_root else []), "--oversubscribe"]
    # mpirun puts its own directories before PATH and LD_LIBRARY_PATH of what it starts; env puts ours back in front.
    own_paths = [f"{name}={env[name]}" for name in ("PATH", "LD_LIBRARY_PATH") if name in env]
    wrapper = ["env", *own_paths] if own_paths else []
    for rank, command in enumerate(ranks):
        argv += [*([":"] if rank else []), "-n", "1", *wrapper, *command]
    return tuple(argv)


def remove_stale_regions(
    http_port: int,
    *,
    shm: Path = Path("/dev/shm"),  # noqa: S108 - shared memory, no temporary file  # noqa: S108 - where the regions are
    proc: Path = Path("/proc"),
) -> list[str]:
    """Remove the shared memory that a killed server of this port left, and return the names of the regions.

    A container that is started again has the memory of the one before it, and not much of it. What any process has
    mapped stays, and so does what belongs to another user.
    """
    stale = {path.name for path in shm.glob(f"{SHM_PREFIX}{http_port}r[0-9]*_*")}
    for maps in proc.glob("[0-9]*/maps") if stale else ():
        with contextlib.suppress(OSError):
            text = maps.read_text(errors="replace")
            stale -= {name for name in stale if f"{shm}/{name}\n" in text}
    removed = []
    for name in sorted(stale):
        with contextlib.suppress(OSError):
            (shm / name).unlink()
            removed.append(name)
    return removed
