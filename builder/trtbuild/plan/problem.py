"""Why something cannot be built, and the nearest thing that can. Pure value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why something cannot be.

    Attributes:
        reason: What is asked, and the fact it collides with.
        remedy: The nearest thing that works, as it is typed.
        is_host: Another machine or image could do it; otherwise none can.
    """

    reason: str
    remedy: str
    is_host: bool = False
