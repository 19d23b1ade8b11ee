"""``trtbuild doctor``: what this machine can do, and why not."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from trtbuild.cli.config import default_hf_cache, default_store
from trtbuild.cli.options import configure_log, echo_json, output_options
from trtbuild.errors import HostError, TrtBuildError
from trtbuild.log import format_bytes

if TYPE_CHECKING:
    from trtbuild.spec import HostInfo


@click.command()
@output_options
def doctor(output: str, log_format: str, log_level: str) -> None:
    """Show this machine as trtbuild sees it: versions, GPUs, tools, and which backends work here.

    Exits 3 when nothing can be built or served.
    """
    configure_log(log_format, log_level)
    from trtbuild.host import inspect_host

    host = inspect_host(os.environ)
    checks = backend_checks(host)
    server = server_check()
    if output == "json":
        echo_json({
            "host": asdict(host) | {"versions": dict(host.versions), "tools": dict(host.tools)},
            "backends": {name: {"works": ok, "reason": reason} for name, ok, reason in checks},
            "server": {"works": server[0], "reason": server[1]},
        })  # fmt: skip
    else:
        click.echo("\n".join(doctor_lines(host, checks, server)))
    if not any(ok for _, ok, _ in checks) or not server[0]:
        raise HostError(
            "this machine cannot build and serve", hint="pip install 'trtbuild[cpu]', or run in NVIDIA's Triton image"
        )


def backend_checks(host: HostInfo) -> list[tuple[str, bool, str]]:
    """Return name, whether it works, and why for every backend."""
    from trtbuild import backends

    found = []
    for name in backends.names():
        availability = backends.get(name).availability(host)
        found.append((name, availability.is_available, availability.reason))
    return found


def server_check() -> tuple[bool, str]:
    """Return whether a server was found, and where or why not."""
    from trtbuild import launch

    try:
        server = launch.find_server(os.environ.get("PATH", os.defpath))
    except TrtBuildError as error:
        return False, f"{error.message}; {error.hint}"
    return (
        True,
        f"{server.path} ({'the CPU build in the nvidia-pytriton wheel' if server.kind == 'wheel' else 'native'})",
    )


def doctor_lines(host: HostInfo, checks: list[tuple[str, bool, str]], server: tuple[bool, str]) -> list[str]:
    """Return the report as people read it."""
    lines = [
        f"platform   {host.platform}, {host.cpu.cores} cores, {format_bytes(host.memory_bytes)} memory, "
        f"{format_bytes(host.shm_bytes)} /dev/shm",
        f"processor  {host.cpu.model} ({' '.join(host.cpu.isa) or 'no known extensions'})",
    ]
    for gpu in host.gpus:
        mig = f", MIG {gpu.mig_profile}" if gpu.mig_profile else ""
        lines.append(
            f"GPU {gpu.index}      {gpu.product}{mig}, capability {gpu.compute_capability}, {gpu.memory_mib} MiB"
        )
    if not host.gpus:
        lines.append(
            "GPU        none visible (nvidia-smi "
            + ("answered nothing)" if "nvidia-smi" in host.tools else "not found)")
        )
    lines += [f"version    {name} {version}" for name, version in sorted(host.versions.items())]
    lines += [f"tool       {name}: {path}" for name, path in sorted(host.tools.items())]
    lines += [f"store      {default_store(os.environ)}", f"HF cache   {default_hf_cache(os.environ)}", ""]
    for name, ok, reason in checks:
        lines.append(f"{'yes' if ok else 'no ':<4}{name:<14}{reason}")
    lines.append(f"{'yes' if server[0] else 'no ':<4}{'tritonserver':<14}{server[1]}")
    return lines
