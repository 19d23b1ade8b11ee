"""How hard and how patiently a hub is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LEAST_BYTES = 64 << 10
"""What a connection must bring in ``Tuning.slow_s``. With one byte a second a model takes centuries."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How hard to pull. The defaults suit a model of gigabytes over a wide network.

    Attributes:
        connections: Requests at a time, over all files.
        range_bytes: Larger files are fetched in ranges of this length, several at once.
        sync_bytes: Bytes of a file that a power failure may cost.
        journal_bytes: Bytes of a range that the death of the process may cost.
        read_bytes: Bytes per read of a connection.
        timeout_s: Longest silence on a connection.
        slow_s: A connection must bring :data:`LEAST_BYTES` in this time, or it is replaced by another one.
        attempts: Failures in a row, without a byte in between, before giving up.
        pause: Waits some seconds; None waits for real, and stops waiting when the transfer is called off.
    """

    connections: int = 8
    range_bytes: int = 64 << 20
    sync_bytes: int = 64 << 20
    journal_bytes: int = 1 << 18
    read_bytes: int = 1 << 19
    timeout_s: float = 30.0
    slow_s: float = 60.0
    attempts: int = 8
    pause: Callable[[float], None] | None = None
