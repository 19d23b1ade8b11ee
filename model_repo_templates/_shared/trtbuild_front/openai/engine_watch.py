"""Whether the engine behind a front model can be used now, as the server says; asked only while somebody wants to know.

It decides what counts as ready: the server lists the engine model as ready, and the engine's process is up. A server
takes no connections before all its models are loaded, so a front model that is asked earlier is not ready either.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable

Address = tuple[str, int]

_PERIOD_S = 1.0
_INTEREST_S = 60.0
"""How long after a question the state is kept up to date."""
_TIMEOUT_S = 2.0
_MOST_BYTES = 8 << 20
_READY = frozenset({200, 401, 403})
"""Ready; or the operator keeps everybody from asking (``--http-restricted-api``), so nothing is known against it."""


def _get(address: Address, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES).decode(errors="replace")
    finally:
        connection.close()


def find_fault(engine: str, server: Address | None, metrics: Address | None) -> str:
    """Ask the server; return why the engine cannot be used, or "".

    Args:
        engine: Name of the engine model.
        server: Where the server listens for HTTP; None where it does not.
        metrics: Where it offers metrics; None where it does not.
    """
    try:
        if server is not None and _get(server, f"/v2/models/{engine}/ready")[0] not in _READY:
            return f"the engine model {engine!r} is not ready"
    except (OSError, http.client.HTTPException):
        return "the server does not take requests yet, or no more"
    try:
        text = _get(metrics, "/metrics")[1] if metrics is not None else ""
    except (OSError, http.client.HTTPException):
        return ""  # nothing is known against it
    is_down = re.search(
        rf'^trtbuild_engine_up\{{[^}}]*model="{re.escape(engine)}"[^}}]*\}} 0(\.0*)?$', text, re.MULTILINE
    )
    return "the engine process has ended and is being restarted" if is_down else ""


class EngineWatch:
    """Knows why the engine cannot be used. Thread-safe."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._fault = "the server is loading its models"
        self._asked_s = time.monotonic()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)

    def start(self) -> None:
        """Start to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(2 * _TIMEOUT_S)

    def fault(self) -> str:
        """Return why the engine cannot be used, as of about a second ago; "" if it can."""
        self._asked_s = time.monotonic()
        self._wake.set()
        return self._fault

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._fault = self._ask()
            is_of_interest = self._fault or time.monotonic() - self._asked_s < _INTEREST_S
            if is_of_interest:
                self._stopping.wait(_PERIOD_S)
            else:
                self._wake.clear()
                self._wake.wait()
