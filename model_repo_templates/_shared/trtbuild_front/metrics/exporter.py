"""What is counted as metric series: which names, labels and help texts there are.

It decides how a snapshot becomes counters and gauges. It does not know how the server stores them.

Distributions are counters with a label ``le``, not the server's own histograms: one call to the server per bucket and
tick instead of one per observation (there may be ten thousand tokens a second), and they exist in servers older than
24.12 too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from trtbuild_front.metrics.accounting import Snapshot

Kind = Literal["counter", "gauge"]


class Series(Protocol):
    """One time series of the server."""

    def increment(self, value: float) -> None:
        """Add to a counter."""

    def set(self, value: float) -> None:
        """Set a gauge."""


MakeSeries = Callable[[Kind, str, str, Mapping[str, str]], Series]
"""kind, name, help text, labels -> series."""

_HELP = {
    "trtbuild_request_queue_seconds_total": "Seconds waited for a slot, over all requests; grows while they wait.",
    "trtbuild_request_compute_seconds_total": "Seconds spent in a slot, over all requests; grows while they run.",
    "trtbuild_requests_total": (
        "Requests that ended, by outcome: ok, cancelled, failed, invalid (the client's fault), rejected (no room)."
    ),
    "trtbuild_prompt_tokens_total": "Tokens of prompts given to the engine.",
    "trtbuild_generation_tokens_total": "Tokens received from the engine.",
    "trtbuild_requests_waiting": "Requests waiting for a slot of the engine.",
    "trtbuild_requests_running": "Requests in a slot of the engine.",
    "trtbuild_request_slots": "Slots of the engine: the most requests it computes at once.",
    "trtbuild_front_heartbeat_timestamp_seconds": "Unix time of the last turn of the serving thread.",
    "trtbuild_front_stalled_seconds": "Seconds since the engine last answered, while requests run; else 0.",
    "trtbuild_time_to_first_token_seconds": "Seconds from a request's arrival to its first token.",
    "trtbuild_inter_token_latency_seconds": "Seconds between tokens of one request after the first.",
    "trtbuild_request_duration_seconds": "Seconds from arrival to the end of requests that ended well.",
}


class Exporter:
    """Brings the server's series up to each snapshot. Belongs to one thread."""

    def __init__(self, make_series: MakeSeries, labels: Mapping[str, str], slots: int) -> None:
        self._make, self._labels, self._slots = make_series, dict(labels), slots
        self._series: dict[tuple[str, str], Series] = {}
        self._shown: dict[tuple[str, str], float] = {}

    def export(self, snapshot: Snapshot, *, with_distributions: bool = True) -> None:
        """Send what has changed since the last call; the first call creates every series, at zero too."""
        self._gauge("trtbuild_requests_waiting", snapshot.waiting)
        self._gauge("trtbuild_requests_running", snapshot.running)
        self._gauge("trtbuild_request_slots", self._slots)
        self._counter("trtbuild_request_queue_seconds_total", snapshot.queue_s)
        self._counter("trtbuild_request_compute_seconds_total", snapshot.compute_s)
        self._counter("trtbuild_prompt_tokens_total", snapshot.prompt_tokens)
        self._counter("trtbuild_generation_tokens_total", snapshot.generation_tokens)
        for outcome, count in snapshot.outcomes.items():
            self._counter("trtbuild_requests_total", count, outcome=outcome)
        if not with_distributions:
            return
        self._gauge("trtbuild_front_stalled_seconds", round(snapshot.stalled_s))
        self._distribution("trtbuild_time_to_first_token_seconds", *snapshot.first_token)
        self._distribution("trtbuild_inter_token_latency_seconds", *snapshot.inter_token)
        self._distribution("trtbuild_request_duration_seconds", *snapshot.duration)

    def beat(self, at_s: float) -> None:
        """Say when the serving thread was last seen at work."""
        self._gauge("trtbuild_front_heartbeat_timestamp_seconds", round(at_s, 3))

    def close(self) -> None:
        """Let go of every series."""
        self._series.clear()

    def _distribution(self, name: str, buckets: Mapping[str, int], total: float) -> None:
        for bound, count in buckets.items():
            self._counter(name, count, "_bucket", le=bound)
        self._counter(name, total, "_sum")
        self._counter(name, buckets["+Inf"], "_count")

    def _counter(self, name: str, value: float, suffix: str = "", **labels: str) -> None:
        key = (name + suffix, "".join(labels.values()))
        series = self._find("counter", key, _HELP[name], labels)
        if (grown := value - self._shown.get(key, 0.0)) > 0:
            series.increment(grown)
            self._shown[key] = value

    def _gauge(self, name: str, value: float) -> None:
        key = (name, "")
        series = self._find("gauge", key, _HELP[name], {})
        if value != self._shown.get(key):
            series.set(value)
            self._shown[key] = value

    def _find(self, kind: Kind, key: tuple[str, str], help_text: str, labels: Mapping[str, str]) -> Series:
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make(kind, key[0], help_text, {**self._labels, **labels})
        return series
