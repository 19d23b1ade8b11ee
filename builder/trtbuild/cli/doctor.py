"""``trtbuild doctor``: what this machine can do, and why not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtbuild.cli.config import default_hf_cache, default_store
from trtbuild.cli.options import configure_log, echo_json, output_options
from trtbuild.console.log import format_bytes
from trtbuild.errors import HostError, TrtBuildError

if TYPE_CHECKING:
    from trtbuild.spec import HostInfo


@click.group(invoke_without_command=True)
@click.option("--store", type=click.Path(path_type=Path), envvar="TRTBUILD_STORE", help="Root of the engine store.")
@output_options
@click.pass_context
def doctor(ctx: click.Context, store: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Show this machine as trtbuild sees it: versions, GPUs, tools, and which backends work here.

    Exits 3 when nothing can be built or served. `trtbuild doctor autoscaling` looks at a cluster instead.
    """
    configure_log(log_format, log_level)
    if ctx.invoked_subcommand is not None:
        return
    from trtbuild.host import inspect_host

    host = inspect_host(os.environ)
    checks = backend_checks(host)
    server = server_check()
    version, risk = server_risk(host.versions)
    openai = openai_check()
    directories = {
        "store": store or default_store(os.environ),
        "HF cache": Path(os.environ.get("TRTBUILD_HF_CACHE") or default_hf_cache(os.environ)),
    }
    rooms = {name: (path, *directory_check(path)) for name, path in directories.items()}
    if output == "json":
        echo_json({
            "host": asdict(host) | {"versions": dict(host.versions), "tools": dict(host.tools)},
            "backends": {name: {"works": ok, "reason": reason} for name, ok, reason in checks},
            "server": {"works": server[0], "reason": server[1], "version": version or None, "risk": risk or None},
            "openai": {"works": openai[0], "reason": openai[1]},
            "directories": {n: {"path": str(p), "writable": ok, "reason": why} for n, (p, ok, why) in rooms.items()},
        })  # fmt: skip
    else:
        click.echo("\n".join(doctor_lines(host, checks, server, rooms, risk, openai)))
    if not any(ok for _, ok, _ in checks) or not server[0]:
        raise HostError(
            "this machine cannot build and serve", hint="pip install 'trtbuild[cpu]', or run in NVIDIA's Triton image"
        )


