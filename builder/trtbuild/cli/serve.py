"""``trtbuild serve``: provide the engine if needed, then become the Triton server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.config import default_store
from trtbuild.cli.health import server_url
from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options
from trtbuild.console import log
from trtbuild.errors import SpecError
from trtbuild.spec import ServerSpec, Spec

if TYPE_CHECKING:
    from trtbuild.pipeline import Context, Provisioned
    from trtbuild.process import Command
    from trtbuild.serve.launch import Ports


_TELLING = re.compile(r"^E\d{4} |^(error|hint): |unrecognized option|unexpected argument", re.IGNORECASE)


@click.command()
@spec_options("model", "engine", "repository", "store", "server")
@click.option("--dry-run", is_flag=True, help="Print the server's command line instead of becoming it.")
@click.option("--wait", is_flag=True, help="Start the server in the background, wait until it is ready, print its PID.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=600.0, metavar="SECONDS", help="How long --wait waits."
)
def serve(
    config: Path | None,
    output: str,
    log_format: str,
    log_level: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
    **flags: Any,
) -> None:
    """Build MODEL if it is not in the store, then become the Triton server that serves it.

    The server replaces this process, so signals reach it directly: SIGTERM ends it after the running
    requests, or --drain-timeout seconds later; requests that wait are refused as UNAVAILABLE.
    """
    configure_log(log_format, log_level)
    spec = read_spec(flags, config)
    from trtbuild import pipeline, process
    from trtbuild.serve import launch

    refuse_equal_ports(spec.server)
    if not dry_run:
        launch.choose_ports(spec.server)  # a taken port is told now, not after an hour of building
    ctx = make_context(spec)
    done = pipeline.provision(pipeline.pin_to_repository(spec, ctx.store.root), ctx)
    command, ports = serving_command(spec, ctx, done, is_real=not dry_run)
    url = server_url(spec, ports.http)
    if dry_run:
        click.echo(command.shell())
        return
    with log.get().stage("launch"):
        if wait:
            log_path = server_log(ctx, f"serve-{os.getpid()}")
            pid = _start_and_wait(own_command(ports), log_path, url, timeout)
            if output == "json":
                echo_json(
                    {
                        "pid": pid,
                        "url": url,
                        "grpc_port": ports.grpc,
                        "metrics_url": server_url(spec, ports.metrics),
                        "log": str(log_path),
                    }
                )
            else:
                click.echo(str(pid))
            return
        check_machine(ctx, done)
        log.get().info("serve", f"serving {done.served_name!r} at {url} (gRPC {ports.grpc}, metrics {ports.metrics})")
        if stale := launch.remove_stale_regions(ports.http):
            log.get().info("serve", f"removed {len(stale)} shared-memory regions of a server that was killed")
        lease = ctx.store.lease(done.entry)
        lease.keep_over_exec()
        process.replace(command)


def refuse_equal_ports(server: ServerSpec) -> None:
    """Refuse one port for two services: the server would say so below four hundred lines of its own usage.

    Raises:
        SpecError: Two ports are the same (0 is a different one each time).
    """
    seen: dict[int, str] = {}
    for name in ("http_port", "grpc_port", "metrics_port"):
        port = getattr(server, name)
        flag = f"--{name.replace('_', '-')}"
        if port and port in seen:
            raise SpecError(f"{flag}: {port} is {seen[port]}, too", hint=f"pass another {flag} (0 chooses a free one)")
        seen[port] = flag


def check_machine(ctx: Context, done: Provisioned) -> None:
    """Look at what the server will need, and refuse to start what would hang or die without a clear message."""
    import resource

    from trtbuild.serve import preflight

    def limit(kind: int) -> int | None:
        soft = resource.getrlimit(kind)[0]
        return None if soft == resource.RLIM_INFINITY else soft

    limits = preflight.Limits(open_files=limit(resource.RLIMIT_NOFILE), locked_bytes=limit(resource.RLIMIT_MEMLOCK))
    checks = preflight.preflight(ctx.host, done.info, limits, done.entry.key.fields)
    for check in checks:
        line = f"{check.name}: {check.text}"
        if check.is_ok:
            log.get().debug("preflight", line)
        elif not check.is_fatal:
            log.get().warning("preflight", f"{line}; {check.remedy}")
    preflight.refuse(checks)


def own_command(ports: Ports) -> Command:
    """Return this very command without ``--wait`` and with its ports chosen: the background process that becomes the
    server, so that the engine's lease belongs to it and not to the command that waits."""
    from trtbuild.process import Command

    words = [word for word in click.get_current_context().obj if word != "--wait"]
    chosen = {"http-port": ports.http, "grpc-port": ports.grpc, "metrics-port": ports.metrics}
    numbers = [word for name, port in chosen.items() for word in (f"--{name}", str(port))]
    return Command(argv=(sys.executable, "-m", "trtbuild", *words, *numbers))


