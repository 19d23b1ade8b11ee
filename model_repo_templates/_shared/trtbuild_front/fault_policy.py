"""How exceptions are handled: whose fault they are, where they are reported, and when the process has to end.

It decides three things. An exception that concerns a request becomes an error that its client understands. One that
concerns no request is logged, and the thread goes on. When turns of a thread keep raising, the process ends: the server
and its probes notice a dead process, not a dead thread.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from trtbuild_front.faults import BusyError, EngineError, OverloadError, RequestError

_MOST_FAULTS = 10
_FAULTS_WITHIN_S = 60.0
"""So many turns of one thread may raise within so many seconds before the process ends."""
_FAULT_PAUSE_S = 0.05
_LOGGED_IN_FULL = 20
_LOGGED_EVERY = 1000
_UNAVAILABLE_PREFIX = "UNAVAILABLE: "
_STATES_OF_THE_SERVER = re.compile(
    r"has stopped accepting new|Stub process '[^']*' is not healthy|is not ready"
    r"|has no available versions|unknown model"
)
"""What the server says of a model that may be there again later, or in another replica.

Source: triton-inference-server/core (model_repository_manager.cc, scheduler), server (stream_infer_handler.cc),
python_backend (python_be.cc).
"""

_REFUSALS_OF_THE_ENGINE = re.compile(
    r"the engine refused the request: "
    r"|(input_ids|input_lengths|request_output_len|end_id|temperature|runtime_top_[kp]|min_p|min_tokens|min_length|seed"
    r"|random_seed|(repetition|presence|frequency)_penalty|(bad|stop)_words_list)(: | has )"
)
"""What the engine models of this project say of a request that can never work; a gRPC stream carries the text only."""


def end_process(reason: str) -> None:
    """End this process at once; the server's log gets the reason."""
    print(f"trtbuild front model: {reason}; the process ends", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(70)


def as_fault(error: BaseException, what: str) -> Exception:
    """Return the error that a client gets for an exception.

    A new exception: the old one refers to the frames it came through, and they to the request, so that the response
    sender would live until the garbage collector finds the cycle.
    """
    for kind in (RequestError, BusyError, OverloadError, EngineError):
        if isinstance(error, kind):
            return kind(str(error))
    return EngineError(f"{what}: {type(error).__name__}: {str(error)[:500]}")


def outcome_of(fault: Exception) -> str:
    """Return how a request that ended with ``fault`` is counted."""
    if isinstance(fault, RequestError):
        return "invalid"
    return "rejected" if isinstance(fault, BusyError) else "failed"


def engine_fault(text: str) -> Exception:
    """Return the error for what the engine model, or the server in its place, says went wrong."""
    if text.startswith(_UNAVAILABLE_PREFIX):
        return OverloadError(text.removeprefix(_UNAVAILABLE_PREFIX))
    if _REFUSALS_OF_THE_ENGINE.match(text):
        return RequestError(text)
    return OverloadError(text) if _STATES_OF_THE_SERVER.search(text) else EngineError(text)


class FaultLog:
    """Writes unexpected exceptions to the server's log; not thousands of times."""

    def __init__(self) -> None:
        self._count = 0

    def write(self, what: str, error: BaseException) -> None:
        """Log an exception with its traceback."""
        self._count += 1
        if self._count <= _LOGGED_IN_FULL or self._count % _LOGGED_EVERY == 0:
            lines = "".join(traceback.format_exception(error))
            print(f"trtbuild front model: {what} (fault {self._count}): {lines}", file=sys.stderr)  # noqa: T201

    def attempt_twice(self, step: Callable[[], None]) -> None:
        """Do a step of ending a request, twice if need be: what follows it is done whatever happens."""
        for _ in range(2):
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - a request that ends half would be counted for ever
                self.write("a request could not be ended", error)
            else:
                return


def keep_turning(
    turn: Callable[[], None],
    name: str,
    *,
    stopping: threading.Event,
    log: FaultLog,
    now_s: Callable[[], float],
    after_fault: Callable[[], None] = lambda: None,
) -> str:
    """Repeat one turn of a thread until ``stopping`` is set.

    Args:
        turn: What the thread does again and again.
        name: The thread's name, for the log.
        stopping: Ends it.
        log: Where exceptions go.
        now_s: The clock.
        after_fault: What is done after a turn that raised, before the next one.

    Returns:
        Why it gave up: turns keep raising. Empty after a normal end.
    """
    faults: deque[float] = deque(maxlen=_MOST_FAULTS)
    while not stopping.is_set():
        try:
            turn()
        except BaseException as error:  # noqa: BLE001 - a thread that ends quietly is the worst
            faults.append(now_s())
            log.write(f"thread {name!r}", error)
            if len(faults) == _MOST_FAULTS and faults[-1] - faults[0] <= _FAULTS_WITHIN_S:
                return f"thread {name!r} failed {_MOST_FAULTS} times in a minute: {error!r}"
            log.attempt_twice(after_fault)
            time.sleep(_FAULT_PAUSE_S)
    return ""
