"""The Triton model of the cpu and llmapi backends: the tensors of TensorRT-LLM's C++ backend, an engine process behind.

It decides which requests are taken, which tokens leave together and what clients get when the engine process ends. What
is computed together, and when a request ends, is decided by ``engine_worker.py`` in a process of its own.

``execute`` only queues. Three threads do the rest: one starts the engine process and reads from it, one writes to
it, one sends responses. Tokens that arrive while a response is being sent wait and leave together in the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
import trtbuild_server

from trtbuild_engine import gauges
from trtbuild_engine.requests import SECRET_VARIABLE, Inputs, InvalidRequestError, is_from_front, read_options
from trtbuild_engine.responses import COUNTS, FINAL, Pending, send_error, send_part
from trtbuild_engine.supervision import EngineProcess, Link

_JOIN_S = 10.0


class TritonPythonModel:
    """What Triton calls, and what the engine process tells (:class:`trtbuild_engine.supervision.EngineEvents`)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine process and wait until it is ready, or say why it cannot be."""
        trtbuild_server.end_with_server()
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._labels = {"model": args["model_name"], "version": args["model_version"]}
        self._max_queue_size = int(parameters.get("max_queue_size", "0"))
        self._excludes_input = parameters.get("exclude_input_in_output", "true") == "true"
        self._cancel_period_s = int(parameters.get("cancellation_check_period_ms", "100")) / 1000
        self._log = pb_utils.Logger
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._pending: dict[int, Pending] = {}
        self._fresh: dict[int, Pending] = {}
        self._next_key = 0
        self._stats = gauges.before_start()
        self._slots = 0
        self._link: Link | None = None
        self._is_stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        # A front model authenticates with this; without it, or where the repository says so, any client may call.
        is_open = parameters.get("allow_direct_requests") == "true"
        self._secret = "" if is_open else os.environ.get(SECRET_VARIABLE, "")
        worker = Path(args["model_repository"], args["model_version"], "engine_worker.py")
        self._engine = EngineProcess(worker, parameters, self)
        self._gauges: gauges.Gauges | None = None
        # Ranks above 0 of an MPI job only keep their place: one process computes everything on a CPU.
        self._is_idle_rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")) > 0
        if self._is_idle_rank:
            return
        self._gauges = gauges.Gauges(self._labels)
        self._start("supervise", self._engine.supervise)
        self._start("write", self._engine.write)
        self._engine.wait_started()
        if self._engine.failure:
            self.finalize()
            raise pb_utils.TritonModelException(self._engine.failure)
        self._gauges.set(self._stats)  # here, so that a model that is ready never shows an engine that is not
        self._start("respond", self._respond)

    def _start(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run_or_end, args=(run, name), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run_or_end(self, run: Callable[[], None], name: str) -> None:
        """Run a thread; if it fails, answer all requests and end the process: probes do not see a dead thread."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it would go unnoticed
            if self._is_stopping.is_set():
                return
            traceback.print_exc()
            print(f"tensorrt_llm: thread {name!r} failed: {error!r}; the process ends", file=sys.stderr, flush=True)  # noqa: T201
            with contextlib.suppress(Exception):
                self._is_stopping.set()
                self._fail_all(f"the engine model failed: {error!r}")
            self._engine.kill()
            os._exit(70)

    def execute(self, requests: list[Any]) -> None:
        """Queue requests; responses follow through their senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except InvalidRequestError as error:
                send_error(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            except Exception as error:  # noqa: BLE001 - one request must not take the others of its batch with it
                send_error(sender, f"the request could not be taken: {error!r}", pb_utils.TritonError.INTERNAL)

    def finalize(self) -> None:
        """End the engine process and the threads; answer what is still open."""
        self._is_stopping.set()
        with self._work:
            self._work.notify_all()
        self._engine.end()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._fail_all("the server is shutting down")
        if self._gauges is not None:
            self._gauges.close()

    # -- requests -----------------------------------------------------------------------------------------------

    def _take(self, request: Any, sender: Any) -> None:
        inputs = Inputs(request)
        if self._is_idle_rank:
            raise InvalidRequestError("this rank serves nothing; send requests to rank 0")
        if self._secret and not is_from_front(request, self._secret):
            raise InvalidRequestError(
                f"{self._labels['model']} takes requests from its front model only: send this one to the front model, "
                "or serve with --layout full, which opens the engine model to clients"
            )
        if inputs.flag("stop"):
            self._stop(request.request_id())
            sender.send(flags=FINAL)
            return
        options = read_options(inputs)
        is_streaming = inputs.flag("streaming")
        is_echoed = not is_streaming and not inputs.flag("exclude_input_in_output", self._excludes_input)
        with self._work:
            refusal = self._refusal()
            if not refusal:
                key, self._next_key = self._next_key, self._next_key + 1
                self._pending[key] = Pending(
                    key=key,
                    request_id=request.request_id(),
                    sender=sender,
                    options={"key": key, **options},
                    outputs=frozenset(request.requested_output_names()),
                    is_streaming=is_streaming,
                    echo=options["input_ids"] if is_echoed else [],
                    wants_times=inputs.flag("return_perf_metrics"),
                    counts=frozenset(name for name in COUNTS if inputs.flag(f"return_{name}")),
                    arrival_ns=time.monotonic_ns(),
                )
                self._send({"submit": self._pending[key].options})
        if refusal:
            send_error(sender, refusal, pb_utils.TritonError.UNAVAILABLE)

    def _refusal(self) -> str:
        """Return why no request can be taken now, or an empty text."""
        if self._engine.failure:
            return self._engine.failure
        if self._max_queue_size and len(self._pending) >= self._slots + self._max_queue_size:
            return (
                f"Exceeds maximum queue size: {self._max_queue_size} requests wait already "
                f"while {self._slots} are computed"
            )
        return ""

    def _stop(self, request_id: str) -> None:
        if not request_id:
            raise InvalidRequestError("stop: needs the request id of the request to stop")
        with self._lock:
            for pending in self._pending.values():
                if pending.request_id == request_id:
                    pending.is_unwanted = True
                    self._send({"cancel": pending.key})

    def _send(self, message: dict[str, Any]) -> None:
        """Send to the engine, with the lock held. Without an engine, what waits is submitted to the next."""
        if self._link is not None:
            self._link.send(message)

    # -- what the engine process says, in its thread ------------------------------------------------------------

    def on_ready(self, pid: int, ready: dict[str, Any], link: Link) -> None:
        """An engine process takes requests: submit what waits."""
        self._log.log_info(f"engine process {pid} is ready: {ready['slots']} slots")
        with self._work:
            self._slots = int(ready["slots"])
            self._stats = gauges.when_ready(ready["stats"])
            self._link = link
            for pending in list(self._pending.values()):
                if pending.is_unwanted:  # while there was no engine to send the cancellation to
                    self._end(pending, {"end": "cancelled", "times": [0, 0, 0]})
                else:
                    self._send({"submit": pending.options})
            self._work.notify_all()

    def on_lost(self) -> None:
        """Show at once that there is no engine."""
        with self._work:
            self._link = None
            self._stats = gauges.when_lost(self._stats)
            self._work.notify_all()

    def on_ended(self, reason: str, pause_s: float) -> None:
        """Answer what the process has taken with it."""
        self._log.log_error(f"{reason}; {len(self._pending)} requests are lost; starting it again in {pause_s:g} s")
        self._fail_all(f"{reason}; it is being started again, please repeat the request")

    def on_step(self, message: dict[str, Any]) -> None:
        """Take in tokens, ends and gauges."""
        with self._work:
            self._stats = {**self._stats, **message.get("stats", {})}
            for event in message.get("step", ()):
                pending = self._pending.get(event["key"])
                if pending is None:
                    continue
                pending.tokens += event.get("tokens", ())
                pending.log_probs += event.get("log_probs", ())
                if "end" in event or "error" in event:
                    self._end(pending, event)
                elif pending.is_streaming:
                    self._fresh[pending.key] = pending
            self._work.notify_all()

    def _end(self, pending: Pending, event: dict[str, Any]) -> None:
        """Let a request's last response be sent, with the lock held."""
        pending.end = event
        self._pending.pop(pending.key, None)
        self._fresh[pending.key] = pending

    def _fail_all(self, reason: str) -> None:
        with self._work:
            for pending in list(self._pending.values()):
                self._end(pending, {"error": reason, "retryable": True})
            self._work.notify_all()
        if self._is_stopping.is_set():
            self._send_fresh()

    # -- responses ----------------------------------------------------------------------------------------------

    def _respond(self) -> None:
        """Send what has arrived, look for cancelled requests and set the gauges, until the model is unloaded."""
        shown: gauges.Stats = {}
        look_at_s = 0.0
        while not self._is_stopping.is_set():
            with self._work:
                if not self._fresh:
                    is_due = bool(self._pending) or self._stats != shown
                    self._work.wait(max(0.0, look_at_s - time.monotonic()) if is_due else None)
                stats = self._stats
            self._send_fresh()
            began = time.monotonic()
            if began < look_at_s:
                continue
            self._cancel_abandoned()
            if stats != shown and self._gauges is not None:
                self._gauges.set(stats)
                shown = stats
            # Asking costs a round trip to the server per request; with very many it may take a tenth of the time.
            now = time.monotonic()
            look_at_s = now + max(self._cancel_period_s, 9 * (now - began))

    def _send_fresh(self) -> None:
        with self._lock:
            fresh, self._fresh = list(self._fresh.values()), {}
            parts = []
            for pending in fresh:
                # The end belongs to these tokens: more tokens and an end may arrive while the part is being sent.
                parts.append((pending, pending.tokens, pending.log_probs, pending.end))
                pending.tokens, pending.log_probs = [], []
        for part in parts:
            send_part(*part)

    def _cancel_abandoned(self) -> None:
        """End requests whose client has gone, so that their slots are free for others."""
        with self._lock:
            everyone = [pending for pending in self._pending.values() if not pending.is_unwanted]
        for pending in everyone:
            if pending.sender.is_cancelled():
                pending.is_unwanted = True
                with self._lock:
                    self._send({"cancel": pending.key})
