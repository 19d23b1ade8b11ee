"""The engine process of the llmapi backend: TensorRT-LLM's LLM API (PyTorch) behind a socket.

It decides when a request is admitted and when it is over; what is computed together is the LLM API's business. It
does not know Triton: the model starts it, sends requests and passes tokens on. In a process of its own it can spawn the
ranks of a tensor parallel model, and its end takes neither the server nor the other models along.

Source: tensorrt_llm 1.x, ``llmapi/llm.py`` (LLM.generate_async), ``sampling_params.py``, ``executor/result.py``.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import inspect
import json
import os
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbuild_engine.progress import Limits, Progress, RequestError
from trtbuild_engine.wire import Reader, encode
from trtbuild_engine.worker import connected, parse_arguments, say_ready, say_unloadable

_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Penalties, and the value of each that changes nothing."""

_POLICIES = {"guaranteed_no_evict": "GUARANTEED_NO_EVICT", "max_utilization": "MAX_UTILIZATION"}


@dataclass(kw_only=True)
class Request(Progress):
    """One request as the LLM API computes it.

    Attributes:
        handle: The LLM API's result, once admitted.
        read: Tokens of the LLM API's output that were looked at.
        is_cancelled: The client has gone or asked to stop.
    """

    handle: Any = None
    read: int = 0
    is_cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What chooses tokens in an installed TensorRT-LLM.

    Attributes:
        version: The version.
        arguments: Arguments of ``LLM()`` that select it.
        applies: Which of ``penalties``, ``seed`` and ``bad_words`` it applies; it takes all, and ignores the rest.
    """

    version: str
    arguments: dict[str, Any] = field(default_factory=dict)
    applies: frozenset[str] = frozenset()

    def refusal(self, options: dict[str, Any]) -> str:
        """Return which parameter of a request would be ignored, or ""."""
        used = {
            "penalties": next((name for name, none in _PENALTIES.items() if options.get(name, none) != none), ""),
            "seed": "seed" if options.get("sample") and options.get("is_seeded") else "",
            "bad_words": "bad_words_list" if options.get("bad_words") else "",
        }
        ignored = next((name for what, name in used.items() if name and what not in self.applies), "")
        return f"{ignored}: the LLM API of TensorRT-LLM {self.version} would ignore it; leave it out" if ignored else ""


def version_key(text: str) -> tuple[tuple[int, ...], int, int]:
    """Return a sortable key of a version such as ``1.1.0``, ``1.0.3.2510`` or ``1.3.0rc26``."""
    match = re.match(r"(?P<release>\d+(?:\.\d+)*)(?:rc(?P<candidate>\d+))?", text)
    if match is None:
        return (), 0, 0
    release = [int(part) for part in match["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release), 0 if match["candidate"] else 1, int(match["candidate"] or 0)


def choose_sampler(rows: list[dict[str, Any]], version: str) -> Sampler:
    """Return what the row of a version says; without one, nothing is known to be applied.

    The rows come with the repository, from trtbuild's table of releases (``catalog/llmapi.yaml``).
    """
    key = version_key(version)
    for row in rows:
        if version_key(row["since"]) <= key and (not row["until"] or key <= version_key(row["until"])):
            return Sampler(version=version, arguments=row["arguments"], applies=frozenset(row["applies"]))
    return Sampler(version=version)


def llm_arguments(engine_dir: Path, options: dict[str, Any], sampler: Sampler) -> dict[str, Any]:
    """Return the LLM's arguments: those of ``model.yaml``, what the repository decides, and the sampler's."""
    # Written as JSON, which is YAML too, so that this file needs no YAML reader.
    arguments: dict[str, Any] = json.loads((engine_dir / "model.yaml").read_text(encoding="utf-8"))
    arguments["model"] = str(engine_dir / arguments["model"])
    cache = arguments.setdefault("kv_cache_config", {})
    cache["enable_block_reuse"] = bool(options.get("enable_kv_cache_reuse", True))
    if "kv_cache_free_gpu_mem_fraction" in options:
        cache["free_gpu_memory_fraction"] = float(options["kv_cache_free_gpu_mem_fraction"])
    arguments["enable_chunked_prefill"] = bool(options.get("enable_chunked_context", True))
    policy = _POLICIES[options.get("batch_scheduler_policy", "guaranteed_no_evict")]
    arguments["scheduler_config"] = {"capacity_scheduler_policy": policy}
    return {**arguments, **sampler.arguments}


def sampling_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``SamplingParams`` for a request; absent ones keep the LLM API's greedy defaults."""
    end_id = options.get("end_id")
    arguments: dict[str, Any] = {
        "max_tokens": options["request_output_len"],
        "end_id": -1 if end_id is None else end_id,
        "pad_id": 0 if end_id is None else end_id,
        "detokenize": False,
    }
    for name, neutral in _PENALTIES.items():
        if options.get(name, neutral) != neutral:
            arguments[name] = options[name]
    if options.get("min_tokens"):
        arguments["min_tokens"] = options["min_tokens"]
    if options.get("bad_words"):
        arguments["bad_token_ids"] = sorted({words[0] for words in options["bad_words"]})
    # Longer stop sequences are found here, token by token; single ones end the request inside the engine.
    single = [words[0] for words in options.get("stop_words", ()) if len(words) == 1]
    if single and not options.get("min_tokens"):
        arguments |= {"stop_token_ids": single, "include_stop_str_in_output": True}
    if options.get("log_probs"):
        arguments["logprobs"] = 1
    if options.get("sample"):
        arguments |= {"temperature": options["temperature"], "top_p": options["top_p"], "seed": options["seed"]}
        if options["top_k"]:
            arguments["top_k"] = options["top_k"]
    return arguments


