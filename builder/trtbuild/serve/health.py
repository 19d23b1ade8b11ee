"""Ask a running server whether it works, wait for it, stream from it, drain it.

It decides what "live", "ready" and "drained" mean: a server that answers ``/v2/health/ready`` can still hold a dead
model process, so ready means that a real generation came back, and the processes themselves are looked at.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trtbuild import http_client
from trtbuild.errors import LaunchError
from trtbuild.event_stream import EventParser

PROBE_TIMEOUT_S = 10.0

IN_FLIGHT_METRICS = ("trtbuild_requests_waiting", "trtbuild_requests_running")

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
_STUB = "triton_python_backend_stub"
_SHM_PREFIX = "--backend-config=python,shm-region-prefix-name="


def is_up(url: str, what: str = "ready", *, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether the server at ``url`` answers ``/v2/health/<what>`` (``live`` or ``ready``) with 200."""
    try:
        http_client.get(f"{url}/v2/health/{what}", timeout_s=timeout_s)
    except OSError:
        return False
    return True


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


def generate(
    url: str, model: str, request: Mapping[str, Any], *, timeout_s: float = 60.0, total_s: float | None = None
) -> Iterator[dict[str, Any]]:
    """Send ``request`` to ``/v2/models/<model>/generate_stream`` and yield each response as it comes.

    ``timeout_s`` is the longest wait for the next one, ``total_s`` for all of them.

    Raises:
        LaunchError: The server refused the request, an error came in the stream, or the connection broke.
    """
    body = json.dumps({"stream": True, **request}).encode()
    target = f"{url}/v2/models/{model}/generate_stream"
    parser = EventParser()
    try:
        for data in http_client.post_json(target, body, timeout_s=timeout_s, total_s=total_s):
            for event in parser.feed(data):
                piece = json.loads(event)
                if not isinstance(piece, dict):
                    raise ValueError(f"expected a JSON object, got {event[:80]!r}")
                if "error" in piece:
                    raise LaunchError(
                        f"the server answered: {piece['error']}", hint="correct the request and repeat it"
                    )
                yield piece
    except http_client.BadStatusError as error:
        text = error.body.decode("utf-8", "replace").strip()
        raise LaunchError(
            f"{target} answered {error.status}: {text[:500]}", hint="check the model's name and the request"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError(f"{target} did not answer: {error}", hint="is the server running? trtbuild health") from error


def probe_generation(url: str, model: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Generate one token for real and return its text.

    Raises:
        LaunchError: No token came back.
    """
    request = {"text_input": "Hello", "max_tokens": 1}
    pieces = list(generate(url, model, request, timeout_s=timeout_s, total_s=timeout_s))
    if not pieces:
        raise LaunchError(f"model {model!r} answered nothing", hint="look at the server's log")
    return "".join(str(piece.get("text_output", "")) for piece in pieces)


def read_json(url: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Any:
    """Return the JSON document at ``url``.

    Raises:
        LaunchError: No answer, or no JSON.
    """
    try:
        return json.loads(http_client.get(url, timeout_s=timeout_s))
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError(f"{url} did not answer: {error}", hint="is the address right?") from error


def read_metrics(url: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Return the text of a Prometheus metrics endpoint.

    Raises:
        LaunchError: It does not answer.
    """
    try:
        return http_client.get(f"{url}/metrics", timeout_s=timeout_s).decode("utf-8", "replace")
    except OSError as error:
        raise LaunchError(f"{url}/metrics did not answer: {error}", hint="is the server running?") from error


def count_in_flight(metrics: str) -> float:
    """Return the requests waiting or running, summed over the front models in a metrics text."""
    names = "|".join(IN_FLIGHT_METRICS)
    values = re.findall(rf"^(?:{names})(?:\{{[^}}]*\}})? (\S+)", metrics, re.MULTILINE)
    return sum(float(value) for value in values)


def count_outcomes(metrics: str) -> dict[str, dict[str, float]]:
    """Return by front model how its requests ended since its server started (``ok``, ``failed``, ...)."""
    ended: dict[str, dict[str, float]] = {}
    for labels, value in re.findall(r"^trtbuild_requests_total\{([^}]*)\} (\S+)", metrics, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        counts = ended.setdefault(found.get("model", ""), {})
        outcome = found.get("outcome", "")
        counts[outcome] = counts.get(outcome, 0.0) + float(value)
    return ended


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
    for engine, is_up in _gauge(metrics, "trtbuild_engine_up").items():
        if not is_up:
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

    On the server's own machine its processes are looked at, so nobody has to send a request first. From elsewhere a
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
    for model, starts in _gauge(metrics, "trtbuild_engine_failed_starts").items():
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
    beats = _gauge(metrics, "trtbuild_front_heartbeat_timestamp_seconds")
    if not any(abs(time.time() - beat) > HEARTBEAT_LIMIT_S for beat in beats.values()):
        return
    time.sleep(_SECOND_LOOK_S)
    later = _gauge(read_metrics(metrics_url, timeout_s=timeout_s), "trtbuild_front_heartbeat_timestamp_seconds")
    for name, beat in beats.items():
        if later.get(name) == beat and abs(time.time() - beat) > HEARTBEAT_LIMIT_S:
            raise _dead(f"the front model {name!r} has done nothing for {time.time() - beat:.0f} s")


def _refuse_stalled(metrics: str, limit_s: float) -> None:
    """Refuse front models whose engine answers nothing although requests run.

    Raises:
        LaunchError: One has been waiting for longer than ``limit_s``.
    """
    for name, stalled_s in _gauge(metrics, "trtbuild_front_stalled_seconds").items():
        if stalled_s > limit_s:
            raise LaunchError(
                f"the engine behind {name!r} has answered nothing for {stalled_s:g} s, while requests run",
                hint=f"expected a token within {limit_s:g} s; the server's log may say why, a restart ends it",
            )


def _dead(what: str) -> LaunchError:
    return LaunchError(f"a model process is dead: {what}", hint="restart the server; its log says what happened")


def _gauge(metrics: str, name: str) -> dict[str, float]:
    """Return a gauge by model."""
    series = re.findall(rf'^{name}\{{(?:[^}}]*,)?model="([^"]*)"[^}}]*\}} (\S+)', metrics, re.MULTILINE)
    return {model: float(value) for model, value in series}


def dead_model_processes(url: str, *, proc: Path = Path("/proc")) -> list[int]:
    """Return the processes of models that have ended while their server, which has a port of ``url``, goes on.

    The server waits for its children only when it unloads their model: until then a dead one is a zombie. The servers
    of further ranks are found by their shared-memory prefix. Empty for a server that is not seen from here.
    """
    port = url.rpartition(":")[2]
    argvs: dict[int, list[str]] = {}
    zombies: dict[int, int] = {}
    for directory in proc.glob("[0-9]*"):
        try:
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            argvs[int(directory.name)] = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):  # it has ended meanwhile, or is somebody else's
            continue
        if state == "Z" and _STUB.startswith(name):  # the kernel keeps the first 15 characters
            zombies[int(directory.name)] = int(parent)
    ours = [argv for argv in argvs.values() if {f"--http-port={port}", f"--metrics-port={port}"} & set(argv)]
    prefixes = {word.rstrip("_0123456789") for argv in ours for word in argv if word.startswith(_SHM_PREFIX)}
    servers = {
        pid
        for pid, argv in argvs.items()
        if argv in ours or any(word.rstrip("_0123456789") in prefixes for word in argv if word.startswith(_SHM_PREFIX))
    }
    return sorted(pid for pid, parent in zombies.items() if parent in servers)


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
            if isinstance(error.__cause__, ConnectionRefusedError):  # nobody listens there any more
                return 0.0
            idle_since = clock()
        if left > 0 and not dead_model_processes(metrics_url):
            idle_since = clock()
        elif clock() - idle_since >= settle_s:
            return left
        sleep(0.25)
    return left
