"""Triton model of the cpu and llmapi backends: the tensors of TensorRT-LLM's C++ backend, an engine process behind it.

It decides how tensors become requests and how tokens become responses. What is computed together, and when a request
ends, is decided by ``engine_worker.py`` in a process of its own.

``execute`` only queues. Three threads do the rest: one starts the engine process and reads from it, one writes to
it, one sends responses. Tokens that arrive while a response is being sent wait and leave together in the next one.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import server_process
import triton_python_backend_utils as pb_utils
from engine_wire import Reader, encode

_BACKOFF_S = (0.5, 30.0)
"""First and longest pause between attempts to start the engine process."""

_GRACE_S = 10.0
"""How long the engine process may take to leave before it is killed."""

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_GAUGES = (
    ("nv_trt_llm_request_metrics", "request_type", ("active", "waiting", "scheduled", "max")),
    ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", ("max", "used", "free", "fraction", "tokens_per")),
)
_STATE = {
    "trtbuild_engine_up": "Whether the engine process runs and has loaded its engine: 1 or 0.",
    "trtbuild_engine_failed_starts": "Starts of the engine process in a row that ended before it was ready.",
}
_MOMENTARY = frozenset({"trtbuild_engine_up", "active", "waiting", "scheduled", "blocks_used"})
"""What is 0 without an engine process."""

_SECRET_VARIABLE = "TRTBUILD_ENGINE_SECRET"  # noqa: S105 - the variable's name
_SECRET_PARAMETER = "trtbuild_engine_secret"  # noqa: S105 - the parameter's name
_COUNTS = ("num_input_tokens", "num_output_tokens")
_ZERO = np.zeros((1, 1), np.int32)
_TIMES = ("first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


class InvalidRequestError(Exception):
    """A request that can never work, in words for its sender."""


@dataclass
class Pending:
    """A request that has not been answered to its end.

    Attributes:
        sender: Where responses go.
        outputs: Names of the tensors the client wants.
        echo: Tokens that its only response begins with: the prompt, unless ``exclude_input_in_output``.
        tokens: Arrived and not sent yet; with ``streaming`` off, all of them.
        counts: Which of the outputs ``num_input_tokens`` and ``num_output_tokens`` were asked for.
        sent: Number of tokens generated and sent.
        is_unwanted: Its client has gone or stopped it, and the engine was told.
        end: The engine's last event, once it is there.
    """

    key: int
    request_id: str
    sender: Any
    options: dict[str, Any]
    outputs: frozenset[str]
    is_streaming: bool
    wants_times: bool
    counts: frozenset[str]
    arrival_ns: int
    echo: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    cumulated: float = 0.0
    sent: int = 0
    is_unwanted: bool = False
    end: dict[str, Any] | None = None


class _Inputs:
    """The tensors of one request, checked."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        return None if tensor is None else tensor.as_numpy()

    def number(self, name: str, default: Any, low: float, high: float, *, is_raised: bool = False) -> Any:
        """Return a scalar as a Python number, or ``default``; with ``is_raised``, ``low`` for anything below.

        Raises:
            InvalidRequestError: It is not one number between ``low`` and ``high``.
        """
        values = self.array(name)
        if values is None or values.size == 0:
            return default
        value = values.reshape(-1)[0].item()
        if values.size != 1:
            raise InvalidRequestError(f"{name}: expected one value, got {values.size}")
        value = low if is_raised and value < low else value
        if not low <= value <= high:  # also refuses NaN
            raise InvalidRequestError(f"{name}: expected {_plain(low)} to {_plain(high)}, got {_plain(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        values = self.array(name)
        return default if values is None or not values.size else bool(values.reshape(-1)[0])

    def spelling(self, name: str, older: str) -> str:
        """Return under which of its two names an input was sent.

        Raises:
            InvalidRequestError: Under both.
        """
        if self.array(older) is None:
            return name
        if self.array(name) is not None:
            raise InvalidRequestError(f"{name} and {older} are two spellings of one input; send one of them")
        return older

    def words(self, name: str) -> list[list[int]]:
        """Return a word list of TensorRT-LLM's form: ``int32[2, n]``, ids one after the other, then where each ends.

        Source: TensorRT-LLM, ``to_word_list_format``; unused places hold -1.
        """
        values = self.array(name)
        if values is None or values.size == 0:
            return []
        if values.ndim < 2 or values.shape[-2] != 2 or values.size != 2 * values.shape[-1]:
            raise InvalidRequestError(f"{name}: expected int32[2, n], got shape {list(values.shape)}")
        ids, ends = (row.tolist() for row in values.reshape(2, -1))
        words, start = [], 0
        for end in ends:
            if end < 0:
                break
            if not start <= end <= len(ids):
                raise InvalidRequestError(f"{name}: offsets must rise up to {len(ids)}, got {ends}")
            if end > start:
                words.append(ids[start:end])
            start = end
        return words


def _is_from_front(request: Any, secret: str) -> bool:
    """Return whether a request carries the secret that this server's model processes share."""
    try:
        shown = json.loads(request.parameters() or "{}").get(_SECRET_PARAMETER)
    except ValueError:  # a client may send any text as a parameter, also what is no Unicode
        return False
    return isinstance(shown, str) and hmac.compare_digest(shown.encode(errors="replace"), secret.encode())


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def read_options(inputs: _Inputs) -> dict[str, Any]:
    """Return a request's options as the engine process takes them.

    Raises:
        InvalidRequestError: A tensor is missing or out of range.
    """
    ids = inputs.array("input_ids")
    if ids is None:
        raise InvalidRequestError("input_ids: missing")
    if ids.ndim > 1 and ids.size != ids.shape[-1]:
        raise InvalidRequestError(f"input_ids: expected one prompt per request, got shape {list(ids.shape)}")
    flat = ids.reshape(-1).tolist()
    used = inputs.number("input_lengths", len(flat), 0, len(flat))
    new = inputs.number("request_output_len", None, 1, 2**31 - 1)
    if new is None:
        raise InvalidRequestError("request_output_len: missing")
    for name in ("beam_width", "num_return_sequences"):
        if inputs.number(name, 1, 0, 2**31 - 1) > 1:
            raise InvalidRequestError(f"{name}: this engine has no beam search, expected 1")
    for name in ("return_context_logits", "return_generation_logits"):
        if inputs.flag(name):
            raise InvalidRequestError(f"{name}: this engine returns no logits; leave {name} out")
    min_tokens = inputs.number(inputs.spelling("min_tokens", "min_length"), 0, 0, 2**31 - 1)
    options = {
        "input_ids": flat[:used],
        "request_output_len": new,
        "repetition_penalty": inputs.number("repetition_penalty", 1.0, 1e-6, 1e6),
        "presence_penalty": inputs.number("presence_penalty", 0.0, -2.0, 2.0),
        "frequency_penalty": inputs.number("frequency_penalty", 0.0, -2.0, 2.0),
        "log_probs": inputs.flag("return_log_probs"),
        "stop_words": inputs.words("stop_words_list"),
        "min_tokens": min(min_tokens, new),
    }
    end_id = inputs.number("end_id", -1, -(2**31), 2**31 - 1)
    if end_id >= 0:
        options["end_id"] = end_id
    options["bad_words"] = inputs.words("bad_words_list")
    _check_bad_words(options)
    return {**options, **_sampling(inputs)}


def _sampling(inputs: _Inputs) -> dict[str, Any]:
    """Return how tokens are chosen, with TensorRT-LLM's meaning of absent and zero values.

    Nothing, ``top_k`` 1, or ``temperature`` 0 is greedy; ``top_k`` 0 is no limit; ``top_p`` 0 or less is no limit
    beside a ``top_k``. Without a seed each request draws its own.
    """
    temperature = inputs.number("temperature", 1.0, 0.0, 1e6)
    top_k = inputs.number("runtime_top_k", 0, 0, 2**31 - 1)
    top_p = inputs.number("runtime_top_p", 0.0, 0.0, 1.0, is_raised=True)
    seed = inputs.number(inputs.spelling("seed", "random_seed"), None, 0, 2**64 - 1)
    if top_k == 1 or temperature == 0.0 or (top_k == 0 and top_p == 0.0):
        return {"sample": False}
    return {
        "sample": True,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p or 1.0,
        "seed": secrets.randbits(63) if seed is None else seed,
        "is_seeded": seed is not None,
    }


def _check_bad_words(options: dict[str, Any]) -> None:
    """Refuse what would have to count tokens across the restarts that some bad words need (see ``engine_worker``)."""
    words = options["bad_words"]
    needs_restarts = any(len(word) > 1 for word in words) or bool(words and options["min_tokens"])
    if needs_restarts and (options["presence_penalty"] or options["frequency_penalty"]):
        raise InvalidRequestError(
            "bad_words_list: with sequences of tokens or min_tokens, this engine takes no presence_penalty and no "
            "frequency_penalty"
        )


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine process and wait until it is ready, or say why it cannot be."""
        server_process.end_with_server()
        config = json.loads(args["model_config"])
        self._parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._labels = {"model": args["model_name"], "version": args["model_version"]}
        self._directory = Path(args["model_repository"], args["model_version"])
        self._max_queue_size = int(self._parameters.get("max_queue_size", "0"))
        self._excludes_input = self._parameters.get("exclude_input_in_output", "true") == "true"
        self._cancel_period_s = int(self._parameters.get("cancellation_check_period_ms", "100")) / 1000
        self._log = pb_utils.Logger
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._pending: dict[int, Pending] = {}
        self._fresh: dict[int, Pending] = {}
        self._next_key = 0
        self._stats: dict[str, float] = dict.fromkeys(_STATE, 0.0)
        self._slots = 0
        self._failure = ""
        self._is_stopping = threading.Event()
        self._first_start = threading.Event()
        # Each message knows its engine: what was meant for a dead one must not reach the next.
        self._outbox: queue.SimpleQueue[tuple[socket.socket, dict[str, Any]] | None] = queue.SimpleQueue()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._gauges: dict[tuple[str, str], Any] = {}
        # Ranks above 0 of an MPI job only keep their place: one process computes everything on a CPU.
        # A front model proves itself with this; without it, or where the repository says so, everybody may call.
        self._secret = os.environ.get(_SECRET_VARIABLE, "")
        if self._parameters.get("allow_direct_requests") == "true":
            self._secret = ""
        self._is_idle_rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")) > 0
        if self._is_idle_rank:
            return
        self._gauges = _make_gauges(self._labels)
        self._start(self._supervise, self._write)
        self._first_start.wait()
        if self._failure:
            self.finalize()
            raise pb_utils.TritonModelException(self._failure)
        _set_gauges(self._gauges, self._stats)  # here, so that a model that is ready never shows an engine that is not
        self._start(self._respond)

    def _start(self, *runs: Callable[[], None]) -> None:
        for run in runs:
            name = run.__name__.strip("_")
            thread = threading.Thread(target=self._run_or_end, args=(run, name), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run_or_end(self, run: Callable[[], None], name: str) -> None:
        """Run a thread; if it fails, answer everybody and end the process: probes see a dead process, not a thread."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody would hear of it
            if self._is_stopping.is_set():
                return
            traceback.print_exc()
            print(f"tensorrt_llm: thread {name!r} failed: {error!r}; the process ends", file=sys.stderr, flush=True)  # noqa: T201
            with contextlib.suppress(Exception):
                self._is_stopping.set()
                self._fail_all(f"the engine model failed: {error!r}")
            if self._process is not None:
                self._process.kill()
            os._exit(70)

    def execute(self, requests: list[Any]) -> None:
        """Queue requests; responses follow through their senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except InvalidRequestError as error:
                _send_error(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            except Exception as error:  # noqa: BLE001 - one request must not take the others of its batch with it
                _send_error(sender, f"the request could not be taken: {error!r}", pb_utils.TritonError.INTERNAL)

    def finalize(self) -> None:
        """End the engine process and the threads; answer what is still open."""
        self._is_stopping.set()
        self._outbox.put(None)
        with self._work:
            self._work.notify_all()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for thread in self._threads:
            thread.join(_GRACE_S)
        self._fail_all("the server is shutting down")
        # Triton 2.51's stub crashes at exit when it still holds a series, and a series must go before its family.
        for key in [key for key in self._gauges if key[1]]:
            del self._gauges[key]
        self._gauges.clear()

    # -- requests -----------------------------------------------------------------------------------------------

    def _take(self, request: Any, sender: Any) -> None:
        inputs = _Inputs(request)
        if self._is_idle_rank:
            raise InvalidRequestError("this rank serves nothing; send requests to rank 0")
        if self._secret and not _is_from_front(request, self._secret):
            raise InvalidRequestError(
                f"{self._labels['model']} takes requests from its front model only: send this one to the front model, "
                "or serve with --layout full, which opens the engine model to clients"
            )
        if inputs.flag("stop"):
            self._stop(request.request_id())
            sender.send(flags=_FINAL)
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
                    counts=frozenset(name for name in _COUNTS if inputs.flag(f"return_{name}")),
                    arrival_ns=time.monotonic_ns(),
                )
                self._tell({"submit": self._pending[key].options})
        if refusal:
            _send_error(sender, refusal, pb_utils.TritonError.UNAVAILABLE)

    def _refusal(self) -> str:
        """Return why no request can be taken now, or an empty text."""
        if self._failure:
            return self._failure
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
                    self._tell({"cancel": pending.key})

    def _tell(self, message: dict[str, Any]) -> None:
        """Queue a message to the engine, with the lock held. Without an engine, what waits is submitted to the next."""
        if self._connection is not None:
            self._outbox.put((self._connection, message))

    # -- the engine process -------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Keep an engine process running and take in what it says, until the model is unloaded."""
        pause_s, longest_s = _BACKOFF_S
        while not self._is_stopping.is_set():
            started = time.monotonic()
            reason = self._run_engine()
            if self._is_stopping.is_set():
                break
            if not self._first_start.is_set():
                self._failure = reason
                self._first_start.set()
                break
            if time.monotonic() - started > longest_s:
                pause_s = _BACKOFF_S[0]
            self._log.log_error(f"{reason}; {len(self._pending)} requests are lost; starting it again in {pause_s:g} s")
            self._fail_all(f"{reason}; it is being started again, please repeat the request")
            self._is_stopping.wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _run_engine(self) -> str:
        """Start the engine process and read from it until it ends; return why it ended."""
        python = os.environ.get("TRTBUILD_PYTHON") or shutil.which("python3") or "python3"
        ours, theirs = socket.socketpair()
        with ours:
            argv = [python, str(self._directory / "engine_worker.py"), self._parameters["engine_dir"]]
            argv += ["--socket", str(theirs.fileno()), "--parent", str(os.getpid())]
            argv += ["--options", json.dumps(self._engine_options())]
            try:
                with theirs:
                    # Its own session: Ctrl-C on a terminal reaches the server alone, which then ends us in order.
                    self._process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], start_new_session=True)
            except OSError as error:
                self._on_lost()
                return f"the engine process cannot be started with {python}: {error}"
            reader, fatal = Reader(ours), ""
            while (messages := reader.read()) is not None:
                for message in messages:
                    fatal = message.get("fatal", fatal)
                    if "ready" in message:
                        self._on_ready(message["ready"], ours)
                    else:
                        self._on_step(message)
            self._on_lost()
            return fatal or f"the engine process ({python}) {_how_it_ended(self._process)}"

    def _engine_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_batch_size": int(self._parameters["max_batch_size"]),
            "enable_kv_cache_reuse": self._parameters.get("enable_kv_cache_reuse", "true") == "true",
            "enable_chunked_context": self._parameters.get("enable_chunked_context", "true") == "true",
            "batch_scheduler_policy": self._parameters.get("batch_scheduler_policy", "guaranteed_no_evict"),
        }
        if self._parameters.get("samplers"):  # what the LLM API of each version applies
            options["samplers"] = json.loads(self._parameters["samplers"])
        if self._parameters.get("inference_num_threads"):
            options["inference_num_threads"] = int(self._parameters["inference_num_threads"])
        if self._parameters.get("kv_cache_free_gpu_mem_fraction"):  # engines on GPUs
            options["kv_cache_free_gpu_mem_fraction"] = float(self._parameters["kv_cache_free_gpu_mem_fraction"])
        return options

    def _on_ready(self, ready: dict[str, Any], connection: socket.socket) -> None:
        self._log.log_info(
            f"engine process {self._process.pid if self._process else 0} is ready: {ready['slots']} slots"
        )
        with self._work:
            self._slots = int(ready["slots"])
            self._stats = {**ready["stats"], "trtbuild_engine_up": 1.0, "trtbuild_engine_failed_starts": 0.0}
            self._connection = connection
            for pending in list(self._pending.values()):
                if pending.is_unwanted:  # while there was no engine to tell
                    self._end(pending, {"end": "cancelled", "times": [0, 0, 0]})
                else:
                    self._tell({"submit": pending.options})
            self._work.notify_all()
        self._first_start.set()

    def _on_lost(self) -> None:
        """Say at once that there is no engine: its process may take seconds to end, and longer to come back."""
        with self._work:
            self._connection = None
            stats = {name: 0.0 if name in _MOMENTARY else value for name, value in self._stats.items()}
            if not self._stats["trtbuild_engine_up"]:
                stats["trtbuild_engine_failed_starts"] += 1
            self._stats = stats
            self._work.notify_all()

    def _on_step(self, message: dict[str, Any]) -> None:
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

    def _write(self) -> None:
        """Write queued messages to the engine process: it reads only between steps, so this may block."""
        while (entry := self._outbox.get()) is not None:
            connection, message = entry
            try:
                connection.sendall(encode(message))
            except OSError:
                continue  # that engine is gone; the reading side answers its requests

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
        shown: dict[str, float] = {}
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
            if stats != shown:
                _set_gauges(self._gauges, stats)
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
            _send_part(*part)

    def _cancel_abandoned(self) -> None:
        """End requests whose client has gone, so that their slots are free for others."""
        with self._lock:
            everyone = [pending for pending in self._pending.values() if not pending.is_unwanted]
        for pending in everyone:
            if pending.sender.is_cancelled():
                pending.is_unwanted = True
                with self._lock:
                    self._tell({"cancel": pending.key})