class Engine:
    """The LLM and the requests in it. Everything runs in one event loop."""

    def __init__(self, engine_dir: Path, options: dict[str, Any]) -> None:
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm import __version__ as version

        config = json.loads((engine_dir / "config.json").read_text(encoding="utf-8"))
        limits = config["build_config"]
        self.limits = Limits(
            vocab_size=int(config["pretrained_config"]["vocab_size"]),
            max_input_len=int(limits["max_input_len"]),
            max_seq_len=int(limits["max_seq_len"]),
        )
        self.slots = int(options.get("max_batch_size") or limits["max_batch_size"])
        self.make_params = SamplingParams
        self._measures = "return_perf_metrics" in inspect.signature(SamplingParams).parameters
        self.sampler = choose_sampler(options.get("samplers", []), version)
        self.llm = LLM(**llm_arguments(engine_dir, options, self.sampler))
        self.waiting: collections.deque[Request] = collections.deque()
        self.active: dict[int, Request] = {}
        self.events: list[dict[str, Any]] = []
        self.on_event: Any = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, options: dict[str, Any]) -> None:
        """Queue a request, or refuse it."""
        request = Request(key=int(options["key"]), options=options)
        try:
            self._check(options)
        except RequestError as error:
            self._tell({"key": request.key, "error": str(error), "invalid": True})
            return
        self.waiting.append(request)
        self._admit()

    def _check(self, options: dict[str, Any]) -> None:
        self.limits.check(options)
        if refusal := self.sampler.refusal(options):
            raise RequestError(refusal)
        longer = next((words for words in options.get("bad_words", ()) if len(words) > 1), None)
        if longer:
            raise RequestError(f"bad_words_list: this engine forbids single tokens only, got the sequence {longer}")

    def cancel(self, key: int) -> None:
        """End a request wherever it is."""
        for request in self.waiting:
            if request.key == key:
                self.waiting.remove(request)
                self._tell(request.last([], [], "cancelled"))
                return
        active = self.active.get(key)
        if active is not None:
            active.is_cancelled = True
            active.handle.abort()

    def _admit(self) -> None:
        while self.waiting and len(self.active) < self.slots:
            request = self.waiting.popleft()
            request.first_scheduled_ns = time.monotonic_ns()
            try:
                arguments = sampling_arguments(request.options)
                if self._measures:
                    arguments["return_perf_metrics"] = True
                params = self.make_params(**arguments)
                prompt = request.options["input_ids"]
                request.handle = self.llm.generate_async(prompt, sampling_params=params, streaming=True)
            except (RuntimeError, ValueError, TypeError) as error:
                self._tell({"key": request.key, "error": f"the engine refused the request: {error}", "invalid": True})
                continue
            self.active[request.key] = request
            task = asyncio.get_running_loop().create_task(self._follow(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, request: Request) -> None:
        """Pass a request's tokens on until it ends, however it does: its slot is free then."""
        try:
            event = await self._last_event(request)
        except Exception as error:  # noqa: BLE001 - whatever the LLM API raises concerns this request, not the engine
            event = {"key": request.key, "error": f"the engine failed: {type(error).__name__}: {error}"}
        del self.active[request.key]
        self._tell(event)
        self._admit()

    async def _last_event(self, request: Request) -> dict[str, Any]:
        """Pass a request's tokens on; return what is to be said last."""
        async for output in request.handle:
            event = self._take(request, output)
            if "end" in event:
                if not request.is_cancelled and not event.pop("finished"):
                    request.handle.abort()  # a stop sequence was found here; the engine would go on
                return event
            if event["tokens"]:
                self._tell(event)
        return request.last([], [], "cancelled" if request.is_cancelled else "length")

    def _take(self, request: Request, output: Any) -> dict[str, Any]:
        completion = output.outputs[0]
        arrived = list(completion.token_ids[request.read :])
        log_probs = _log_probs(completion, request.read) if request.options.get("log_probs") else []
        request.read += len(arrived)
        fresh, reason = _accept(request, arrived)
        now = time.monotonic_ns()
        if fresh:
            request.note_tokens(now)
        if reason is None and output.finished:
            reason = {"stop": "stop", "cancelled": "cancelled"}.get(completion.finish_reason or "", "length")
        kept = log_probs[: len(fresh)]
        if reason is not None:
            scheduled_ns = request.first_scheduled_ns + _waited_ns(completion)
            request.first_scheduled_ns = min(scheduled_ns, request.first_token_ns or now)
            return {**request.last(fresh, kept, reason), "finished": bool(output.finished)}
        event: dict[str, Any] = {"key": request.key, "tokens": fresh}
        return {**event, "log_probs": kept} if kept else event

    def _tell(self, event: dict[str, Any]) -> None:
        event.pop("finished", None)
        self.events.append(event)
        self.on_event()

    def stats(self) -> dict[str, float]:
        """Return the gauges of this moment; the LLM API's key/value cache is not visible from here."""
        return {
            "active": len(self.active) + len(self.waiting),
            "scheduled": len(self.active),
            "waiting": len(self.waiting),
            "max": self.slots,
        }


def _accept(request: Request, tokens: list[int]) -> tuple[list[int], str | None]:
    """Add new tokens up to where the request ends; return the accepted ones and why it ends, if it does."""
    fresh: list[int] = []
    for token in tokens:
        is_text, reason = request.take(token)
        if is_text:
            fresh.append(token)
        if reason is not None:
            return fresh, reason
    return fresh, None


def _waited_ns(completion: Any) -> int:
    """Return how long a request waited inside the LLM API until it was scheduled; 0 where that does not tell.

    Source: TensorRT-LLM 1.x, executor/result.py (request_perf_metrics), and the bindings' timing_metrics (timedelta).
    """
    timing = getattr(getattr(completion, "request_perf_metrics", None), "timing_metrics", None)
    if timing is None:
        return 0
    waited_s: float = (timing.first_scheduled_time - timing.arrival_time).total_seconds()
    return max(0, round(waited_s * 1e9))


def _log_probs(completion: Any, start: int) -> list[float]:
    """Return the log probabilities of the tokens from ``start`` on; the LLM API gives a mapping per position."""
    found = []
    for token, entry in zip(completion.token_ids[start:], completion.logprobs[start:], strict=False):
        if isinstance(entry, dict):
            best = entry.get(token) or next(iter(entry.values()))
            found.append(float(best.logprob))
        else:
            found.append(float(entry))
    return found


async def serve(engine: Engine, connection: socket.socket) -> None:
    """Move messages between the socket and the engine until the socket is closed."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[list[dict[str, Any]] | None] = asyncio.Queue()
    outbox = asyncio.Event()
    engine.on_event = outbox.set

    def read() -> None:
        reader = Reader(connection)
        messages: list[dict[str, Any]] | None = []
        while messages is not None:
            messages = reader.read()
            with contextlib.suppress(RuntimeError):  # the loop is gone: we are leaving
                loop.call_soon_threadsafe(inbox.put_nowait, messages)

    async def write() -> None:
        sent: dict[str, float] = {}
        while True:
            await outbox.wait()
            outbox.clear()
            message: dict[str, Any] = {"step": engine.events} if engine.events else {}
            engine.events = []
            stats = engine.stats()
            if stats != sent:
                sent = message["stats"] = stats
            if message:
                await loop.run_in_executor(None, connection.sendall, encode(message))

    threading.Thread(target=read, name="read", daemon=True).start()
    writer = loop.create_task(write())
    while (messages := await inbox.get()) is not None and not writer.done():
        for message in messages:
            if "submit" in message:
                engine.submit(message["submit"])
            else:
                engine.cancel(int(message["cancel"]))
        outbox.set()
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer


def _leave(*_: object) -> None:
    raise SystemExit(0)


async def run(connection: socket.socket, engine_dir: Path, options: dict[str, Any]) -> None:
    """Load the model, say so, serve."""
    try:
        engine = Engine(engine_dir, options)
    except (ImportError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise say_unloadable(connection, engine_dir, error) from error
    say_ready(connection, engine)
    try:
        await serve(engine, connection)
    finally:
        engine.llm.shutdown()


def main() -> None:
    """Read the command line and run until the model is gone."""
    arguments = parse_arguments(__doc__)
    # SIGTERM, not SIGKILL: the LLM API ends the ranks it spawned when this interpreter ends in order.
    with connected(arguments, death_signal=signal.SIGTERM) as connection:
        signal.signal(signal.SIGTERM, _leave)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the engine directory
        asyncio.run(run(connection, arguments.engine_dir, arguments.options))


if __name__ == "__main__":  # MPI and spawn start this file again in the ranks
    main()
