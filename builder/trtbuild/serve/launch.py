"""Find a Triton server, prepare it and say how it is started.

It decides which server is used and its command line. The caller becomes that command (``process.replace``), so that the
server is PID 1 of its container and receives SIGTERM itself. Waiting and health are ``health.py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trtbuild import catalog, process
from trtbuild.errors import HostError, LaunchError
from trtbuild.process import Command
from trtbuild.serve import access, wheel_backend
from trtbuild.serve.access import Secrets
from trtbuild.spec import ServerSpec

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
"""Where NVIDIA's images keep the server. Source: triton-inference-server/server, build.py and the image's PATH."""

SHM_PREFIX = "triton_python_backend_shm_region_trtbuild"
"""How names of the Python backend's shared-memory regions begin; the HTTP port and ``r<rank>_`` follow.

Servers from 25.07 on refuse to register a region with this beginning for a client: without it a client that learns a
name may read and write the memory of a model. The server adds a UUID, and a name may have 255 characters.
Source: triton-inference-server/server, src/common.h, pull request 8273; NAME_MAX in limits.h.
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tritonserver that can be started.

    Attributes:
        path: The executable.
        kind: ``wheel`` for the CPU build inside the nvidia-pytriton wheel, else ``native``.
        backend_directory: Passed as ``--backend-directory`` when not the built-in one.
        env: Variables the server and its Python models need.
    """

    path: Path
    kind: Literal["native", "wheel"]
    backend_directory: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of a server, all chosen."""

    http: int
    grpc: int
    metrics: int


def find_server(search_path: str) -> Server:
    """Return the server to use: on ``search_path``, in NVIDIA's image, or the CPU wheel.

    Raises:
        HostError: There is none.
    """
    on_path = shutil.which("tritonserver", path=search_path)
    if on_path:
        return Server(path=Path(on_path), kind="native")
    if os.access(CONTAINER_SERVER, os.X_OK):
        return Server(path=CONTAINER_SERVER, kind="native")
    wheel = _wheel_root()
    if wheel is not None:
        return Server(path=wheel / "bin" / "tritonserver", kind="wheel")
    raise HostError(
        "no tritonserver found: not on PATH, not in /opt/tritonserver/bin, and the CPU wheel is not installed",
        hint="pip install 'trtbuild[cpu]' brings a CPU server; on GPUs run inside NVIDIA's Triton image",
    )


def server_version(server: Server, versions: Mapping[str, str]) -> str:
    """Return the release (``25.07``) or the version (``2.59.1``) of a server, "" when nothing tells it.

    Args:
        server: What :func:`find_server` returned.
        versions: Those of :class:`~trtbuild.spec.HostInfo`: NVIDIA's images announce theirs in the environment.
    """
    if server.kind == "wheel":
        return catalog.wheel_release(versions.get("triton_wheel", ""))
    return versions.get("triton_image") or versions.get("triton") or ""


