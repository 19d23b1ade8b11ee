"""The engine process of the cpu backend: OpenVINO GenAI's continuous batching behind a socket.

It decides which requests are computed together and when a request is over. It does not know Triton: the model starts
it, sends requests and passes tokens on. It lives in a process of its own because a step of the pipeline holds
Python's global lock for as long as it computes, which would freeze whoever has to answer the server.

Ends when its parent dies, when the socket is closed, or on SIGTERM. Idle, it sleeps in the kernel.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from engine_wire import Reader, encode

BLOCK_TOKENS = 32
"""Tokens of one key/value block on CPUs. Source: openvino.genai, cache_orchestrator / plugin block size for CPU."""

_STATS_PERIOD_S = 0.25
_PR_SET_PDEATHSIG = 1


class RequestError(Exception):
    """What is wrong with one request, for the client who sent it."""


@dataclass
class Request:
    """One request from submission to its last token.

    Attributes:
        options: What the model sent, see ``model.py``.
        tokens: Generated so far, including a possible stop sequence, never ``end_id``.
        blocks: Key/value blocks it may need at its longest.
    """

    key: int
    options: dict[str, Any]
    prompt: list[int]
    blocks: int
    handle: Any = None
    tokens: list[int] = field(default_factory=list)
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0


class Engine:
    """The pipeline and the requests in it."""

    def __init__(self, engine_dir: Path, options: dict[str, Any]) -> None:
        config = json.loads((engine_dir / "config.json").read_text(encoding="utf-8"))
        limits, runtime = config["build_config"], config["runtime"]
        self.vocab_size = int(config["pretrained_config"]["vocab_size"])
        self.max_input_len, self.max_seq_len = int(limits["max_input_len"]), int(limits["max_seq_len"])
        self.slots = int(options.get("max_batch_size") or limits["max_batch_size"])
        self.total_blocks = int(runtime["kv_cache_tokens"]) // BLOCK_TOKENS
        self.evicts = options.get("batch_scheduler_policy") == "max_utilization"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = self.slots
        scheduler.max_num_batched_tokens = max(int(limits["max_num_tokens"]), self.slots)
        if not options.get("enable_chunked_context", True):
            scheduler.dynamic_split_fuse = False
            scheduler.max_num_batched_tokens = max(scheduler.max_num_batched_tokens, self.max_input_len)
        scheduler.num_kv_blocks = self.total_blocks
        scheduler.enable_prefix_caching = bool(options.get("enable_kv_cache_reuse", True))
        properties = dict(runtime["properties"])
        if options.get("inference_num_threads"):
            properties["INFERENCE_NUM_THREADS"] = int(options["inference_num_threads"])
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(engine_dir), scheduler, "CPU", properties)
        self.waiting: collections.deque[Request] = collections.deque()
        self.active: dict[int, Request] = {}
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
        prompt, new = options["input_ids"], options["request_output_len"]
        if not prompt:
            raise RequestError("the prompt is empty: input_ids has no tokens")
        if len(prompt) > self.max_input_len:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, the engine was built for at most {self.max_input_len} "
                "(max_input_len)"
            )
        if len(prompt) + new > self.max_seq_len:
            raise RequestError(
                f"prompt and output need {len(prompt)} + {new} = {len(prompt) + new} tokens, the engine was built for "
                f"at most {self.max_seq_len} (max_seq_len)"
            )
        outside = next((token for token in prompt if not 0 <= token < self.vocab_size), None)
        if outside is not None:
            raise RequestError(f"input_ids has token {outside}, the vocabulary is 0..{self.vocab_size - 1}")
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
            request.handle.cancel()
            return self._last(request, [], [], "cancelled")
        for request in self.waiting:
            if request.key == key:
                self.waiting.remove(request)
                return self._last(request, [], [], "cancelled")
        return None

    def _admit(self) -> list[dict[str, Any]]:
        """Move waiting requests to free slots, in order; return events of those the pipeline refuses."""
        events = []
        while self.waiting and len(self.active) < self.slots:
            request = self.waiting[0]
            reserved = sum(other.blocks for other in self.active.values())
            if not self.evicts and self.active and reserved + request.blocks > self.total_blocks:
                break  # guaranteed_no_evict: whoever starts can finish
            self.waiting.popleft()
            request.first_scheduled_ns = time.monotonic_ns()
            self._next_id += 1
            prompt = openvino.Tensor(np.array([request.prompt], np.int64))
            try:
                request.handle = self.pipeline.add_request(self._next_id, prompt, _generation_config(request.options))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                events.append(
                    {"key": request.key, "error": f"the engine refused the request: {reason}", "invalid": True}
                )
                continue
            self.active[request.key] = request
        return events

    # -- computing ----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Something is to be computed, or a cancelled request is to be cleared out of the pipeline."""
        return bool(self.waiting or self.active) or self.pipeline.has_non_finished_requests()

    def step(self) -> list[dict[str, Any]]:
        """Compute one step for everything that is running; return what happened."""
        events = self._admit()
        if self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        now = time.monotonic_ns()
        for request in list(self.active.values()):
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
        finished = status != openvino_genai.GenerationStatus.RUNNING
        if not tokens and not finished:
            return
        fresh, reason = self._accept(request, tokens)
        if fresh:
            request.first_token_ns = request.first_token_ns or now
            request.last_token_ns = now
        if reason is None and finished:
            reason = "length" if len(request.tokens) >= request.options["request_output_len"] else "lost"
        fresh_log_probs = log_probs[: len(fresh)] if request.options.get("log_probs") else []
        if reason is None:
            event: dict[str, Any] = {"key": request.key, "tokens": fresh}
            if fresh_log_probs:
                event["log_probs"] = fresh_log_probs
            yield event
            return
        del self.active[request.key]
        if not finished:
            request.handle.cancel()
        if reason == "lost":
            message = (
                f"the engine gave up after {len(request.tokens)} tokens ({status.name}): its key/value pool is full"
            )
            yield {"key": request.key, "error": message}
        else:
            yield self._last(request, fresh, fresh_log_probs, reason)

    def _accept(self, request: Request, tokens: list[int]) -> tuple[list[int], str | None]:
        """Add new tokens up to where the request ends; return the accepted ones and why it ends, if it does."""
        end_id, stops = request.options.get("end_id"), request.options.get("stop_words", [])
        fresh: list[int] = []
        for token in tokens:
            if token == end_id:
                return fresh, "stop"
            request.tokens.append(token)
            fresh.append(token)
            is_stop = any(request.tokens[-len(stop) :] == stop for stop in stops)
            if is_stop and len(request.tokens) >= request.options.get("min_tokens", 0):
                return fresh, "stop"
            if len(request.tokens) >= request.options["request_output_len"]:
                return fresh, "length"
        return fresh, None

    @staticmethod
    def _last(request: Request, tokens: list[int], log_probs: list[float], reason: str) -> dict[str, Any]:
        times = [request.first_scheduled_ns, request.first_token_ns, request.last_token_ns]
        event: dict[str, Any] = {"key": request.key, "tokens": tokens, "end": reason, "times": times}
        if log_probs:
            event["log_probs"] = log_probs
        return event

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