def _send_part(pending: Pending, tokens: list[int], log_probs: list[float], end: dict[str, Any] | None) -> None:
    """Send new tokens, and the end if it has come."""
    if end is not None and "error" in end:
        code = pb_utils.TritonError.INVALID_ARG if end.get("invalid") else pb_utils.TritonError.INTERNAL
        code = pb_utils.TritonError.UNAVAILABLE if end.get("retryable") else code
        _send_error(pending.sender, end["error"], code)
        return
    if not tokens and end is None:
        return
    pending.sent += len(tokens)
    outputs = _outputs(pending, tokens, log_probs)
    if end is not None:
        outputs.update(_last_outputs(pending, end))
    tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in pending.outputs]
    response = pb_utils.InferenceResponse(output_tensors=tensors)
    _send(pending.sender, response, _FINAL if end is not None else 0)


def _outputs(pending: Pending, tokens: list[int], log_probs: list[float]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what every response holds."""
    sequence = pending.echo + tokens
    outputs = {
        "output_ids": np.array([[sequence]], np.int32),
        "sequence_length": np.array([[len(sequence)]], np.int32),
        "batch_index": _ZERO,
        "sequence_index": _ZERO,
    }
    if pending.options["log_probs"]:
        pending.cumulated += sum(log_probs)
        outputs["cum_log_probs"] = np.array([[pending.cumulated]], np.float32)
        if log_probs or not pending.is_streaming:  # the end of a stream may come without a token
            outputs["output_log_probs"] = np.array([[log_probs]], np.float32)
    return outputs


def _last_outputs(pending: Pending, end: dict[str, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield what only the last response holds, as far as the client asked for it."""
    for name, count in zip(_COUNTS, (len(pending.options["input_ids"]), pending.sent), strict=True):
        if name in pending.counts:
            yield name, np.array([[count]], np.int32)
    if pending.wants_times:
        yield "arrival_time_ns", np.array([[pending.arrival_ns]], np.int64)
        for name, value in zip(_TIMES, end["times"], strict=True):
            yield name, np.array([[value]], np.int64)


def _send_error(sender: Any, message: str, code: Any) -> None:
    if code == pb_utils.TritonError.UNAVAILABLE:  # in the text too: a gRPC stream carries nothing else
        message = f"UNAVAILABLE: {message}"
    _send(sender, pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), _FINAL)