def prepare_server(server: Server, *, cache_dir: Path, search_path: str, library_path: str = "") -> Server:
    """Return ``server`` ready to be started; for the wheel, lay out its Python backend under ``cache_dir``.

    The wheel's Python backend and the stub of this Python version are copied side by side once, and compared with the
    wheel at every start (see ``wheel_backend``). The stub ignores PYTHONPATH and takes the packages of
    the ``python3`` on PATH, so this interpreter's directory comes first there; its libpython must be found, too.

    Args:
        server: What :func:`find_server` returned.
        cache_dir: A writable directory; the layout goes to ``<cache_dir>/triton-py<version>-<uid>-<digest>``.
        search_path: PATH of this process.
        library_path: LD_LIBRARY_PATH of this process.

    Raises:
        HostError: No stub for this Python version, or its shared library is not installed.
        LaunchError: ``cache_dir`` cannot be written.
    """
    python = Path(sys.executable)
    env = {
        "PATH": os.pathsep.join([str(python.parent), search_path]),
        "TRTBUILD_PYTHON": str(python),
        "PYTHONDONTWRITEBYTECODE": "1",  # a repository is never written to by its own models
    }
    if server.kind == "native":
        return replace(server, env={**server.env, "TRTBUILD_PYTHON": str(process.interpreter_with("tensorrt_llm"))})
    root = server.path.parent.parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        known = sorted(p.name for p in (root / "python_backend_stubs").iterdir())
        raise HostError(
            f"the CPU server has no Python backend for Python {version}; it has {', '.join(known)}",
            hint="make a virtual environment with one of those, e.g. python3.11 -m venv .venv",
        )
    libraries = [_libpython_directory(), root.parent.parent / "nvidia_pytriton.libs"]
    env["LD_LIBRARY_PATH"] = os.pathsep.join([*(str(d) for d in libraries if d), *filter(None, [library_path])])
    sources = [*(path for path in (root / "backends" / "python").iterdir() if path.is_file()), stub]
    backends = wheel_backend.lay_out(sources, stub.name, cache_dir, label=f"triton-py{version}-{os.geteuid()}")
    return replace(server, backend_directory=backends, env=env)


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


def server_command(
    server: Server,
    repository: Path,
    spec: ServerSpec,
    ports: Ports,
    *,
    secrets: Secrets,
    world_size: int = 1,
    engine_models: Sequence[str] = ("tensorrt_llm",),
    mpirun: str | None = None,
    has_gpus: bool = False,
    is_root: bool = False,
) -> Command:
    """Return the command that serves ``repository``. Pure.

    One rank: tritonserver itself. Several: mpirun, one tritonserver per rank; ranks above 0 serve nothing, load only
    the engine models, and get a shared-memory prefix of their own. APIs that are not for clients answer nobody, and the
    models' own secret travels in the environment (see ``access``).

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
    env = {**server.env, access.ENGINE_SECRET: secrets.engine}
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


def choose_ports(spec: ServerSpec) -> Ports:
    """Return the ports asked for, with 0 replaced by a free one, after checking that they can be listened on.

    Raises:
        LaunchError: A port is taken.
    """
    chosen: list[int] = []
    held: list[socket.socket] = []
    try:
        for name in ("http_port", "grpc_port", "metrics_port"):
            wanted = getattr(spec, name)
            sock = socket.socket(socket.AF_INET6 if ":" in spec.host else socket.AF_INET, socket.SOCK_STREAM)
            held.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((spec.host, wanted))
            except OSError as error:
                raise LaunchError(
                    f"cannot listen on {spec.host}:{wanted} ({name}): {error.strerror}",
                    hint=f"stop what listens there, or pass another --{name.replace('_', '-')} (0 chooses a free one)",
                ) from None
            chosen.append(sock.getsockname()[1])
    finally:
        for sock in held:
            sock.close()
    return Ports(http=chosen[0], grpc=chosen[1], metrics=chosen[2])


def _wheel_root() -> Path | None:
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.origin:
        return None
    root = Path(found.origin).parent / "tritonserver"
    return root if (root / "bin" / "tritonserver").exists() else None


def _libpython_directory() -> Path | None:
    """Return the directory of this interpreter's libpython, or None when the loader finds it by itself.

    Raises:
        HostError: It is not installed (Debian keeps it in a package of its own).
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    candidates = [Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"), Path(sys.base_prefix) / "lib"]
    for base in ("/usr/lib", "/lib", "/usr/lib64", "/usr/local/lib"):
        candidates += [Path(base) / f"{platform.machine()}-linux-gnu", Path(base)]
    for directory in candidates:
        if (directory / name).exists():
            return directory
    raise HostError(
        f"the server's Python backend needs {name}, which is not installed",
        hint=f"apt-get install libpython{version} (Debian, Ubuntu), or use a Python built with --enable-shared",
    )
