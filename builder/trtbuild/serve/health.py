"""Judge a running server: wait for it, test it, refuse one with a dead process, drain it.

It decides what "live", "ready" and "drained" mean: a server that answers ``/v2/health/ready`` can still hold a dead
model process, so ready means that a real generation came back, and the processes themselves are looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from trtbuild.errors import LaunchError
from trtbuild.serve.probes import (
    PROBE_TIMEOUT_S,
    count_in_flight,
    count_outcomes,
    gauge,
    is_up,
    probe_generation,
    read_metrics,
)
from trtbuild.serve.processes import dead_model_processes

FAILED_STARTS_LIMIT = 3
"""Failed starts of an engine process in a row after which starting it again is not expected to help."""

HEARTBEAT_LIMIT_S = 30.0
"""Age of the last turn of a front model's serving thread beyond which it is taken for dead; it turns at least 4 times
a second."""

STALLED_UNREADY_S = 60.0
STALLED_DEAD_S = 600.0
"""Seconds without a token while requests run after which an engine is not ready, and dead."""

_SECOND_LOOK_S = 3.0
_DEAD_ANSWERS = re.compile(r"Stub process '[^']*' is not healthy|is shutting down")
_UNREADY_ANSWERS = re.compile(
    rf"{_DEAD_ANSWERS.pattern}|no available versions|unknown model|no connection to the engine"
)


def wait_ready(
    url: str,
    *,
    timeout_s: float,
    is_alive: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until the server at ``url`` is ready; return the seconds it took.

    Raises:
        LaunchError: ``is_alive`` became false (the process ended) or ``timeout_s`` passed.
    """
    started = clock()
    pause_s = 0.05
    while not is_up(url, timeout_s=2.0):
        waited = clock() - started
        if not is_alive():
            raise LaunchError(
                f"the server ended {waited:.1f} s after its start, before it was ready",
                hint="the server's log says why; trtbuild doctor checks this machine",
            )
        if waited > timeout_s:
            raise LaunchError(
                f"the server at {url} was not ready after {timeout_s:g} s",
                hint="look at the server's log, or wait longer with --timeout",
            )
        sleep(pause_s)
        pause_s = min(1.0, pause_s * 1.3)
    return clock() - started


