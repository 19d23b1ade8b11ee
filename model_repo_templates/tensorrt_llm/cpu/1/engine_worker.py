"""The engine process of the cpu backend: OpenVINO GenAI's continuous batching behind a socket.

It decides which requests are computed together and when a request is over. It does not know Triton: the model starts
it, sends requests and passes tokens on. It lives in a process of its own because a step of the pipeline holds
Python's global lock for as long as it computes, which would freeze whoever has to answer the server.

Ends when its parent dies, when the socket is closed, or on SIGTERM. Idle, it sleeps in the kernel.
"""

from __future__ import annotations

import collections
import importlib
import json
import math
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trtbuild_engine.progress import Limits, Progress, RequestError
from trtbuild_engine.wire import Reader, encode
from trtbuild_engine.worker import connected, parse_arguments, say_ready, say_unloadable

# Importing openvino would load openvino_telemetry, which reports it over the network; without it a stub is used.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
openvino: Any = importlib.import_module("openvino")
openvino_genai: Any = importlib.import_module("openvino_genai")

BLOCK_TOKENS = 32
"""Tokens of one key/value block on CPUs. Source: openvino.genai, cache_orchestrator / plugin block size for CPU."""

MOST_MIN_P = 0.999999
"""1, which leaves the likeliest token alone, is refused. Source: openvino.genai, GenerationConfig::validate."""

_STATS_PERIOD_S = 0.25


@dataclass(kw_only=True)
class Request(Progress):
    """One request as the pipeline computes it.

    Attributes:
        blocks: Key/value blocks it may need at its longest.
        ban_ends: Length of ``tokens`` from which the pipeline forbids nothing any more.
        run_began: Length of ``tokens`` when it was last given to the pipeline.
        runs: How often it was given to the pipeline.
    """

    prompt: list[int]
    blocks: int
    handle: Any = None
    ban_ends: int = 0
    run_began: int = 0
    runs: int = 0

    def banned(self) -> tuple[set[int], int]:
        """Return the tokens that may not come next, and for how many tokens at least that stays so."""
        made, options = len(self.tokens), self.options
        static = {word[0] for word in options.get("bad_words", ()) if len(word) == 1}
        until = options["request_output_len"] if static else made
        if made < options.get("min_tokens", 0) and "end_id" in options:
            static.add(options["end_id"])
            until = options["min_tokens"]
        completing = {word[-1] for word in options.get("bad_words", ()) if len(word) > 1 and self._ends_with(word[:-1])}
        return static | completing, made + 1 if completing - static else until

    def completes_bad_word(self, token: int) -> bool:
        """Tell whether ``token`` would complete a forbidden sequence."""
        return any(word[-1] == token and self._ends_with(word[:-1]) for word in self.options.get("bad_words", ()))

    def _ends_with(self, part: list[int]) -> bool:
        return not part or self.tokens[-len(part) :] == part


