"""Runs what is not finished yet: bounded, retried with growing pauses, every answer on disk before the next."""

from __future__ import annotations

import asyncio
import collections
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trtbuild.console import log
from trtbuild.errors import LaunchError, TrtBuildError
from trtclient.batch.items import Entry, Input, Item
from trtclient.batch.journal import Journal
from trtclient.batch.scoring import interval, score
from trtclient.errors import RequestFailure
from trtclient.generation import Api, Piece

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


def pause_s(attempt: int, source: random.Random, retry_after_s: float | None = None) -> float:
    """Return how long to wait before attempt ``attempt + 1``: a random part of a doubling span, so that clients that
    were refused together do not come back together; never less than the server asked for."""
    span_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 16))
    return (retry_after_s or 0.0) + source.uniform(span_s / 4, span_s)


@dataclass(kw_only=True)
class Tally:
    """What one run did.

    Attributes:
        total: Requests of the input (of this shard).
        reused: Answered by an earlier run.
        answered: Answered by this one.
        failures: Failed for good in this run, by kind.
        retries: Attempts that were repeated, by kind.
        prompt_tokens: Of the answers of this run.
        completion_tokens: Of the answers of this run.
        elapsed_s: Of this run.
        scored: Answers with a reference, of all runs; None when no score was asked for.
        right: Those that are right.
    """

    total: int = 0
    reused: int = 0
    answered: int = 0
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    retries: collections.Counter[str] = field(default_factory=collections.Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    scored: int | None = None
    right: int = 0
    is_interrupted: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return the summary for programs."""
        values: dict[str, object] = {**vars(self), "failures": dict(self.failures), "retries": dict(self.retries)}
        if self.scored is not None:
            low, high = interval(self.right, self.scored)
            values["accuracy"] = {"share": self.right / self.scored if self.scored else 0.0, "low": low, "high": high}
        return values

    def as_text(self) -> str:
        """Return the summary for people."""
        failed = sum(self.failures.values())
        rate = self.completion_tokens / self.elapsed_s if self.elapsed_s else 0.0
        left = self.total - self.reused - self.answered - failed
        lines = [
            f"{self.reused + self.answered} of {self.total} requests answered"
            + (f", {self.reused} of them by an earlier run" if self.reused else "")
            + (f", {left} left" if left else ""),
            f"  {self.prompt_tokens} prompt and {self.completion_tokens} output tokens in {self.elapsed_s:.1f} s "
            f"({rate:.1f} output tokens/s)",
        ]
        if self.retries:
            lines.append("  repeated: " + ", ".join(f"{kind} {count}" for kind, count in self.retries.most_common()))
        if self.failures:
            lines.append("  failed: " + ", ".join(f"{kind} {count}" for kind, count in self.failures.most_common()))
        if self.scored is not None:
            low, high = interval(self.right, self.scored)
            share = self.right / self.scored if self.scored else 0.0
            lines.append(f"  right: {self.right} of {self.scored} ({share:.1%}; 95% interval {low:.1%} to {high:.1%})")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run.

    Attributes:
        concurrency: Most requests open at once.
        timeout_s: For one attempt.
        retry_for_s: How long one request is repeated when the server is overloaded, away or silent.
        stop_after: End the run when this many requests in a row could not connect, each for ``retry_for_s``; 0: never.
        score: How answers are compared with references; empty: not at all.
    """

    concurrency: int = 32
    timeout_s: float = 600.0
    retry_for_s: float = 600.0
    stop_after: int = 3
    score: str = ""


def execute(connect: Callable[[], Api], source: Input, journal: Journal, settings: Settings) -> Tally:
    """Answer what is not answered yet and write the result; return what was done.

    Ctrl-C and SIGTERM end it early: what is finished stays in the journal, and the same command goes on from there.

    Raises:
        LaunchError: The server does not know the model, or is not there.
    """
    tally = Tally(total=len(source.items))
    pending = [item for item in source.items if not is_answered(item, journal)]
    tally.reused = tally.total - len(pending)
    if pending:
        asyncio.run(_Runner(connect, source, journal, settings, tally).run(pending))
    if not tally.is_interrupted:
        journal.publish(_rows(source, journal, settings.score, tally))
    return tally


def is_answered(item: Item, journal: Journal) -> bool:
    """Return whether this very question has an answer; a failure is tried again."""
    found = journal.records.get(item.id)
    return found is not None and found.is_ok and found.key == item.key


def _rows(source: Input, journal: Journal, how: str, tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield the records in the order of the input, scored."""
    if how:
        tally.scored = 0
    for item in source.items:
        row = journal.read(item.id)
        row.pop("is_right", None)
        if how:
            entry = source.read(item)
            if entry.references:
                tally.scored = (tally.scored or 0) + 1
                row["is_right"] = "error" not in row and score(how, row["text"], entry.references)
                tally.right += row["is_right"]
        yield row


class _Runner:
    def __init__(
        self, connect: Callable[[], Api], source: Input, journal: Journal, settings: Settings, tally: Tally
    ) -> None:
        self._connect = connect
        self._source = source
        self._journal = journal
        self._settings = settings
        self._tally = tally
        self._unconnected = 0  # requests in a row that failed for good for want of a connection
        self._random = random.Random()  # noqa: S311 - spreads retries, hides nothing

    async def run(self, pending: list[Item]) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        self._api = self._connect()
        items = iter(pending)
        try:
            with log.get().progress("batch", "answering", total=self._tally.total, unit="steps") as self._progress:
                self._progress.resume_at(self._tally.reused)
                async with asyncio.TaskGroup() as workers:
                    tasks = [
                        workers.create_task(self._work(items))
                        for _ in range(min(self._settings.concurrency, len(pending)))
                    ]
                    for number in (signal.SIGINT, signal.SIGTERM):
                        loop.add_signal_handler(number, self._interrupt, tasks)
        except* TrtBuildError as group:
            raise group.exceptions[0] from None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await self._api.close()
            self._tally.elapsed_s = loop.time() - started_s

    def _interrupt(self, tasks: list[asyncio.Task[None]]) -> None:
        self._tally.is_interrupted = True
        for task in tasks:
            task.cancel()

    async def _work(self, items: Iterator[Item]) -> None:
        """Take one request after the other until there is none."""
        for item in items:
            entry = self._source.read(item)
            try:
                row = await self._answer(entry)
            except RequestFailure as failure:
                if failure.kind == "not_found":
                    raise LaunchError(failure.message, hint=failure.hint) from None
                row = {"error": {"kind": failure.kind, "message": failure.message}}
            await self._journal.append({"id": item.id, "key": item.key, **row})
            self._count(row)
            self._stop_if_nobody_is_there(row)

    def _stop_if_nobody_is_there(self, row: dict[str, Any]) -> None:
        """End the run when the server stays away: every further request would only wait for its turn to fail.

        Raises:
            LaunchError: It does.
        """
        error = row.get("error", {})
        self._unconnected = self._unconnected + 1 if error.get("kind") == "connect" else 0
        if self._settings.stop_after and self._unconnected >= self._settings.stop_after:
            left = self._tally.total - self._tally.reused - self._tally.answered
            raise LaunchError(
                f"{self._unconnected} requests in a row could not connect for {self._settings.retry_for_s:g} s each "
                f"({error['message']}); {left} of {self._tally.total} are not answered",
                hint="start the server, then run the same command again: answers are kept and only the rest is asked; "
                "--stop-after 0 goes on without a server",
            )

    def _count(self, row: dict[str, Any]) -> None:
        """Count a record; it is on disk by now."""
        if "error" in row:
            self._tally.failures[row["error"]["kind"]] += 1
        else:
            self._tally.answered += 1
            self._tally.prompt_tokens += row["prompt_tokens"]
            self._tally.completion_tokens += row["completion_tokens"]
        self._progress.advance(1)

    async def _answer(self, entry: Entry) -> dict[str, Any]:
        """Return the answer, after as many attempts as it takes.

        Raises:
            RequestFailure: It failed for good, or for too long.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._settings.retry_for_s
        attempt = 1
        while True:
            try:
                return {**await self._attempt(entry), "attempts": attempt}
            except RequestFailure as failure:
                wait_s = pause_s(attempt, self._random, failure.retry_after_s)
                if not failure.is_retryable or loop.time() + wait_s > deadline_s:
                    raise
                if not self._tally.retries[failure.kind]:
                    log.get().warning("retry", f"{failure.kind}: {failure.message}; repeating such requests")
                self._tally.retries[failure.kind] += 1
            attempt += 1
            await asyncio.sleep(wait_s)

    async def _attempt(self, entry: Entry) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        pieces: list[Piece] = []
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._api.generate(entry.request, pieces.append)
        except TimeoutError:
            raise RequestFailure("timeout", f"no whole answer within {self._settings.timeout_s:g} s") from None
        counted = [piece.completion_tokens for piece in pieces if piece.completion_tokens is not None]
        prompt = [piece.prompt_tokens for piece in pieces if piece.prompt_tokens is not None]
        return {
            "text": "".join(piece.text for piece in pieces),
            "finish_reason": next((piece.finish_reason for piece in reversed(pieces) if piece.finish_reason), ""),
            "prompt_tokens": prompt[-1] if prompt else 0,
            "completion_tokens": counted[-1] if counted else sum(bool(piece.text) for piece in pieces),
            "elapsed_s": round(loop.time() - started_s, 4),
        }
