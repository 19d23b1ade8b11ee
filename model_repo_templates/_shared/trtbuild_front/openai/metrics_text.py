"""The front model's series as text, for people who do not scrape the server's own metrics port.

It decides how the exporter's series are written. Which there are is decided in ``metrics/exporter.py``: the same
names, labels and values as at the server's port.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from trtbuild_front.metrics.accounting import Snapshot
from trtbuild_front.metrics.exporter import Exporter, Kind


class _Sample:
    __slots__ = ("labels", "value")

    def __init__(self, labels: str) -> None:
        self.labels, self.value = labels, 0.0

    def increment(self, value: float) -> None:
        """Add to a counter."""
        self.value += value

    def set(self, value: float) -> None:
        """Set a gauge."""
        self.value = value


class MetricsText:
    """Writes the series. Thread-safe."""

    def __init__(
        self,
        snapshot: Callable[[float], Snapshot],
        beat_s: Callable[[], float],
        *,
        labels: Mapping[str, str],
        slots: int,
    ) -> None:
        """Prepare.

        Args:
            snapshot: Returns what is counted, at a moment of the monotonic clock.
            beat_s: Returns when the serving thread last began a turn.
            labels: Of every series.
            slots: Of the engine.
        """
        self._snapshot, self._beat_s = snapshot, beat_s
        self._lock = threading.Lock()
        self._families: dict[str, tuple[Kind, str, list[_Sample]]] = {}
        self._exporter = Exporter(self._make, labels, slots)

    def write(self) -> bytes:
        """Return all series as they are now."""
        with self._lock:
            self._exporter.export(self._snapshot(time.monotonic()))
            self._exporter.beat(self._beat_s())
            lines = []
            for name, (kind, help_text, samples) in self._families.items():
                lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{{{sample.labels}}} {sample.value:.12g}" for sample in samples]
        return ("\n".join(lines) + "\n").encode()

    def _make(self, kind: Kind, name: str, help_text: str, labels: Mapping[str, str]) -> _Sample:
        sample = _Sample(",".join(f'{key}="{value}"' for key, value in labels.items()))
        self._families.setdefault(name, (kind, help_text, []))[2].append(sample)
        return sample