def _send(sender: Any, response: Any, flags: int) -> None:
    try:
        sender.send(response, flags=flags)
    except pb_utils.TritonModelException as error:  # one client's trouble must not stop the others' responses
        pb_utils.Logger.log_warn(f"a response could not be sent: {error}")


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code >= 0:
        return f"ended with exit code {code} (its last words are in the server's log)"
    return f"was ended by signal {-code} ({signal.Signals(-code).name})"


def _make_gauges(labels: dict[str, str]) -> dict[tuple[str, str], Any]:
    """Return the gauges under the names TensorRT-LLM's C++ backend uses, so that one dashboard serves both."""
    gauges: dict[tuple[str, str], Any] = {}
    for family, label, values in _GAUGES:
        made = pb_utils.MetricFamily(
            name=family, description=f"TensorRT LLM {family[11:]}", kind=pb_utils.MetricFamily.GAUGE
        )
        gauges[family, ""] = made  # a metric is gone with its family
        for value in values:
            gauges[family, value] = made.Metric(labels={label: value, **labels})
    for family, description in _STATE.items():
        made = pb_utils.MetricFamily(name=family, description=description, kind=pb_utils.MetricFamily.GAUGE)
        gauges[family, ""] = made
        gauges[family, "value"] = made.Metric(labels=labels)
    return gauges


def _set_gauges(gauges: dict[tuple[str, str], Any], stats: dict[str, float]) -> None:
    for name in _STATE:
        gauges[name, "value"].set(stats[name])
    requests, blocks = (family for family, _, _ in _GAUGES)
    for name in ("active", "waiting", "scheduled", "max"):
        gauges[requests, name].set(stats[name])
    if "blocks_max" not in stats:  # an engine whose cache cannot be seen
        return
    used, most = stats["blocks_used"], stats["blocks_max"]
    values = {
        "max": most,
        "used": used,
        "free": most - used,
        "fraction": used / most,
        "tokens_per": stats["tokens_per_block"],
    }
    for name, value in values.items():
        gauges[blocks, name].set(value)
