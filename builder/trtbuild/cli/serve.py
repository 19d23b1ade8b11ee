"""``trtbuild serve``: provide the engine if needed, then become the Triton server."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild.cli.config import default_store
from trtbuild.cli.health import server_url
from trtbuild.cli.options import configure_log, echo_json, make_context, read_spec, spec_options
from trtbuild.console import log
from trtbuild.errors import SpecError
from trtbuild.spec import Spec

if TYPE_CHECKING:
    from trtbuild.pipeline import Context, Provisioned
    from trtbuild.process import Command
    from trtbuild.serve.ports import Ports


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
    from trtbuild import pipeline
    from trtbuild.repository import pin_to_repository
    from trtbuild.serve.ports import choose_ports, refuse_equal_ports

    refuse_equal_ports(spec.server)
    if not dry_run:
        choose_ports(spec.server)  # a taken port is reported now, not after an hour of building
    ctx = make_context(spec)
    done = pipeline.provision(pin_to_repository(spec, ctx.store.root), ctx)
    command, ports = serving_command(spec, ctx, done, is_real=not dry_run)
    if dry_run:
        click.echo(command.shell())
        return
    with log.get().stage("launch"):
        if wait:
            _serve_in_background(spec, ctx, ports, timeout_s=timeout, output=output)
        else:
            _become_server(command, spec, ctx, done, ports)


def serving_command(spec: Spec, ctx: Context, done: Provisioned, *, is_real: bool = True) -> tuple[Command, Ports]:
    """Return the command that serves what was provided, and the ports it will listen on."""
    from trtbuild.serve.start import prepare

    directories = [ctx.store.part("servers")]
    with contextlib.suppress(SpecError):  # no home directory
        directories.append(default_store(os.environ) / "servers")
    return prepare(
        spec.server, done.repository, done.info, ctx.host, directories=directories, environ=os.environ, is_real=is_real
    )


def _serve_in_background(spec: Spec, ctx: Context, ports: Ports, *, timeout_s: float, output: str) -> None:
    """Start this very command in the background, wait until its server is ready and print its PID."""
    from trtbuild.serve.background import new_log, serve_command, start_and_wait

    url = server_url(spec, ports.http)
    log_path = new_log(ctx.store.part("logs"), f"serve-{os.getpid()}")
    pid = start_and_wait(serve_command(click.get_current_context().obj, ports), log_path, url, timeout_s)
    if output == "json":
        metrics_url = server_url(spec, ports.metrics)
        echo_json({"pid": pid, "url": url, "grpc_port": ports.grpc, "metrics_url": metrics_url, "log": str(log_path)})
    else:
        click.echo(str(pid))


def _become_server(command: Command, spec: Spec, ctx: Context, done: Provisioned, ports: Ports) -> None:
    """Check this machine, hold the engine and replace this process by the server."""
    from trtbuild import process
    from trtbuild.serve.launch import remove_stale_regions
    from trtbuild.serve.start import check_machine

    check_machine(ctx.host, done.info, done.entry.key.fields)
    url = server_url(spec, ports.http)
    log.get().info("serve", f"serving {done.served_name!r} at {url} (gRPC {ports.grpc}, metrics {ports.metrics})")
    if stale := remove_stale_regions(ports.http):
        log.get().info("serve", f"removed {len(stale)} shared-memory regions of a server that was killed")
    lease = ctx.store.lease(done.entry)
    lease.keep_over_exec()
    process.replace(command)
