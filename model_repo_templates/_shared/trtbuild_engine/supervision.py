"""The engine process: started, listened to, written to, started again when it ends, ended with the model.

It decides when the process runs and with which options. It does not know requests: what the process says goes to
:class:`EngineEvents`, and what it is to do comes through a :class:`Link`.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trtbuild_engine.wire import Reader, encode

_BACKOFF_S = (0.5, 30.0)
"""First and longest pause between attempts to start the engine process."""

_GRACE_S = 10.0
"""How long the engine process may take to leave before it is killed."""


class Link:
    """The way to one engine process. What is sent to one that has ended is dropped: it must not reach the next."""

    def __init__(self, connection: socket.socket, outbox: queue.SimpleQueue[_Outgoing | None]) -> None:
        self._connection, self._outbox = connection, outbox

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message; returns at once."""
        self._outbox.put((self._connection, message))


_Outgoing = tuple[socket.socket, dict[str, Any]]


class EngineEvents(Protocol):
    """What the owner learns, in the supervising thread."""

    def on_ready(self, pid: int, ready: dict[str, Any], link: Link) -> None:
        """A process has loaded its engine and takes requests through ``link``."""

    def on_step(self, message: dict[str, Any]) -> None:
        """The process says what happened in one step."""

    def on_lost(self) -> None:
        """There is no process at this moment. It may take seconds to end, and longer to come back."""

    def on_ended(self, reason: str, pause_s: float) -> None:
        """The process has ended; another is started in ``pause_s``."""


def engine_options(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the model's parameters as the options of its engine process."""
    options: dict[str, Any] = {
        "max_batch_size": int(parameters["max_batch_size"]),
        "enable_kv_cache_reuse": parameters.get("enable_kv_cache_reuse", "true") == "true",
        "enable_chunked_context": parameters.get("enable_chunked_context", "true") == "true",
        "batch_scheduler_policy": parameters.get("batch_scheduler_policy", "guaranteed_no_evict"),
    }
    if parameters.get("samplers"):  # what the LLM API of each version applies
        options["samplers"] = json.loads(parameters["samplers"])
    if parameters.get("inference_num_threads"):
        options["inference_num_threads"] = int(parameters["inference_num_threads"])
    if parameters.get("kv_cache_free_gpu_mem_fraction"):  # engines on GPUs
        options["kv_cache_free_gpu_mem_fraction"] = float(parameters["kv_cache_free_gpu_mem_fraction"])
    return options


class EngineProcess:
    """Keeps one engine process running. :meth:`supervise` and :meth:`write` each take a thread of their own.

    Attributes:
        failure: Why the first start failed; it is not tried again. Empty while all is well.
    """

    def __init__(self, worker: Path, parameters: Mapping[str, str], events: EngineEvents) -> None:
        self._worker, self._parameters, self._events = worker, parameters, events
        self._is_stopping = threading.Event()
        self._has_started = threading.Event()
        self._outbox: queue.SimpleQueue[_Outgoing | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self.failure = ""

    def wait_started(self) -> None:
        """Wait until the first process is ready or has failed."""
        self._has_started.wait()

    def supervise(self) -> None:
        """Keep a process running and pass on what it says, until :meth:`end`."""
        pause_s, longest_s = _BACKOFF_S
        while not self._is_stopping.is_set():
            started = time.monotonic()
            reason = self._run()
            if self._is_stopping.is_set():
                break
            if not self._has_started.is_set():
                self.failure = reason
                self._has_started.set()
                break
            if time.monotonic() - started > longest_s:  # it ran well for a while: whatever it was, it is new
                pause_s = _BACKOFF_S[0]
            self._events.on_ended(reason, pause_s)
            self._is_stopping.wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _run(self) -> str:
        """Start a process and read from it until it ends; return why it ended."""
        python = os.environ.get("TRTBUILD_PYTHON") or shutil.which("python3") or "python3"
        ours, theirs = socket.socketpair()
        with ours:
            argv = [python, str(self._worker), self._parameters["engine_dir"]]
            argv += ["--socket", str(theirs.fileno()), "--parent", str(os.getpid())]
            argv += ["--options", json.dumps(engine_options(self._parameters))]
            try:
                with theirs:
                    # Its own session: Ctrl-C on a terminal reaches the server alone, which then ends us in order.
                    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], start_new_session=True)
            except OSError as error:
                self._events.on_lost()
                return f"the engine process cannot be started with {python}: {error}"
            self._process = process
            reader, fatal = Reader(ours), ""
            while (messages := reader.read()) is not None:
                for message in messages:
                    fatal = message.get("fatal", fatal)
                    if "ready" in message:
                        self._events.on_ready(process.pid, message["ready"], Link(ours, self._outbox))
                        self._has_started.set()
                    else:
                        self._events.on_step(message)
            self._events.on_lost()
            return fatal or f"the engine process ({python}) {_how_it_ended(process)}"

    def write(self) -> None:
        """Write queued messages to the process: it reads only between steps, so this may block."""
        while (entry := self._outbox.get()) is not None:
            connection, message = entry
            try:
                connection.sendall(encode(message))
            except OSError:
                continue  # that engine is gone; the reading side answers its requests

    def end(self) -> None:
        """End the process, by SIGTERM and then SIGKILL, and let both threads return."""
        self._is_stopping.set()
        self._outbox.put(None)
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code >= 0:
        return f"ended with exit code {code} (its last words are in the server's log)"
    return f"was ended by signal {-code} ({signal.Signals(-code).name})"
