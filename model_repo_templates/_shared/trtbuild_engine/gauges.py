"""The engine model's metrics: which there are, and what they say while there is no engine process.

It decides names and labels: those of TensorRT-LLM's C++ backend, so that one dashboard serves both, and two of
trtbuild's own. The values come from the engine process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

UP, FAILED_STARTS = "trtbuild_engine_up", "trtbuild_engine_failed_starts"
_STATE = {
    UP: "Whether the engine process runs and has loaded its engine: 1 or 0.",
    FAILED_STARTS: "Starts of the engine process in a row that ended before it was ready.",
}
_REQUESTS, _BLOCKS = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
_REQUEST_VALUES = ("active", "waiting", "scheduled", "max")
_FAMILIES = (
    (_REQUESTS, "request_type", _REQUEST_VALUES),
    (_BLOCKS, "kv_cache_block_type", ("max", "used", "free", "fraction", "tokens_per")),
)
_MOMENTARY = frozenset({UP, "active", "waiting", "scheduled", "blocks_used"})
"""What is 0 without an engine process."""

Stats = Mapping[str, float]


def before_start() -> dict[str, float]:
    """Return the values of a model whose engine process has not been started."""
    return dict.fromkeys(_STATE, 0.0)


def when_ready(stats: Stats) -> dict[str, float]:
    """Return the values when an engine process is ready and says ``stats``."""
    return {**stats, UP: 1.0, FAILED_STARTS: 0.0}


def when_lost(stats: Stats) -> dict[str, float]:
    """Return the values when the engine process behind ``stats`` has ended, or has not come up."""
    lost = {name: 0.0 if name in _MOMENTARY else value for name, value in stats.items()}
    if not stats[UP]:
        lost[FAILED_STARTS] += 1
    return lost


class Gauges:
    """The series in the server."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._families: list[Any] = []  # a metric is gone with its family
        self._series: dict[tuple[str, str], Any] = {}
        for family, label, values in _FAMILIES:
            made = self._family(family, f"TensorRT LLM {family[11:]}")
            self._series |= {(family, value): made.Metric(labels={label: value, **labels}) for value in values}
        for family, description in _STATE.items():
            self._series[family, ""] = self._family(family, description).Metric(labels=dict(labels))

    def _family(self, name: str, description: str) -> Any:
        made = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
        self._families.append(made)
        return made

    def set(self, stats: Stats) -> None:
        """Bring the series up to date."""
        for name in _STATE:
            self._series[name, ""].set(stats[name])
        for name in _REQUEST_VALUES:
            self._series[_REQUESTS, name].set(stats[name])
        if "blocks_max" not in stats:  # an engine whose cache cannot be seen
            return
        used, most = stats["blocks_used"], stats["blocks_max"]
        values = {
            "max": most,
            "used": used,
            "free": most - used,
            "fraction": used / most,
            "tokens_per": stats["tokens_per_block"],
        }
        for name, value in values.items():
            self._series[_BLOCKS, name].set(value)

    def close(self) -> None:
        """Let go of the series, then of their families.

        Triton 2.51's stub crashes at exit when it still holds a series, and a series must go before its family.
        """
        self._series.clear()
        self._families.clear()
