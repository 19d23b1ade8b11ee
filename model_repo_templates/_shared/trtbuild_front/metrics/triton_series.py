"""The exporter's series in the server's own metrics; for model processes only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from trtbuild_front.metrics.exporter import Kind, Series


class TritonSeries:
    """Makes metric series in the server; keeps their families alive."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def make(self, kind: Kind, name: str, help_text: str, labels: Mapping[str, str]) -> Series:
        """Return the series with these labels."""
        if name not in self._families:
            kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
            self._families[name] = pb_utils.MetricFamily(name=name, description=help_text, kind=kinds[kind])
        metric: Series = self._families[name].Metric(labels=dict(labels))
        return metric

    def close(self) -> None:
        """Let go of the families."""
        self._families.clear()