def self_test(url: str, metrics_url: str, model: str | None, *, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Make sure that a real generation came back once since the server started; generate one token if none did.

    The server's own counters are asked, so nothing has to be remembered between probes, and a restarted server is
    tested again. ``model`` None stands for every front model that the server has.

    Raises:
        LaunchError: A generation failed, a model process is dead, an engine process is not there, or no front model can
            be seen.
    """
    try:
        metrics = read_metrics(metrics_url, timeout_s=timeout_s)
    except LaunchError:
        if model is None:
            raise
        metrics = ""
    for engine, up in gauge(metrics, "trtbuild_engine_up").items():
        if not up:
            raise LaunchError(
                f"the engine process of {engine!r} has ended and is being started again",
                hint="wait; the server's log says why it ended",
            )
    _refuse_stalled(metrics, STALLED_UNREADY_S)
    ended = count_outcomes(metrics)
    names = [model] if model is not None else sorted(ended)
    if not names:
        raise LaunchError(
            f"{metrics_url}/metrics shows no front model of trtbuild",
            hint="name the model: trtbuild health ready MODEL",
        )
    for name in names:
        if not ended.get(name, {}).get("ok"):
            probe_generation(url, name, timeout_s=timeout_s)
    refuse_dead(url, metrics_url, timeout_s=timeout_s, answers=_UNREADY_ANSWERS)


def refuse_dead(
    url: str, metrics_url: str, *, timeout_s: float = PROBE_TIMEOUT_S, answers: re.Pattern[str] = _DEAD_ANSWERS
) -> None:
    """Refuse a server with a dead or stuck model process, which goes on to answer that it is live and ready.

    On the server's own machine its processes are looked at, so no request is needed to find out. From elsewhere a
    request is tried where others have failed, and only the server's own word about its process counts: an engine that
    is slow, full or refuses the request is alive. An engine process that ended is no reason, its model starts it again;
    one that cannot be started again is. So is a front model that has stopped taking turns, an engine that has answered
    nothing for ten minutes while requests run, and a model that says it is shutting down on a server that is not:
    a server that is ending takes no new connection, so it would not have answered.

    Args:
        answers: Errors of a generation that count, where requests have failed before.

    Source: triton-inference-server/python_backend, ``Stub process '<name>' is not healthy``.

    Raises:
        LaunchError: The process of a model is dead or stuck, or an engine cannot be started again.
    """
    if dead := dead_model_processes(url):
        raise _dead(f"process {', '.join(str(pid) for pid in dead)} of the server at {url} has ended")
    try:
        metrics = read_metrics(metrics_url, timeout_s=timeout_s)
    except LaunchError:
        return
    for model, starts in gauge(metrics, "trtbuild_engine_failed_starts").items():
        if starts >= FAILED_STARTS_LIMIT:
            raise LaunchError(
                f"the engine process of {model!r} could not be started again, {starts:g} times in a row",
                hint="restart the server; its log says why the engine does not start",
            )
    _refuse_stuck(metrics_url, metrics, timeout_s=timeout_s)
    _refuse_stalled(metrics, STALLED_DEAD_S)
    for name in (name for name, counts in count_outcomes(metrics).items() if counts.get("failed")):
        try:
            probe_generation(url, name, timeout_s=timeout_s)
        except LaunchError as error:
            if answers.search(error.message):
                raise _dead(error.message) from error


def _refuse_stuck(metrics_url: str, metrics: str, *, timeout_s: float) -> None:
    """Refuse front models whose heartbeat is old and stays so: the clocks of two machines may differ.

    Raises:
        LaunchError: One has stopped taking turns.
    """
    beats = gauge(metrics, "trtbuild_front_heartbeat_timestamp_seconds")
    if not any(abs(time.time() - beat) > HEARTBEAT_LIMIT_S for beat in beats.values()):
        return
    time.sleep(_SECOND_LOOK_S)
    later = gauge(read_metrics(metrics_url, timeout_s=timeout_s), "trtbuild_front_heartbeat_timestamp_seconds")
    for name, beat in beats.items():
        if later.get(name) == beat and abs(time.time() - beat) > HEARTBEAT_LIMIT_S:
            raise _dead(f"the front model {name!r} has done nothing for {time.time() - beat:.0f} s")


def _refuse_stalled(metrics: str, limit_s: float) -> None:
    """Refuse front models whose engine answers nothing although requests run.

    Raises:
        LaunchError: One has been waiting for longer than ``limit_s``.
    """
    for name, stalled_s in gauge(metrics, "trtbuild_front_stalled_seconds").items():
        if stalled_s > limit_s:
            raise LaunchError(
                f"the engine behind {name!r} has answered nothing for {stalled_s:g} s, while requests run",
                hint=f"expected a token within {limit_s:g} s; the server's log may say why, a restart ends it",
            )


def _dead(what: str) -> LaunchError:
    return LaunchError(f"a model process is dead: {what}", hint="restart the server; its log says what happened")


def drain(
    metrics_url: str,
    *,
    timeout_s: float,
    settle_s: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until no request has been in flight for a moment; return how many were left (0 unless time ran out).

    ``settle_s`` bridges the time in which other nodes still route new requests to a pod that is leaving its Service.
    A server that is gone counts as drained; one that is too busy to answer does not. Where a model process has died,
    requests in flight may never end: after ``settle_s`` the rest is left to the server's own exit timeout.
    """
    started = idle_since = clock()
    left = 0.0
    while clock() - started < timeout_s:
        try:
            left = count_in_flight(read_metrics(metrics_url, timeout_s=2.0))
        except LaunchError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):  # nothing listens there any more
                return 0.0
            idle_since = clock()
        if left > 0 and not dead_model_processes(metrics_url):
            idle_since = clock()
        elif clock() - idle_since >= settle_s:
            return left
        sleep(0.25)
    return left
