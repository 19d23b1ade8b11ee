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
    from trtbuild.serve.openai import RuntimeDirectory
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
    from trtbuild.serve import openai
    from trtbuild.serve.ports import asked_ports

    refuse_early(spec, is_real=not dry_run)
    ctx = make_context(spec)
    done = pipeline.provision(pin_to_repository(spec, ctx.store.root), ctx)
    shown = openai.shown_runtime_directory(os.environ, asked_ports(spec.server).openai)
    if dry_run:
        command, _ = serving_command(spec, ctx, done, shown, is_real=False)
        click.echo(command.shell(openai.VARIABLE))
        return
    with log.get().stage("launch"):
        if wait:
            _, ports = serving_command(spec, ctx, done, shown)
            _serve_in_background(spec, ctx, ports, timeout_s=timeout, output=output)
        else:
            _become_server(spec, ctx, done)


def refuse_early(spec: Spec, *, is_real: bool) -> None:
    """Refuse what no server could listen with: now, not after an hour of building.

    Raises:
        LaunchError: A port is taken.
        HostError: There is no server, or a package that it needs is not installed.
        SpecError: Settings that contradict each other, or no usable key.
    """
    from trtbuild.serve import openai
    from trtbuild.serve.ports import choose_ports, refuse_equal_ports
    from trtbuild.serve.server import find_server, model_python

    refuse_equal_ports(spec.server)
    openai.refuse_bad_settings(spec.server)
    if is_real:
        search_path = os.environ.get("PATH", os.defpath)
        python = model_python(find_server(search_path), search_path)
        tuple(openai.check_start(spec.server, python))  # what it warns of is said when the server starts
        choose_ports(spec.server)


def serving_command(
    spec: Spec, ctx: Context, done: Provisioned, runtime_dir: Path | None, *, is_real: bool = True
) -> tuple[Command, Ports]:
    """Return the command that serves what was provided, and the ports it will listen on."""
    from trtbuild.serve.start import prepare

    directories = [ctx.store.part("servers")]
    with contextlib.suppress(SpecError):  # no home directory
        directories.append(default_store(os.environ) / "servers")
    return prepare(
        spec.server, done.repository, done.info, ctx.host, directories=directories, environ=os.environ,
        runtime_dir=runtime_dir, is_real=is_real,
    )  # fmt: skip


def runtime_directory(spec: Spec) -> RuntimeDirectory | None:
    """Make the directory in which the models of a server meet; None without an OpenAI port."""
    from trtbuild.serve import openai
    from trtbuild.serve.ports import is_openai_on

    return openai.make_runtime_directory(os.environ) if is_openai_on(spec.server) else None


def _serve_in_background(spec: Spec, ctx: Context, ports: Ports, *, timeout_s: float, output: str) -> None:
    """Start this very command in the background, wait until its server is ready and print its PID."""
    from trtbuild.serve.background import new_log, serve_command, start_and_wait

    url = server_url(spec, ports.http)
    log_path = new_log(ctx.store.part("logs"), f"serve-{os.getpid()}")
    pid = start_and_wait(serve_command(click.get_current_context().obj, ports), log_path, url, timeout_s)
    if line := openai_line(spec, ports):
        log.get().info("serve", line)
    if output == "json":
        metrics_url = server_url(spec, ports.metrics)
        openai_url = None if ports.openai is None else server_url(spec, ports.openai, spec.server.openai_host)
        echo_json({
            "pid": pid, "url": url, "grpc_port": ports.grpc, "metrics_url": metrics_url, "openai_url": openai_url,
            "log": str(log_path),
        })  # fmt: skip
    else:
        click.echo(str(pid))


def _become_server(spec: Spec, ctx: Context, done: Provisioned) -> None:
    """Check this machine, hold the engine and replace this process by the server."""
    from trtbuild import process
    from trtbuild.serve.launch import remove_stale_regions
    from trtbuild.serve.start import check_machine

    with contextlib.ExitStack() as undo:
        if runtime := runtime_directory(spec):
            undo.callback(runtime.remove)
        command, ports = serving_command(spec, ctx, done, runtime.path if runtime else None)
        check_machine(ctx.host, done.info, done.entry.key.fields)
        url = server_url(spec, ports.http)
        log.get().info("serve", f"serving {done.served_name!r} at {url} (gRPC {ports.grpc}, metrics {ports.metrics})")
        if line := openai_line(spec, ports):
            log.get().info("serve", line)
        if stale := remove_stale_regions(ports.http):
            log.get().info("serve", f"removed {len(stale)} shared-memory regions of a server that was killed")
        lease = ctx.store.lease(done.entry)
        lease.keep_over_exec()
        if runtime:
            runtime.keep_over_exec()
        process.replace(command)


def openai_line(spec: Spec, ports: Ports) -> str:
    """Return where the OpenAI port will answer, for people; empty without one."""
    if ports.openai is None:
        return ""
    url = server_url(spec, ports.openai, spec.server.openai_host)
    return f"OpenAI API at {url}/v1, chat page at {url}/"
