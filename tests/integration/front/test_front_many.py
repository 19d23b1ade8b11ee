"""Ten thousand requests of every fate through a real tritonserver: nothing is left behind, and every one is counted."""

from __future__ import annotations

import collections
import http.client
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from trtbuild.repository import ServedModel, write_repository

pytestmark = pytest.mark.integration

REQUESTS = 10_000
CLIENTS = 40
SLOTS, LINE = 32, 2
FAILING = "<bad>"  # the stand-in engine refuses this token
OUTCOMES = ("ok", "cancelled", "failed", "invalid", "rejected")


class Client:
    """Sends its share of the requests over one connection, and tells how each ended as far as a client can know."""

    def __init__(self, server: RunningServer, number: int) -> None:
        self._server, self._random = server, random.Random(number)
        self._connection = self._connect()
        self.seen: collections.Counter[str] = collections.Counter()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self._server.url).netloc, timeout=60)

    def run(self, count: int) -> collections.Counter[str]:
        for _ in range(count):
            fate = self._random.choices(["answer", "fail", "invalid", "leave"], [80, 8, 8, 4])[0]
            if fate == "leave":
                self._leave()
            else:
                self._ask(fate)
        self._connection.close()
        return self.seen

    def _ask(self, fate: str) -> None:
        body: dict[str, object] = {"text_input": "some words", "max_tokens": self._random.randint(1, 4)}
        body |= {"fail": {"text_input": FAILING}, "invalid": {"max_tokens": 0}}.get(fate, {})
        self._connection.request("POST", "/v2/models/chat/generate", json.dumps(body))
        response = self._connection.getresponse()
        text = response.read().decode()
        if "the queue is full" in text:
            self.seen["rejected"] += 1
        else:
            assert (response.status == 200) == (fate == "answer"), text
            self.seen[{"answer": "ok", "fail": "failed"}.get(fate, fate)] += 1

    def _leave(self) -> None:
        """Ask for a long answer and hang up, at once or after the first piece."""
        connection = self._connect()
        body = {"text_input": "some words", "max_tokens": 250, "stream": True}
        connection.request("POST", "/v2/models/chat/generate_stream", json.dumps(body))
        if self._random.random() < 0.5:
            connection.getresponse().read(1)
        connection.sock and connection.sock.close()
        connection.close()
        self.seen["left"] += 1


def test_ten_thousand_requests_leave_nothing_behind(tmp_path: Path, front_tokenizer: Path) -> None:
    record = tmp_path / "engine.jsonl"
    model = ServedModel(
        served_name="chat",
        engine_template=standin(SLOTS, 0.002, record),
        engine_info=engine_info(SLOTS),
        tokenizer_dir=front_tokenizer,
        max_queue_size=LINE,
    )
    with serve(write_repository(tmp_path / "repository", [model]), tmp_path, record) as server:
        with ThreadPoolExecutor(CLIENTS) as pool:
            parts = pool.map(lambda number: Client(server, number).run(REQUESTS // CLIENTS), range(CLIENTS))
            seen = sum(parts, collections.Counter[str]())
        assert sum(seen.values()) == REQUESTS and min(seen[fate] for fate in (*OUTCOMES[2:], "ok", "left")) > 0

        gauges = ("trtbuild_requests_waiting", "trtbuild_requests_running")
        server.eventually(lambda: server.metrics(*gauges) == [0, 0], "nothing waits and nothing runs")

        def counted() -> collections.Counter[str]:
            values = [int(server.metric("trtbuild_requests_total", outcome=outcome)) for outcome in OUTCOMES]
            return collections.Counter(dict(zip(OUTCOMES, values, strict=True)))

        # Who leaves at once may never have arrived, may be refused, or may have had its whole answer sent.
        server.eventually(lambda: counted()["failed"] == seen["failed"], "failures are counted")
        found = counted()
        assert found["invalid"] == seen["invalid"]
        extra = found - seen
        assert seen - found == collections.Counter({"left": seen["left"]})
        assert sum(extra.values()) <= seen["left"] and extra["cancelled"] > 0
        queue_s, compute_s = server.metrics(
            "trtbuild_request_queue_seconds_total", "trtbuild_request_compute_seconds_total"
        )
        assert queue_s > 0 and compute_s > 0
        assert server.generate(text_input="abc", max_tokens=2)["completion_tokens"] == 2
        assert server.metrics(*gauges) == [0, 0]
