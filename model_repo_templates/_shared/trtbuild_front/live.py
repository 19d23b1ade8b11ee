"""The requests that have arrived and are not over: where they are, what is counted of them, how other threads end them.

It decides what one request holds (a place in line, a share of the metrics, a slot) and gives it all back at its end.
It does not answer clients: that is the serving thread's work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from trtbuild_front.admission import Admission
from trtbuild_front.fault_policy import FaultLog, as_fault
from trtbuild_front.faults import RequestError
from trtbuild_front.generation import Generation
from trtbuild_front.metrics.accounting import Accounting, EngineTimes

SHUTTING_DOWN = "the server is shutting down; send the request again"
Order = tuple[Literal["cancel", "fail"], Generation]


class LiveRequests:
    """What the threads of a service share.

    Attributes:
        accounting: The metrics.
        admission: The line and the slots.
        by_ticket: Requests that have arrived and have not been released.
        orders: What other threads want the serving thread to end.
        stopping: Set when the service ends.
        drain_until_s: While the server is ending: when running requests have to be over; None otherwise.
        log: Where unexpected exceptions go.
        now_s: The clock.
    """

    def __init__(self, slots: int, max_waiting: int, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.accounting = Accounting(now_s())
        self.admission: Admission[Generation] = Admission(slots, max_waiting)
        self.by_ticket: dict[int, Generation] = {}
        self.orders: deque[Order] = deque()
        self.stopping = threading.Event()
        self.drain_until_s: float | None = None
        self.log = FaultLog()

    def fail_soon(self, generation: Generation, error: BaseException, what: str) -> None:
        """Let the serving thread end a request that something unexpected happened to. Thread-safe."""
        generation.fault = as_fault(error, what)
        if not isinstance(error, RequestError):
            self.log.write(what, error)
        self.orders.append(("fail", generation))

    def cancel_soon(self, generation: Generation) -> None:
        """Let the serving thread end a request whose client has gone. Thread-safe."""
        self.orders.append(("cancel", generation))

    def release(self, generation: Generation, outcome: str, times: EngineTimes | None) -> None:
        """Count a request's end and give back its place and its slot. A second call changes nothing."""
        self.log.attempt_twice(lambda: self.accounting.finish(generation.account, self.now_s(), outcome, times))
        self.log.attempt_twice(lambda: self.admission.leave(generation.ticket))
        self.by_ticket.pop(generation.ticket, None)
        # The call refers to the generation: left to the garbage collector, the cycle would keep the response sender
        # until the interpreter ends, when Triton's memory is gone, and destroying it crashes there (Triton 2.51).
        generation.call = None