class Engine:
    """The pipeline and the requests in it."""

    def __init__(self, engine_dir: Path, options: dict[str, Any]) -> None:
        config = json.loads((engine_dir / "config.json").read_text(encoding="utf-8"))
        limits, runtime = config["build_config"], config["runtime"]
        self.limits = Limits(
            vocab_size=int(config["pretrained_config"]["vocab_size"]),
            max_input_len=int(limits["max_input_len"]),
            max_seq_len=int(limits["max_seq_len"]),
        )
        self.slots = int(options.get("max_batch_size") or limits["max_batch_size"])
        self.total_blocks = int(runtime["kv_cache_tokens"]) // BLOCK_TOKENS
        self.evicts = options.get("batch_scheduler_policy") == "max_utilization"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = self.slots
        scheduler.max_num_batched_tokens = max(int(limits["max_num_tokens"]), self.slots)
        if not options.get("enable_chunked_context", True):
            scheduler.dynamic_split_fuse = False
            scheduler.max_num_batched_tokens = max(scheduler.max_num_batched_tokens, self.limits.max_input_len)
        scheduler.num_kv_blocks = self.total_blocks
        scheduler.enable_prefix_caching = bool(options.get("enable_kv_cache_reuse", True))
        properties = dict(runtime["properties"])
        if options.get("inference_num_threads"):
            properties["INFERENCE_NUM_THREADS"] = int(options["inference_num_threads"])
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(engine_dir), scheduler, "CPU", properties)
        self.waiting: collections.deque[Request] = collections.deque()
        self.active: dict[int, Request] = {}
        self._resuming: list[Request] = []  # cut short by the last step, to be continued after the next
        self._leaving_blocks = 0  # of cancelled requests; the pipeline frees them in its next step
        self._next_id = 0

    # -- taking requests ----------------------------------------------------------------------------------------

    def submit(self, options: dict[str, Any]) -> dict[str, Any] | None:
        """Queue a request; return an event when it can be refused at once."""
        key = int(options["key"])
        try:
            self.waiting.append(self._check(key, options))
        except RequestError as error:
            return {"key": key, "error": str(error), "invalid": True}
        return None

    def _check(self, key: int, options: dict[str, Any]) -> Request:
        self.limits.check(options)
        prompt, new = options["input_ids"], options["request_output_len"]
        blocks = math.ceil((len(prompt) + new) / BLOCK_TOKENS)
        if blocks > self.total_blocks:
            raise RequestError(
                f"prompt and output need {len(prompt) + new} tokens, the key/value pool holds "
                f"{self.total_blocks * BLOCK_TOKENS} (kv_cache_tokens)"
            )
        return Request(key=key, options=options, prompt=prompt, blocks=blocks)

    def cancel(self, key: int) -> dict[str, Any] | None:
        """End a request wherever it is; return its last event, or None when it is over already."""
        request = self.active.pop(key, None)
        if request is not None:
            self._cut(request)
            return request.last([], [], "cancelled")
        for request in self.waiting:
            if request.key == key:
                self.waiting.remove(request)
                return request.last([], [], "cancelled")
        return None

    def _admit(self) -> list[dict[str, Any]]:
        """Move waiting requests to free slots, in order; return events of those the pipeline refuses."""
        events = []
        while self.waiting and len(self.active) < self.slots:
            request = self.waiting[0]
            reserved = self._leaving_blocks + sum(other.blocks for other in self.active.values())
            # guaranteed_no_evict: whoever starts can finish. And with either policy the pipeline gives up a request
            # that does not fit beside blocks that are about to be freed, so it has to wait for a step.
            must_fit = not self.evicts or self._leaving_blocks
            if must_fit and reserved + request.blocks > self.total_blocks:
                break
            self.waiting.popleft()
            request.first_scheduled_ns = time.monotonic_ns()
            try:
                self._start(request)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                message = f"the engine refused the request: {reason}"
                events.append({"key": request.key, "error": message, "invalid": True})
                continue
            self.active[request.key] = request
        return events

    def _start(self, request: Request) -> None:
        """Give a request to the pipeline, with what it has generated so far as part of its prompt."""
        self._next_id += 1
        request.runs += 1
        request.run_began = len(request.tokens)
        prompt = openvino.Tensor(np.array([request.prompt + request.tokens], np.int64))
        request.handle = self.pipeline.add_request(self._next_id, prompt, _generation_config(request))

    def _cut(self, request: Request) -> None:
        """Take a running request out of the pipeline."""
        request.handle.cancel()
        self._leaving_blocks += request.blocks

    # -- computing ----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Something is to be computed, or a cancelled request is to be cleared out of the pipeline."""
        return bool(self.waiting or self.active) or self.pipeline.has_non_finished_requests()

    def step(self) -> list[dict[str, Any]]:
        """Compute one step for everything that is running; return what happened."""
        events = self._admit()
        resuming, self._resuming = self._resuming, []
        if self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            self._leaving_blocks = 0
        for request in resuming:
            if request.key in self.active:  # not cancelled meanwhile
                self._start(request)
        now = time.monotonic_ns()
        for request in list(self.active.values()):
            if request not in self._resuming:
                events += self._collect(request, now)
        return events

    def _collect(self, request: Request, now: int) -> Iterator[dict[str, Any]]:
        tokens: list[int] = []
        log_probs: list[float] = []
        while request.handle.can_read():
            for output in request.handle.read().values():
                tokens += output.generated_ids
                log_probs += output.generated_log_probs
        status = request.handle.get_status()
        is_over = status != openvino_genai.GenerationStatus.RUNNING
        if not tokens and not is_over:
            return
        fresh, reason = self._accept(request, tokens)
        if fresh:
            request.note_tokens(now)
        fresh_log_probs = log_probs[: len(fresh)] if request.options.get("log_probs") else []
        if reason is None and is_over:
            reason = "lost"
        if reason == "resume":
            self._resuming.append(request)
        if reason is None or reason == "resume":
            if not is_over and reason:
                self._cut(request)
            if fresh:
                yield {"key": request.key, "tokens": fresh, "log_probs": fresh_log_probs}
            return
        del self.active[request.key]
        if not is_over:
            self._cut(request)
        if reason == "lost":
            message = (
                f"the engine gave up after {len(request.tokens)} tokens ({status.name}): its key/value pool is full"
            )
            yield {"key": request.key, "error": message}
        elif reason == "stuck":
            yield {"key": request.key, "error": "bad_words_list forbids every token there is", "invalid": True}
        else:
            yield request.last(fresh, fresh_log_probs, reason)

    def _accept(self, request: Request, tokens: list[int]) -> tuple[list[int], str | None]:
        """Add new tokens up to where the request ends or has to be started anew.

        Returns the accepted tokens and ``stop``, ``length``, ``resume``, ``stuck`` or None.
        """
        fresh: list[int] = []
        for token in tokens:
            if request.completes_bad_word(token):
                # At the start of a run it was forbidden already: then nothing else was left to choose from.
                return fresh, "stuck" if len(request.tokens) == request.run_began else "resume"
            is_text, reason = request.take(token)
            if is_text:
                fresh.append(token)
            if reason is not None:
                return fresh, reason
            if len(request.tokens) == request.ban_ends and request.banned()[1] > len(request.tokens):
                return fresh, "resume"
        return fresh, None

    def stats(self) -> dict[str, float]:
        """Return the gauges of this moment."""
        metrics = self.pipeline.get_metrics()
        used = round(self.total_blocks * float(metrics.cache_usage) / 100) if self.active else 0
        return {
            "active": len(self.active) + len(self.waiting),
            "scheduled": len(self.active),
            "waiting": len(self.waiting),
            "max": self.slots,
            "blocks_used": used,
            "blocks_max": self.total_blocks,
            "tokens_per_block": BLOCK_TOKENS,
        }


