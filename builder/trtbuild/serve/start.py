"""Prepare a start: find the server, check this machine, choose ports and secrets, make the command line.

It decides the order of these and what is said before a start. The caller runs the command, in the background
(``background.py``) or in place of itself.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trtbuild.console import log
from trtbuild.plan import EngineInfo
from trtbuild.process import Command
from trtbuild.serve import access, openai, wheel_backend
from trtbuild.serve.launch import server_command
from trtbuild.serve.ports import Ports, asked_ports, choose_ports
from trtbuild.serve.preflight import Limits, preflight, refuse
from trtbuild.serve.server import find_server, model_python, prepare_server, server_version
from trtbuild.spec import HostInfo, JsonValue, ServerSpec


def check_machine(host: HostInfo, info: EngineInfo, key_fields: Mapping[str, JsonValue]) -> None:
    """Look at what the server will need; warn, and refuse what would hang or die without a clear message.

    Args:
        host: This machine.
        info: The engine.
        key_fields: The fields of the key that the engine was built for.

    Raises:
        LaunchError: A start would fail or hang.
    """
    checks = preflight(host, info, _limits(), key_fields)
    for check in checks:
        line = f"{check.name}: {check.text}"
        if check.is_ok:
            log.get().debug("preflight", line)
        elif not check.is_fatal:
            log.get().warning("preflight", f"{line}; {check.remedy}")
    refuse(checks)


def _limits() -> Limits:
    """Return the resource limits of this process."""

    def soft(kind: int) -> int | None:
        limit = resource.getrlimit(kind)[0]
        return None if limit == resource.RLIM_INFINITY else limit

    return Limits(open_files=soft(resource.RLIMIT_NOFILE), locked_bytes=soft(resource.RLIMIT_MEMLOCK))


def prepare(
    spec: ServerSpec,
    repository: Path,
    info: EngineInfo,
    host: HostInfo,
    *,
    directories: Sequence[Path],
    environ: Mapping[str, str],
    runtime_dir: Path | None = None,
    is_real: bool = True,
) -> tuple[Command, Ports]:
    """Return the command that serves a repository, and the ports it will listen on.

    A command that is only shown (``is_real`` false) may name ports that are taken now. Its secret is real and new each
    time: who pastes it gets a server as closed as this one, and two lines differ in it only.

    Args:
        spec: How the server listens.
        repository: The model repository.
        info: The engine in it.
        host: This machine.
        directories: Where the copy of the CPU server's Python backend may go, best first: a program, so it goes to one
            where others cannot write. A store may be shared by a group, or read-only (a ReadOnlyMany claim); the
            repository was written here, so the directory that holds it is the last resort.
        environ: The environment of this process.
        runtime_dir: Where the models of the server meet; None: no OpenAI port.
        is_real: The server will be started.
    """
    search_path = environ.get("PATH", os.defpath)
    found = find_server(search_path)
    if is_real:
        version = server_version(found, host.versions)
        for text in (
            *access.exposure_warnings(spec, version, is_wheel=found.kind == "wheel"),
            *access.endpoint_warnings(spec, environ),
            *openai.check_start(spec, model_python(found, search_path)),
        ):
            log.get().warning("exposure", text)
    server = prepare_server(
        found,
        cache_dir=wheel_backend.choose_directory([*directories, repository.parent / ".servers"]),
        search_path=search_path,
        library_path=environ.get("LD_LIBRARY_PATH", ""),
    )
    ports = choose_ports(spec) if is_real else asked_ports(spec)
    command = server_command(
        server,
        repository,
        spec,
        ports,
        secrets=access.make_secrets(environ),
        openai=openai.environment(spec, ports, runtime_dir),
        world_size=info.world_size,
        mpirun=shutil.which("mpirun", path=search_path),
        has_gpus=bool(host.gpus),
        is_root=os.geteuid() == 0,
    )
    return command, ports