def _generation_config(options: dict[str, Any]) -> openvino_genai.GenerationConfig:
    """Return OpenVINO's options for a request.

    OpenVINO gives its stop tokens probability 0 for the first ``min_new_tokens``. That is what ``min_tokens`` means,
    and, over the whole length, what forbidden tokens need; then the end is found by ``_accept`` alone.
    Source: openvino.genai 2026.4, src/cpp/src/sampling (EOSPenaltyTransform).
    """
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = options["request_output_len"]
    banned, end_id = set(options.get("bad_tokens", ())), options.get("end_id")
    config.ignore_eos = bool(banned) or end_id is None
    if banned:
        config.stop_token_ids = banned
        config.min_new_tokens = options["request_output_len"]
    else:
        config.min_new_tokens = options.get("min_tokens", 0) if end_id is not None else 0
    # An end id must be set; which one does not matter where it is ignored.
    config.set_eos_token_id(min(banned) if banned else end_id or 0)
    config.repetition_penalty = options.get("repetition_penalty", 1.0)
    config.presence_penalty = options.get("presence_penalty", 0.0)
    config.frequency_penalty = options.get("frequency_penalty", 0.0)
    config.logprobs = 1 if options.get("log_probs") else 0
    if options.get("sample"):
        config.do_sample = True
        config.temperature = options["temperature"]
        config.top_p = options["top_p"]
        if options["top_k"]:
            config.top_k = options["top_k"]
        config.rng_seed = options["seed"]
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


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies, and leave if it is dead already.

    Source: prctl(2), PR_SET_PDEATHSIG; it follows the thread that started us, which lives as long as the model.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(1)


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine_dir", type=Path)
    parser.add_argument("--check", action="store_true", help="load the engine, compute one token and leave")
    parser.add_argument("--socket", type=int, help="inherited file descriptor")
    parser.add_argument("--parent", type=int, help="process id of the parent")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON")
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.engine_dir)
        return
    _die_with(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends us in order
    connection = socket.socket(fileno=arguments.socket)
    try:
        try:
            engine = Engine(arguments.engine_dir, arguments.options)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            connection.sendall(encode({"fatal": f"{arguments.engine_dir} cannot be loaded: {error}"}))
            raise SystemExit(1) from error
        limits = {"slots": engine.slots, "vocab_size": engine.vocab_size, "stats": engine.stats()}
        connection.sendall(encode({"ready": limits}))
        Server(connection, engine).run()
    except (BrokenPipeError, ConnectionResetError):
        return  # the model is gone
    finally:
        connection.close()


if __name__ == "__main__":
    main()