def _generation_config(request: Request) -> openvino_genai.GenerationConfig:
    """Return OpenVINO's options for the rest of a request.

    OpenVINO can forbid one set of tokens for the first tokens of a run: its stop tokens for ``min_new_tokens``. When
    the set has to change, ``_accept`` has the request started anew; most requests never need that.
    Source: openvino.genai 2026.4, src/cpp/src/sampling (EOSPenaltyTransform).
    """
    options, made = request.options, len(request.tokens)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = options["request_output_len"] - made
    banned, until = request.banned()
    request.ban_ends = until
    end_id = options.get("end_id")
    # With its end ignored, the pipeline does not take a forbidden token for one later; _accept finds the end.
    config.ignore_eos = end_id is None or bool(banned - {end_id})
    config.min_new_tokens = until - made
    config.stop_token_ids = banned
    # One of the stop tokens must be called the end, even where it is ignored.
    config.set_eos_token_id(min(banned) if config.ignore_eos and banned else end_id or 0)
    config.repetition_penalty = options.get("repetition_penalty", 1.0)
    config.presence_penalty = options.get("presence_penalty", 0.0)
    config.frequency_penalty = options.get("frequency_penalty", 0.0)
    config.logprobs = 1 if options.get("log_probs") else 0
    if options.get("sample"):
        config.do_sample = True
        config.temperature = options["temperature"]
        config.top_p = options["top_p"]
        config.min_p = min(options.get("min_p", 0.0), MOST_MIN_P)
        if options["top_k"]:
            config.top_k = options["top_k"]
        config.rng_seed = (options["seed"] + request.runs - 1) % 2**64
    return config


class Server:
    """Moves messages between the socket and the engine."""

    def __init__(self, connection: socket.socket, engine: Engine) -> None:
        self._connection, self._engine, self._reader = connection, engine, Reader(connection)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._last_stats: dict[str, float] = {}
        self._stats_due_s = 0.0

    def run(self) -> None:
        """Serve until the socket is closed."""
        while True:
            events: list[dict[str, Any]] = []
            while self._poll.poll(0 if events or self._engine.has_work else None):
                messages = self._reader.read()
                if messages is None:
                    return
                events += self._handle(messages)
            if self._engine.has_work:
                events += self._engine.step()
            self._send(events)

    def _handle(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        events = []
        for message in messages:
            if "submit" in message:
                event = self._engine.submit(message["submit"])
            else:
                event = self._engine.cancel(int(message["cancel"]))
            if event:
                events.append(event)
        return events

    def _send(self, events: list[dict[str, Any]]) -> None:
        message: dict[str, Any] = {"step": events} if events else {}
        now = time.monotonic()
        if now >= self._stats_due_s or not self._engine.has_work:
            stats = self._engine.stats()
            self._stats_due_s = now + _STATS_PERIOD_S
            if stats != self._last_stats:
                self._last_stats = message["stats"] = stats
        if message:
            self._connection.sendall(encode(message))


def check(engine_dir: Path) -> None:
    """Load the engine and compute one token, to know that it works before it is published."""
    engine = Engine(engine_dir, {"max_batch_size": 1})
    engine.submit({"key": 0, "input_ids": [0], "request_output_len": 1, "log_probs": True})
    events: list[dict[str, Any]] = []
    while engine.has_work:
        events += engine.step()
    last = events[-1]
    if "error" in last or not all(math.isfinite(value) for value in last.get("log_probs", [math.nan])):
        raise SystemExit(f"the engine computes nothing of use: {last}")


def main() -> None:
    """Load the engine, say so, serve."""
    arguments = parse_arguments(__doc__, offers_check=True)
    if arguments.check:
        check(arguments.engine_dir)
        return
    # SIGKILL: the pipeline cannot be interrupted, and there is nothing to put in order.
    with connected(arguments, death_signal=signal.SIGKILL) as connection:
        try:
            engine = Engine(arguments.engine_dir, arguments.options)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise say_unloadable(connection, arguments.engine_dir, error) from error
        say_ready(connection, engine)
        Server(connection, engine).run()


if __name__ == "__main__":
    main()
