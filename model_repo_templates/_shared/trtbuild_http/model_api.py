"""What one served model offers to the endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from trtbuild_http.exchange import Exchange

Handler = Callable[[Exchange, dict[str, Any]], None]
"""Gets the exchange and the JSON object of its body. Must not block, since it runs in the
loop's thread; may raise ApiError."""


class ModelApi(Protocol):
    """One served model. Every method but the handlers is quick, and is called from the loop's thread."""

    @property
    def name(self) -> str:
        """What clients write in ``model``."""

    @property
    def aliases(self) -> frozenset[str]:
        """Other names that mean it."""

    @property
    def routes(self) -> Mapping[str, Handler]:
        """Handlers of POST requests by path."""

    def describe(self) -> dict[str, Any]:
        """Return its entry in ``/v1/models``."""

    def metrics(self) -> bytes:
        """Return its series in Prometheus' text format."""

    def unready_reason(self) -> str:
        """Return why it cannot answer now, such as an engine that restarts; empty when it is ready."""

    def stuck_reason(self) -> str:
        """Return why its process must be started again, such as a serving thread that stands; empty when it works."""
