"""``trtbuild health`` and ``trtbuild drain``: what probes, preStop hooks and scripts ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import configure_log, echo_json, read_spec, spec_options
from trtbuild.errors import LaunchError
from trtbuild.spec import Spec

UNNAMED = "model"
"""Stands for the model when neither words nor engine.yaml name one: the server is asked what it serves."""


@click.command()
@click.argument("what", type=click.Choice(["live", "ready", "startup"]), default="ready", required=False)
@spec_options(also=("model", "served_name", "host", "http_port", "metrics_port"))
@click.option("--wait", is_flag=True, help="Wait until it is so, instead of asking once.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=10.0, metavar="SECONDS", help="How long to wait for an answer."
)
def health(
    what: str,
    config: Path | None,
    output: str,
    log_format: str,
    log_level: str,
    wait: bool,
    timeout: float,
    **flags: Any,
) -> None:
    """Ask the server at --host whether it is live or ready; exit 0 if so, else 9.

    live: the server answers and no model process is dead or stuck. ready: also a real generation came back once since
    it started, and the engine is not stalled. startup: the same as ready. WHAT comes first, e.g. `trtbuild health ready
    --config engine.yaml`; MODEL is whom to ask, by default the one that is served.
    """
    configure_log(log_format, log_level)
    from trtbuild.serve.health import refuse_dead, self_test, wait_ready
    from trtbuild.serve.probes import is_up

    spec = read_spec(flags, config, default_model=UNNAMED)
    url = server_url(spec, spec.server.http_port)
    if wait:
        wait_ready(url, timeout_s=timeout)
    if not is_up(url, "live" if what == "live" else "ready", timeout_s=timeout):
        raise LaunchError(
            f"the server at {url} is not {what}",
            hint="is it running, and there (--host, --http-port)? It may still be loading: look at its log, or --wait",
        )
    metrics_url = server_url(spec, spec.server.metrics_port)
    if what == "live":
        refuse_dead(url, metrics_url, timeout_s=timeout)
    else:
        from trtbuild.repository import served_name_of

        is_named = spec.engine.model != UNNAMED or spec.repository.served_name is not None
        self_test(url, metrics_url, served_name_of(spec) if is_named else None, timeout_s=timeout)
    if output == "json":
        echo_json({"url": url, "what": what, "ok": True})
    else:
        click.echo("ok")


@click.command()
@spec_options(also=("host", "metrics_port"))
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, metavar="SECONDS", help="Longest wait.")
def drain(config: Path | None, output: str, log_format: str, log_level: str, timeout: float, **flags: Any) -> None:
    """Wait until the server at --host has no request in flight, or the time is over.

    Always exits 0: a preStop hook must not fail.
    """
    sink = configure_log(log_format, log_level)
    from trtbuild.serve.health import drain as wait_drained

    spec = read_spec(flags, config, default_model=UNNAMED)
    left = wait_drained(server_url(spec, spec.server.metrics_port), timeout_s=timeout)
    if left:
        sink.warning("drain", f"{left:g} requests were still in flight after {timeout:g} s", left=left)
    click.echo(f"{left:g}" if output == "text" else f'{{"in_flight": {left:g}}}')


def server_url(spec: Spec, port: int, listens_on: str | None = None) -> str:
    """Return the URL of this machine's own server; a wildcard listen address is asked on loopback.

    ``listens_on`` is the address of a port that has one of its own.
    """
    address = listens_on or spec.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
