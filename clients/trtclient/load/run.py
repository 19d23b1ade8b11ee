"""One load run, from its settings to what happened: calibrate, send, show progress. It decides the order only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from trtbuild.console import log
from trtbuild.errors import LaunchError
from trtclient.errors import RequestFailure
from trtclient.generation import Api, Generation, Piece
from trtclient.load.report import format_s
from trtclient.load.schedule import Arrival
from trtclient.load.sender import RunState, Sender
from trtclient.load.stats import percentile
from trtclient.load.workload import DEFAULT_TOKENS_PER_WORD, Workload, words

PROGRESS_TERMINAL_S = 0.5
PROGRESS_LINES_S = 5.0
_CALIBRATION_WORDS = 48


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A closed loop: ``concurrency`` users, until ``limit`` requests or ``duration_s``."""

    concurrency: int
    limit: int | None
    duration_s: float | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to do.

    Attributes:
        connect: Makes the way to the model, inside the event loop.
        plan: The arrivals of an open loop, or a closed loop.
        workload: Makes the requests.
        timeout_s: For one request, from its due time.
        max_in_flight: Most requests open at once; the others wait here, and their wait counts.
    """

    connect: Callable[[], Api]
    plan: Sequence[Arrival] | Closed
    workload: Workload
    timeout_s: float = 600.0
    max_in_flight: int | None = None


def execute(run: Run) -> tuple[RunState, Workload]:
    """Do the run; return what happened and the workload that was used. Ctrl-C and SIGTERM end it early.

    Raises:
        LaunchError: The server does not answer at all.
    """
    raise_open_files()
    return asyncio.run(_execute(run))


def raise_open_files() -> int:
    """Allow this process as many open files as the system lets it; return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _execute(run: Run) -> tuple[RunState, Workload]:
    api = run.connect()
    try:
        workload = run.workload if run.workload.prompts else await _calibrated(api, run.workload)
        sender = Sender(api, workload.request, timeout_s=run.timeout_s, max_in_flight=run.max_in_flight)
        gc.collect()
        gc.freeze()  # the schedule lives to the end: the collector need not walk it during the run
        async with _progress(sender):
            if isinstance(run.plan, Closed):
                plan = run.plan
                task = sender.run_closed(plan.concurrency, limit=plan.limit, duration_s=plan.duration_s)
            else:
                task = sender.run_open(run.plan)
            return await _until_signal(asyncio.ensure_future(task)), workload
    finally:
        gc.unfreeze()
        await api.close()


async def _calibrated(api: Api, workload: Workload) -> Workload:
    """Return the workload with the tokens per word of the served model, learnt from one request.

    Raises:
        LaunchError: The request failed.
    """
    counts: list[int] = []

    def on_piece(piece: Piece) -> None:
        if piece.prompt_tokens:
            counts.append(piece.prompt_tokens)

    text = words(random.Random("calibration"), _CALIBRATION_WORDS, 1.0)  # noqa: S311 - not for secrets
    request = Generation(text=text, max_tokens=1, parameters=workload.parameters, stream=workload.stream)
    try:
        async with asyncio.timeout(60):
            await api.generate(request, on_piece)
    except RequestFailure as failure:
        raise LaunchError(f"a first small request failed: {failure.message}", hint=failure.hint) from failure
    except TimeoutError:
        raise LaunchError(
            "a first small request got no answer in 60 s", hint="is the server ready? trtbuild health"
        ) from None
    if not counts:
        log.get().warning(
            "calibrate", f"the server does not count prompt tokens: {DEFAULT_TOKENS_PER_WORD:g} tokens per word assumed"
        )
        return workload
    return replace(workload, tokens_per_word=counts[-1] / _CALIBRATION_WORDS)


async def _until_signal(task: asyncio.Future[RunState]) -> RunState:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.asynccontextmanager
async def _progress(sender: Sender) -> AsyncIterator[None]:
    """Show one line of progress until the end of the block: rewritten on a terminal, else every few seconds.

    Plain text on purpose: drawing a table would hold the event loop, and with it the answers, for milliseconds.
    """
    is_terminal = sys.stderr.isatty()
    task = asyncio.create_task(_show(sender, is_terminal))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


async def _show(sender: Sender, is_terminal: bool) -> None:
    pieces, before_s = 0, 0.0
    while True:
        await asyncio.sleep(PROGRESS_TERMINAL_S if is_terminal else PROGRESS_LINES_S)
        now_s = sender.now_s()
        rate = (sender.state.pieces - pieces) / max(now_s - before_s, 1e-9)
        pieces, before_s = sender.state.pieces, now_s
        line = progress_line(sender.state, now_s, rate)
        if is_terminal:
            sys.stderr.write(f"\r\x1b[K{line[:118]}")
            sys.stderr.flush()
        else:
            state = sender.state
            log.get().info("load", line, in_flight=state.in_flight, done=state.done, failed=state.failed)


def progress_line(state: RunState, now_s: float, pieces_per_s: float) -> str:
    """Return the state of a run in one line."""
    of = f"/{state.planned}" if state.planned else ""
    ordered = sorted(state.recent_ttft_s)
    waits = (
        f", TTFT p50 {format_s(percentile(ordered, 0.5))} p99 {format_s(percentile(ordered, 0.99))}" if ordered else ""
    )
    failed = f", {state.failed} failed" if state.failed else ""
    return f"{now_s:.0f} s: {state.done}{of} done{failed}, {state.in_flight} open, {pieces_per_s:.0f} pieces/s{waits}"
