"""The life of every request: admitted, given to the engine, answered, ended, accounted for.

It decides which thread does what. It does not know Triton: requests come as arrays, answers leave through a
:class:`Reply`.

Threads: the caller's (:mod:`~trtbuild_front.intake`: checks and queues), a few that tokenize
(:mod:`~trtbuild_front.lanes`), one that serves (:mod:`~trtbuild_front.serving`: all engine traffic and all answers),
one that asks whether clients are still there (:mod:`~trtbuild_front.sweep`). What they share is in
:mod:`~trtbuild_front.live`; what becomes of exceptions is decided in :mod:`~trtbuild_front.fault_policy`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from trtbuild_front.calls import EngineCalls
from trtbuild_front.engine import EngineContract
from trtbuild_front.fault_policy import end_process, keep_turning
from trtbuild_front.generation import Generation, Reply
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.intake import Intake
from trtbuild_front.live import LiveRequests
from trtbuild_front.request import Dialect
from trtbuild_front.serving import ServingLoop
from trtbuild_front.sweep import sweep_once
from trtbuild_front.text.model import TextModel
from trtbuild_front.transport.connection import Connection

_JOIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a front model works.

    Attributes:
        slots: Requests the engine computes at once.
        max_waiting: Requests that may wait beside them; 0 for no limit.
        default_max_tokens: Used when a request with ``text_input`` does not say.
        dialect: How requests are to be understood.
    """

    slots: int
    max_waiting: int
    default_max_tokens: int
    dialect: Dialect = field(default_factory=Dialect)


class Service:
    """Serves the requests of one front model. Start with :meth:`start`, end with :meth:`stop`."""

    def __init__(
        self,
        *,
        text: TextModel,
        contract: EngineContract,
        settings: Settings,
        connect: Callable[[], Connection],
        now_s: Callable[[], float] = time.monotonic,
        on_fatal: Callable[[str], None] = end_process,
    ) -> None:
        self._on_fatal, self._fatal_reason = on_fatal, ""
        self._requests = LiveRequests(settings.slots, settings.max_waiting, now_s)
        self.accounting = self._requests.accounting
        self._calls = EngineCalls(contract, connect, now_s)
        self._loop = ServingLoop(self._requests, self._calls)
        self._intake = Intake(
            text=text,
            contract=contract,
            dialect=settings.dialect,
            max_waiting=settings.max_waiting,
            default_max_tokens=settings.default_max_tokens,
            requests=self._requests,
            wake=self._calls.wake,
        )
        self._threads = [
            threading.Thread(target=self._serve, name="serve", daemon=True),
            threading.Thread(target=self._sweep, name="sweep", daemon=True),
        ]

    @property
    def beat_s(self) -> float:
        """When the serving thread last began a turn, in seconds since the epoch."""
        return self._loop.beat_s

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every request with a retryable error and join the threads."""
        self._requests.stopping.set()
        self._calls.wake()
        self._intake.close()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def drain(self, until_s: float) -> None:
        """The server is ending: refuse what is new or waits, let what runs go on until ``until_s`` of the clock."""
        self._requests.drain_until_s = until_s
        self._calls.wake()

    def resume(self) -> None:
        """The server is not ending after all."""
        self._requests.drain_until_s = None

    def submit(self, values: Mapping[str, npt.NDArray[Any]], reply: Reply, parameters: str = "") -> None:
        """Take a request; every answer, errors too, goes to ``reply``. Returns at once."""
        self._intake.submit(values, reply, parameters)

    def submit_request(self, request: GenerationRequest, reply: Reply) -> Generation | None:
        """Take a request that was read from another protocol than Triton's: the same line, the same metrics.

        Returns:
            What :meth:`cancel` takes, None when the request was refused.
        """
        return self._intake.take(lambda: request, reply)

    def refuse_request(self, error: Exception, reply: Reply) -> None:
        """Refuse a request of another protocol that could not be read; it is counted like any invalid one."""

        def read() -> GenerationRequest:
            raise error

        self._intake.take(read, reply)

    def cancel(self, generation: Generation) -> None:
        """End a request that nobody waits for any more. From any thread."""
        self._requests.cancel_soon(generation)
        self._calls.wake()

    def tokenize(self, request: GenerationRequest, done: Callable[[list[int] | Exception], None]) -> None:
        """Hand the tokens of a request's prompt to ``done``, from another thread; nothing is generated or counted.

        Raises:
            RequestError: It is too long.
            BusyError: Too many conversations wait.
        """
        self._intake.tokenize(request, done)

    def run_in_lane(self, size_bytes: int, task: Callable[[], None]) -> None:
        """Run a task that handles so many bytes in a thread of the lanes. It must not raise."""
        self._intake.run_in_lane(size_bytes, task)

    @property
    def drain_until_s(self) -> float | None:
        """When running requests have to be over, by the service's clock, while the server is ending."""
        return self._requests.drain_until_s

    @property
    def is_ending(self) -> bool:
        """Whether new requests are refused because the server or the model is ending."""
        return self._requests.stopping.is_set() or self._requests.drain_until_s is not None

    def _serve(self) -> None:
        self._keep_turning(self._loop.turn, "serve", after_fault=self._calls.lose_connection)
        self._loop.finish()
        if self._fatal_reason:
            self._on_fatal(self._fatal_reason)

    def _sweep(self) -> None:
        self._keep_turning(lambda: sweep_once(self._requests, self._calls.wake), "sweep")

    def _keep_turning(
        self, turn: Callable[[], None], name: str, *, after_fault: Callable[[], None] = lambda: None
    ) -> None:
        requests = self._requests
        reason = keep_turning(
            turn, name, stopping=requests.stopping, log=requests.log, now_s=requests.now_s, after_fault=after_fault
        )
        if reason:  # in any thread: the serving thread answers all requests, then the process ends
            self._fatal_reason = reason
            requests.stopping.set()
            self._calls.wake()
