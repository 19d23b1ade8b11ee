"""Ask a running server one question: is it up, what does it generate, what do its metrics say.

It decides how an answer is read and how a missing one is explained; ``health`` decides what the answers mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from trtbuild import http_client
from trtbuild.errors import LaunchError
from trtbuild.event_stream import EventParser

PROBE_TIMEOUT_S = 10.0

IN_FLIGHT_METRICS = ("trtbuild_requests_waiting", "trtbuild_requests_running")


def is_up(url: str, what: str = "ready", *, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether the server at ``url`` answers ``/v2/health/<what>`` (``live`` or ``ready``) with 200."""
    try:
        http_client.get(f"{url}/v2/health/{what}", timeout_s=timeout_s)
    except OSError:
        return False
    return True


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


def gauge(metrics: str, name: str) -> dict[str, float]:
    """Return a gauge by model."""
    series = re.findall(rf'^{name}\{{(?:[^}}]*,)?model="([^"]*)"[^}}]*\}} (\S+)', metrics, re.MULTILINE)
    return {model: float(value) for model, value in series}
