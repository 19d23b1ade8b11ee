"""Looks for clients that have gone, so that the engine does not compute answers that are not read.

It decides whom to ask and how often: asking costs the server as much as an answer. The serving thread ends what is
found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtbuild_front.generation import Generation
    from trtbuild_front.live import LiveRequests

_PAUSE_S = 0.4
_CHECK_PAUSE_S = 0.001
_UNCHECKED_S = 0.4
"""Age below which no client is asked."""


def is_worth_asking(generation: Generation, now_s: float) -> bool:
    """Return whether a client has waited so long that it may have gone."""
    return now_s - generation.account.arrived_s >= _UNCHECKED_S


def sweep_once(requests: LiveRequests, wake: Callable[[], None]) -> None:
    """Wait a moment, then ask for every request whether its client is still there."""
    if requests.stopping.wait(_PAUSE_S):
        return
    for generation in list(requests.by_ticket.values()):
        if requests.stopping.is_set():
            return
        if generation.is_over or not is_worth_asking(generation, requests.now_s()):
            continue
        try:
            is_gone = generation.reply.is_cancelled()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            requests.fail_soon(generation, error, "the server could not say whether the client is there")
            wake()
            continue
        if is_gone:
            requests.cancel_soon(generation)
            wake()
        time.sleep(_CHECK_PAUSE_S)  # leave the processor to the tokens