def serving_command(spec: Spec, ctx: Context, done: Provisioned, *, is_real: bool = True) -> tuple[Command, Ports]:
    """Return the command that serves what was provided, and the ports it will listen on.

    A command that is only shown (``is_real`` false) may name ports that are taken now. Its secret is real and new each
    time: who pastes it gets a server as closed as this one, and two lines differ in it only.
    """
    from trtbuild.serve import access, launch

    search_path = os.environ.get("PATH", os.defpath)
    found = launch.find_server(search_path)
    if is_real:
        version = launch.server_version(found, ctx.host.versions)
        for text in (
            *access.exposure_warnings(spec.server, version, is_wheel=found.kind == "wheel"),
            *access.endpoint_warnings(spec.server, os.environ),
        ):
            log.get().warning("exposure", text)
    server = launch.prepare_server(
        found,
        cache_dir=server_directory(ctx.store.root, done.repository),
        search_path=search_path,
        library_path=os.environ.get("LD_LIBRARY_PATH", ""),
    )
    asked = launch.Ports(http=spec.server.http_port, grpc=spec.server.grpc_port, metrics=spec.server.metrics_port)
    ports = launch.choose_ports(spec.server) if is_real else asked
    command = launch.server_command(
        server,
        done.repository,
        spec.server,
        ports,
        secrets=access.make_secrets(os.environ),
        world_size=done.info.world_size,
        mpirun=shutil.which("mpirun", path=search_path),
        has_gpus=bool(ctx.host.gpus),
        is_root=os.geteuid() == 0,
    )
    return command, ports


def server_directory(store: Path, repository: Path) -> Path:
    """Return where the copy of the CPU server's Python backend goes: a program, so not where others may write.

    A store may be shared by a group, or read-only (a ReadOnlyMany claim); the repository was written here, so its
    neighbourhood is writable.
    """
    from trtbuild.serve import wheel_backend

    candidates = [store / "servers"]
    with contextlib.suppress(SpecError):  # no home directory
        candidates.append(default_store(os.environ) / "servers")
    return wheel_backend.choose_directory([*candidates, repository.parent / ".servers"])


def server_log(ctx: Context, name: str) -> Path:
    """Return the path of a new, empty log of a server.

    Raises:
        LaunchError: It cannot be written.
    """
    from trtbuild.errors import LaunchError

    path = ctx.store.root / "logs" / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    except OSError as error:
        raise LaunchError(
            f"cannot write the server's log {path}: {error.strerror}", hint="pass a writable --store DIRECTORY"
        ) from error
    return path


def telling_lines(text: str, count: int = 15) -> tuple[str, ...]:
    """Return the last lines of a server's log, after the errors that are further up; its usage text is left out."""
    lines, is_usage = [], False
    for line in text.splitlines():
        is_usage = line.startswith("Usage: ") or (is_usage and (not line or line[0] in " \t" or line.endswith(":")))
        if line.strip() and not is_usage:
            lines.append(line)
    early = [line for line in lines[:-count] if _TELLING.search(line)]
    return (*early[-5:], *(["..."] if early else []), *lines[-count:])


def _explained(message: str, exit_code: int, log_path: Path) -> Exception:
    """Return the error of a server that did not start, with what its log is known to mean."""
    from trtbuild import catalog
    from trtbuild.errors import LaunchError

    text = log_path.read_text(errors="replace")
    known = catalog.diagnose(exit_code, text.splitlines())
    whole = f"the whole log: {log_path}"
    if known is None:
        return LaunchError(message, hint=whole, log_tail=telling_lines(text))
    return LaunchError(f"{message}: {known.message}", hint=f"{known.hint}; {whole}", log_tail=telling_lines(text))


def _start_and_wait(command: Command, log_path: Path, url: str, timeout_s: float) -> int:
    """Start the server in the background; return its PID once it is ready."""
    from trtbuild import process
    from trtbuild.errors import LaunchError
    from trtbuild.serve import health

    child = process.start(command, log_path=log_path)
    try:
        took_s = health.wait_ready(url, timeout_s=timeout_s, is_alive=lambda: child.poll() is None)
    except BaseException as error:
        exit_code = process.stop(child)
        if isinstance(error, LaunchError):
            raise _explained(error.message, exit_code, log_path) from None
        raise
    log.get().info("ready", f"ready after {log.format_duration(took_s)}; log: {log_path}")
    return child.pid