@doctor.command()
@click.option("--metrics-url", metavar="URL", help="A server's metrics port, e.g. http://127.0.0.1:8002.")
@click.option("--prometheus", metavar="URL", help="Prometheus, e.g. http://127.0.0.1:9090.")
@click.option("--namespace", "-n", default="default", help="Namespace of the pods.")
@click.option("--metric", help="Series to check instead of the one that the autoscaler names.")
@click.option("--hpa", "hpa_name", metavar="NAME", help="HorizontalPodAutoscaler to ask kubectl for (KEDA makes one).")
@click.option("--selector", metavar="LABELS", help="Label selector of the pods, where the autoscaler has no labels.")
@click.option(
    "--from",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory with saved answers: metrics.txt, targets.json, rules.json, series.json, hpa.json, pods.json, "
    "custom_metrics.json (or external_metrics.json and scaled_object.json, resource_metrics.json).",
)
@output_options
def autoscaling(
    metrics_url: str | None,
    prometheus: str | None,
    namespace: str,
    metric: str | None,
    hpa_name: str | None,
    selector: str | None,
    directory: Path | None,
    output: str,
    log_format: str,
    log_level: str,
) -> None:
    """Walk from a server's metrics to its autoscaler and name the first hop that is broken, with the fix.

    pods, metrics endpoint, scrape target, recording rule, recorded series, ScaledObject (KEDA), metrics API,
    autoscaler. A hop that was not asked is passed over. Exits 3 at the first broken hop, and when one that was asked
    is not known.
    """
    configure_log(log_format, log_level)
    for flag, url in (("--metrics-url", metrics_url), ("--prometheus", prometheus)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise click.UsageError(f"{flag}: expected http://HOST:PORT or https://HOST, got {url!r}")
    import shutil

    from trtbuild.autoscaling import Readers, gather, walk
    from trtbuild.serve import probes

    kubectl = shutil.which("kubectl", path=os.environ.get("PATH", os.defpath))
    evidence = gather(
        Readers(read_json=probes.read_json, read_metrics=probes.read_metrics, kubectl=kubectl),
        metric=metric, namespace=namespace, metrics_url=metrics_url, prometheus=prometheus, hpa_name=hpa_name,
        selector=selector, directory=directory,
    )  # fmt: skip
    hops = walk(evidence)
    if output == "json":
        echo_json([asdict(hop) for hop in hops])
    else:
        for hop in hops:
            click.echo(f"{ {True: 'ok', False: 'BROKEN', None: '-'}[hop.is_ok]:<8}{hop.name:<20}{hop.text}")
    if all(hop.is_ok is None and not hop.fix for hop in hops):
        raise click.UsageError("nothing was asked: pass --prometheus, --metrics-url, --hpa or --from")
    # The broken hop is the last; else the first that should be known and is not.
    worst = hops[-1] if hops[-1].is_ok is False else next((hop for hop in hops if hop.is_ok is None and hop.fix), None)
    if worst:
        raise HostError(f"{worst.name}: {worst.text}", hint=worst.fix)


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
    from trtbuild.serve import server as servers

    try:
        server = servers.find_server(os.environ.get("PATH", os.defpath))
    except TrtBuildError as error:
        return False, f"{error.message}; {error.hint}"
    return (
        True,
        f"{server.path} ({'the CPU build in the nvidia-pytriton wheel' if server.kind == 'wheel' else 'native'})",
    )


def openai_check() -> tuple[bool, str]:
    """Return whether a server here can have an OpenAI port, and with which packages or why not."""
    from trtbuild.serve import openai
    from trtbuild.serve import server as servers

    search_path = os.environ.get("PATH", os.defpath)
    try:
        python = servers.model_python(servers.find_server(search_path), search_path)
    except TrtBuildError:
        return False, "there is no server"
    found = openai.installed_packages(python)
    if openai.PARSER not in found:
        return False, f"{python} cannot import {openai.PARSER}: install it there, or serve --openai-port 0"
    absent = [name for name in openai.ACCELERATORS if name not in found]
    without = f"; {' and '.join(absent)}, which make it faster, are not there" if absent else ""
    return True, ", ".join(f"{name} {version}" for name, version in found.items()) + without


def server_risk(versions: Mapping[str, str]) -> tuple[str, str]:
    """Return the release of the server that was found, and its known vulnerabilities; both may be ""."""
    from trtbuild import catalog
    from trtbuild.serve import server as servers

    try:
        server = servers.find_server(os.environ.get("PATH", os.defpath))
    except TrtBuildError:
        return "", ""
    version = servers.server_version(server, versions)
    if not catalog.is_known_version(version):
        return version, "its version is not known; servers before 25.07 have known vulnerabilities: docs/security.md"
    found = catalog.open_advisories(version)
    if not found:
        return version, ""
    instead = "there is no newer CPU server, keep it from networks you do not trust"
    if server.kind == "native":
        instead = f"the first image without them is {catalog.first_safe_image(version)}"
    return version, f"Triton {version} has known vulnerabilities: {catalog.describe(found)}; {instead}"


def directory_check(path: Path) -> tuple[bool, str]:
    """Return whether a directory can be written, or made, and its room or what is in the way. Writes nothing."""
    import shutil

    there = path.expanduser().absolute()
    try:
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            return False, f"cannot be written: {there} is no directory"
        if not os.access(there, os.W_OK | os.X_OK):
            status = there.stat()
            owner = f"{there} belongs to uid {status.st_uid} gid {status.st_gid} mode {status.st_mode & 0o7777:04o}"
            return False, f"cannot be written: {owner}, this process is uid {os.geteuid()} gid {os.getegid()}"
        made = "" if path.expanduser().exists() else "not there yet, "
        return True, f"{made}{format_bytes(shutil.disk_usage(there).free)} free"
    except OSError as error:
        return False, f"cannot be looked at: {error.strerror}"


def doctor_lines(
    host: HostInfo,
    checks: list[tuple[str, bool, str]],
    server: tuple[bool, str],
    rooms: Mapping[str, tuple[Path, bool, str]],
    risk: str = "",
    openai: tuple[bool, str] | None = None,
) -> list[str]:
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
    lines += [*(f"{name:<11}{path}: {why}" for name, (path, _, why) in rooms.items()), ""]
    for name, ok, reason in checks:
        lines.append(f"{'yes' if ok else 'no ':<4}{name:<14}{reason}")
    lines.append(f"{'yes' if server[0] else 'no ':<4}{'tritonserver':<14}{server[1]}")
    if openai is not None:
        lines.append(f"{'yes' if openai[0] else 'no ':<4}{'OpenAI port':<14}{openai[1]}")
    if risk:
        lines.append(f"{'!':<4}{'tritonserver':<14}{risk}")
    return lines
