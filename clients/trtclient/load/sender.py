"""Sends what is due when it is due, and writes down what happens. It decides nothing about the schedule.

Open loop: the next request never waits for an answer, and never for one that is late: its latency counts from its due
time, whatever held it up (the server, the network, a limit on open requests or this very process). So a stall shows in
every request that was due while it lasted; none can be left out.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtclient.errors import RequestFailure
from trtclient.generation import Api, Generation, Piece
from trtclient.load.record import Record
from trtclient.load.schedule import Arrival

PAUSE_AFTER_FAILURE_S = 0.2
"""Of a closed loop's user: a server that refuses at once must not be asked thousands of times a second."""


@dataclass(slots=True)
class RunState:
    """Everything known about a run, while it runs and after.

    Attributes:
        planned: Requests in the schedule; 0 where only their end is known (closed loop for a time).
        records: One per request, in the order they were due.
        in_flight: Requests sent and not ended.
        pieces: Pieces with text that arrived so far.
        elapsed_s: From the start to the end of the last request, when over.
        is_interrupted: Whether it was ended early.
    """

    planned: int = 0
    records: list[Record] = field(default_factory=list)
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    pieces: int = 0
    recent_ttft_s: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=200))
    elapsed_s: float = 0.0
    is_interrupted: bool = False


class Sender:
    """Runs one schedule against one model."""

    def __init__(
        self,
        api: Api,
        request_of: Callable[[Arrival], Generation],
        *,
        timeout_s: float = 600.0,
        max_in_flight: int | None = None,
    ) -> None:
        self._api = api
        self._request_of = request_of
        self._timeout_s = timeout_s
        self._gate = asyncio.Semaphore(max_in_flight) if max_in_flight else contextlib.nullcontext()
        self._loop = asyncio.get_running_loop()
        self._started_s = 0.0
        self.state = RunState()

    def now_s(self) -> float:
        """Return the seconds since the start."""
        return self._loop.time() - self._started_s

    async def run_open(self, arrivals: Sequence[Arrival]) -> RunState:
        """Send every arrival when it is due; return when all have ended."""
        self.state.planned = len(arrivals)
        self._started_s = self._loop.time()
        tasks: set[asyncio.Task[Any]] = set()
        try:
            for arrival in arrivals:
                # A late request is sent at once; the answers that came meanwhile are still read in between.
                await asyncio.sleep(max(0.0, arrival.due_s - self.now_s()))
                task = asyncio.create_task(self._one(arrival))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            await self._interrupt(tasks)
        return self._close()

    async def run_closed(self, concurrency: int, *, limit: int | None, duration_s: float | None) -> RunState:
        """Keep ``concurrency`` requests open, each user's next one due when its last one ended."""
        self.state.planned = limit or 0
        self._started_s = self._loop.time()
        numbers = itertools.count()

        async def user() -> None:
            for index in numbers:
                due_s = self.now_s()
                if (limit is not None and index >= limit) or (duration_s is not None and due_s >= duration_s):
                    return
                if not await self._one(Arrival(index=index, due_s=due_s)):
                    await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

        tasks = {asyncio.create_task(user()) for _ in range(concurrency)}
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            await self._interrupt(tasks)
        return self._close()

    def _close(self) -> RunState:
        self.state.elapsed_s = self.now_s()
        self.state.records.sort(key=lambda record: record.index)
        return self.state

    async def _interrupt(self, tasks: set[asyncio.Task[Any]]) -> None:
        """End what runs; each running request is recorded as cancelled."""
        self.state.is_interrupted = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, arrival: Arrival) -> bool:
        """Send one request and write down how it went; return whether its answer came whole."""
        state, started_s = self.state, self._started_s
        record = Record(index=arrival.index, due_s=arrival.due_s)
        state.records.append(record)
        state.in_flight += 1

        def on_piece(piece: Piece) -> None:
            record.take(piece, started_s)
            state.pieces += bool(piece.text)

        try:
            async with asyncio.timeout_at(started_s + arrival.due_s + self._timeout_s), self._gate:
                request = self._request_of(arrival)
                record.sent_s = self.now_s()
                await self._api.generate(request, on_piece)
        except RequestFailure as failure:
            record.failure, record.message = failure.kind, failure.message
        except TimeoutError:
            record.failure, record.message = "timeout", f"no whole answer {self._timeout_s:g} s after it was due"
        except asyncio.CancelledError:
            record.failure, record.message = "cancelled", "the run was ended"
            raise
        finally:
            record.end_s = self.now_s()
            record.sent_s = record.sent_s or record.end_s  # it never left the gate
            state.in_flight -= 1
            state.done += 1
            state.failed += bool(record.failure)
            if record.arrivals:
                state.recent_ttft_s.append(record.ttft_s)
        return record.is_ok
