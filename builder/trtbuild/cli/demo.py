"""``trtbuild demo``: the whole way from a checkpoint to streamed text, here and now, without a GPU or a network."""

from __future__ import annotations

import os
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import configure_log, make_context, output_options, read_spec
from trtbuild.console import log
from trtbuild.errors import LaunchError

READY_TIMEOUT_S = 300.0


@click.command()
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; repeatable. Default: the model card's.")
@click.option("--chat", help="Ask one question through the model's chat template instead.")
@click.option("--model", help="Another catalog alias, Hugging Face id or directory.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=48, help="Most tokens per answer.")
@click.option("--keep", is_flag=True, help="Leave the server running and print how to reach it.")
@click.option("--store", type=click.Path(path_type=Path), help="Root of the engine store.")
@output_options
def demo(
    prompts: tuple[str, ...],
    chat: str | None,
    model: str | None,
    max_tokens: int,
    keep: bool,
    store: Path | None,
    output: str,
    log_format: str,
    log_level: str,
) -> None:
    """Build a small model, serve it with a real Triton server and stream text from it.

    The model comes with trtbuild: about a million parameters, trained on Python's own documentation. Everything but
    the engine compiler is the code that runs on GPUs. A second run finds the engine in the store.
    """
    configure_log(log_format, log_level)
    with as_file(files("trtbuild").joinpath("_demo_model")) as directory:
        flags: dict[str, Any] = {"model": model or str(directory), "backend": "cpu", "store": store}
        flags |= {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "served_name": None if model else "pydoc-llama"}
        requests = _requests(prompts, chat, max_tokens, Path(directory))
        _run(flags, requests, keep)


def _requests(prompts: tuple[str, ...], chat: str | None, max_tokens: int, directory: Path) -> list[dict[str, Any]]:
    """Return what to ask: the user's prompts, or the first of the model card's (``chat:`` lines are questions)."""
    import json

    if chat:
        lines = [f"chat: {chat}"]
    elif prompts:
        lines = list(prompts)
    else:
        lines = [line for line in (directory / "prompts.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
        questions = [line for line in lines if line.startswith("chat: ")]
        lines = questions[:3] + [line for line in lines if line not in questions][:2]
    requests: list[dict[str, Any]] = []
    for line in lines:
        if line.startswith("chat: ") and not prompts:
            messages = json.dumps([{"role": "user", "content": line.removeprefix("chat: ")}])
            requests.append({"messages": messages, "max_tokens": max_tokens})
        else:
            requests.append({"text_input": line.removeprefix("text: "), "max_tokens": max_tokens})
    return requests


def _run(flags: dict[str, Any], requests: list[dict[str, Any]], keep: bool) -> None:
    from trtbuild import pipeline, process
    from trtbuild.cli.health import server_url
    from trtbuild.cli.serve import serving_command
    from trtbuild.serve import health
    from trtbuild.serve.background import log_excerpt, new_log

    sink = log.get()
    spec = read_spec(flags, None)
    ctx = make_context(spec)
    done = pipeline.provision(spec, ctx)
    how = "was in the store" if done.was_hit else f"was built in {log.format_duration(done.elapsed_s)}"
    sink.info("demo", f"engine {done.plan.key.short} for {done.plan.sku} {how}")
    command, ports = serving_command(spec, ctx, done)
    url = server_url(spec, ports.http)
    log_path = new_log(ctx.store.part("logs"), f"demo-{os.getpid()}")
    with sink.stage("launch"):
        sink.info("serve", f"starting Triton: {Path(command.argv[0]).name} at {url}")
        child = process.start(command, log_path=log_path)
    lease = ctx.store.lease(done.entry)
    try:
        took_s = health.wait_ready(url, timeout_s=READY_TIMEOUT_S, is_alive=lambda: child.poll() is None)
        sink.info("ready", f"ready after {log.format_duration(took_s)}")
        for request in requests:
            _stream(url, done.served_name, request)
        left = health.drain(server_url(spec, ports.metrics), timeout_s=5.0, settle_s=0.0)
        sink.info("demo", f"the server's own metrics say: {left:g} requests in flight")
        _say_next(url, done.served_name, ports.metrics, child.pid if keep else None)
        if not keep:
            log_path.unlink(missing_ok=True)
    except LaunchError as error:
        tail = log_excerpt(log_path.read_text(errors="replace"))
        raise LaunchError(error.message, hint=error.hint or f"the whole log: {log_path}", log_tail=tail) from error
    finally:
        if not keep:
            process.stop(child)
        lease.release()


def _stream(url: str, name: str, request: dict[str, Any]) -> None:
    """Write one answer to standard output as it comes, then its figures to standard error."""
    import json

    from trtbuild.serve import probes

    click.echo("")
    if "messages" in request:
        click.echo(click.style(f"> {json.loads(request['messages'])[0]['content']}", bold=True))
    else:
        click.echo(click.style(request["text_input"], bold=True), nl=False)
    started = time.monotonic()
    first_s, tokens = 0.0, 0
    for piece in probes.generate(url, name, request):
        first_s = first_s or time.monotonic() - started
        tokens = int(piece.get("completion_tokens") or tokens)
        click.echo(str(piece.get("text_output", "")), nl=False)
    elapsed = time.monotonic() - started
    click.echo("")
    rate = f"{tokens / elapsed:.0f} tokens/s" if tokens and elapsed else "no tokens"
    log.get().info("streamed", f"{tokens} tokens, first after {first_s * 1000:.0f} ms, {rate}")


def _say_next(url: str, name: str, metrics_port: int, pid: int | None) -> None:
    click.echo("")
    if pid is None:
        program = own_name()
        click.echo(f"The same, kept running:    {program} demo --keep")
        click.echo(f"A model of your own:       {program} serve Qwen/Qwen2.5-0.5B-Instruct --backend cpu")
        return
    body = '{"text_input": "The assert statement", "max_tokens": 32, "stream": true}'
    click.echo(f"Still serving (PID {pid}). Try:\n  curl -N {url}/v2/models/{name}/generate_stream -d '{body}'")
    click.echo(f"  curl -s 127.0.0.1:{metrics_port}/metrics | grep trtbuild_\nStop it with: kill {pid}")


def own_name() -> str:
    """Return how to type this program's name here: it need not be on PATH, as after ``make demo``."""
    import shutil
    import sys

    called = Path(sys.argv[0])
    if called.name != "trtbuild" or shutil.which("trtbuild"):
        return "trtbuild"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)
