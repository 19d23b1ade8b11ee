"""OpenAI's API on a real server with a stand-in engine: faults and their statuses, ids, and the end of the server."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from tests.integration.front.openai_client import COMPLETIONS, Answer, Stream, ask, connect, get, send, stream
from tests.integration.front.test_front_drain import is_gone
from tests.integration.front.test_front_orphans import server_pid
from trtbuild.repository import Origin, ServedModel, write_repository

pytestmark = pytest.mark.integration
SLOTS, LINE = 4, 4
GAUGES = ("trtbuild_requests_waiting", "trtbuild_requests_running")
FAILING = "<bad>"  # the stand-in engine refuses this token


def _model(workspace: Path, tokenizer: Path, step_s: float, **fields: Any) -> ServedModel:
    return ServedModel(
        served_name="chat",
        engine_template=standin(SLOTS, step_s, workspace / "engine.jsonl"),
        engine_info=engine_info(SLOTS),
        tokenizer_dir=tokenizer,
        origin=Origin(model_id="org/Name", revision="f" * 40, engine_key="ab" * 32, built_at=1_700_000_000),
        **fields,
    )


@contextlib.contextmanager
def _serve(workspace: Path, tokenizer: Path, step_s: float, *arguments: str, **fields: Any) -> Iterator[RunningServer]:
    repository = write_repository(workspace / "repository", [_model(workspace, tokenizer, step_s, **fields)])
    with serve(repository, workspace, workspace / "engine.jsonl", *arguments) as running:
        running.eventually(lambda: get(running.openai, "/health/ready")[0] == 200, "the endpoint is ready")
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, front_tokenizer: Path) -> Iterator[RunningServer]:
    with _serve(tmp_path_factory.mktemp("openai"), front_tokenizer, 0.02, max_queue_size=LINE) as running:
        yield running


def test_the_model_says_where_it_comes_from(server: RunningServer) -> None:
    for path in ("/v1/models/chat", "/v1/models/org/Name"):
        status, text = get(server.openai, path)
        assert status == 200 and '"created":1700000000' in text and '"root":"org/Name"' in text
    for name in ("chat", "org/Name"):
        answer = ask(server.openai, COMPLETIONS, model=name, prompt="abc", max_tokens=2)
        assert (answer.status, answer.body["model"]) == (200, "chat")
        assert answer.body["system_fingerprint"] == f"fp_{'ab' * 6}"
    unknown = ask(server.openai, COMPLETIONS, model="other", prompt="abc", max_tokens=2)
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


def test_a_client_s_id_reaches_the_engine_and_comes_back(server: RunningServer) -> None:
    answer = ask(server.openai, COMPLETIONS, {"x-request-id": "order 17/b"}, prompt="abc", max_tokens=2)
    assert "x-request-id" in answer.headers
    named = ask(server.openai, COMPLETIONS, {"x-request-id": "order-17/b"}, prompt="abc", max_tokens=2)
    assert named.headers["x-request-id"] == "order-17/b"
    assert any(entry["id"].startswith("order-17_b-") for entry in server.records())


def test_a_fault_of_the_engine_is_no_fault_of_the_client(server: RunningServer) -> None:
    answer = ask(server.openai, COMPLETIONS, prompt=FAILING, max_tokens=2)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (500, "server_error", "engine_failed")
    assert "refuses this prompt" in answer.error["message"]
    # One of several answers fails: all do, and nothing is left behind.
    both = ask(server.openai, COMPLETIONS, prompt=["abc", FAILING], max_tokens=200)
    assert both.status == 500
    server.eventually(lambda: server.metrics(*GAUGES) == [0, 0], "nothing is left", 10)


def test_a_full_queue_is_429(server: RunningServer) -> None:
    with ThreadPoolExecutor(SLOTS + LINE) as pool:
        inside = [
            pool.submit(ask, server.openai, COMPLETIONS, prompt="abc", max_tokens=100) for _ in range(SLOTS + LINE)
        ]
        server.eventually(lambda: server.metrics(*GAUGES) == [LINE, SLOTS], "slots and line are full")
        refused = [ask(server.openai, COMPLETIONS, prompt="abc", **body) for body in ({}, {"stream": True}, {"n": 3})]
        answers = [each.result(60) for each in inside]
    for answer in refused:
        assert (answer.status, answer.error["type"], answer.error["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
    assert [answer.status for answer in answers] == [200] * (SLOTS + LINE)


def test_more_answers_than_ever_fit_are_refused_at_once(server: RunningServer) -> None:
    answer = ask(server.openai, COMPLETIONS, prompt="abc", max_tokens=1, n=SLOTS + LINE + 1)
    assert (answer.status, answer.error["param"]) == (400, "n")
    fits = ask(server.openai, COMPLETIONS, prompt="abc", max_tokens=1, n=SLOTS + LINE)
    assert len(fits.choices) == SLOTS + LINE


def test_one_slow_reader_is_nobody_else_s_trouble(server: RunningServer) -> None:
    slow = connect(server.openai)
    send(slow, COMPLETIONS, {"prompt": "abc", "max_tokens": 400, "stream": True})
    for _ in range(3):
        assert ask(server.openai, COMPLETIONS, prompt="abc", max_tokens=5).status == 200
    slow.close()
    server.eventually(lambda: server.metrics(*GAUGES) == [0, 0], "the engine is free again", 10)


def _drain(running: RunningServer, count: int, tokens: int) -> tuple[list[Stream], float]:
    """Start streams, end the server when ``SLOTS`` of them run, and return how all ended, and seconds to the end."""
    pid = server_pid(running.url.rpartition(":")[2])
    with ThreadPoolExecutor(count) as pool:
        streams = [
            pool.submit(stream, running.openai, COMPLETIONS, prompt="a b c", max_tokens=tokens) for _ in range(count)
        ]
        running.eventually(lambda: running.metrics(*GAUGES) == [count - SLOTS, SLOTS], "all are there")
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        found = [each.result(90) for each in streams]
    running.eventually(lambda: is_gone(pid), "the server ends", 60)
    return found, time.monotonic() - began


def test_streams_that_run_are_finished_when_the_server_ends(tmp_path: Path, front_tokenizer: Path) -> None:
    """The server sees no request at the front model: only the front model itself can wait for them."""
    with _serve(tmp_path, front_tokenizer, 0.02, "--exit-timeout-secs=30") as running:
        found, took_s = _drain(running, 10, 200)
        assert Counter(each.status for each in found) == {200: SLOTS, 503: 10 - SLOTS}
        for each in found:
            if each.status == 200:
                assert (each.finish_reason(), each.is_done, each.error) == ("length", True, "")
            else:
                assert "shutting down" in each.error
        assert took_s < 25, "it ended when the streams had, not with its timeout"
        assert "Exit timeout expired" not in running.log_path.read_text()


def test_streams_that_cannot_finish_hear_why(tmp_path: Path, front_tokenizer: Path) -> None:
    with _serve(tmp_path, front_tokenizer, 0.05, "--exit-timeout-secs=6") as running:
        found, _ = _drain(running, 6, 450)
        assert Counter(each.status for each in found) == {200: SLOTS, 503: 2}
        for each in found:
            assert "shutting down" in each.error and not each.is_done
            if each.status == 200:
                assert each.text() and "drain timeout" in each.error


def test_it_streams_where_triton_s_protocols_do_not(tmp_path: Path, front_tokenizer: Path) -> None:
    with _serve(tmp_path, front_tokenizer, 0.01, decoupled=False) as running:
        found = stream(running.openai, COMPLETIONS, prompt="a b c", max_tokens=20)
        assert (found.finish_reason(), found.is_done) == ("length", True) and len(found.events) > 3
        said = running.generate(text_input="a b c", max_tokens=20)["text_output"]
        assert found.text() == said


def test_new_requests_are_refused_while_it_ends(tmp_path: Path, front_tokenizer: Path) -> None:
    with _serve(tmp_path, front_tokenizer, 0.02, "--exit-timeout-secs=30") as running:
        pid = server_pid(running.url.rpartition(":")[2])
        refused: list[Answer] = []

        def knock() -> None:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not is_gone(pid):
                with contextlib.suppress(OSError):
                    answer = ask(running.openai, COMPLETIONS, prompt="a", max_tokens=1)
                    if answer.status != 200:
                        refused.append(answer)
                time.sleep(0.1)

        with ThreadPoolExecutor(1) as pool:
            running_stream = pool.submit(stream, running.openai, COMPLETIONS, prompt="a b c", max_tokens=250)
            running.eventually(lambda: running.metric(GAUGES[1]) == 1, "it runs")
            os.kill(pid, signal.SIGTERM)
            thread = threading.Thread(target=knock)
            thread.start()
            assert running_stream.result(60).is_done
            thread.join()
        assert refused and {answer.status for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
