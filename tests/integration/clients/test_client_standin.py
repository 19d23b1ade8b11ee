"""The clients against scripted servers: what a real model server cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients.standin import Ask, StandIn
from trtclient import apis
from trtclient.cli import run
from trtclient.errors import RequestFailure
from trtclient.generation import Generation, Piece
from trtclient.load.schedule import open_loop
from trtclient.load.sender import RunState, Sender
from trtclient.load.stats import summarize
from trtclient.values import Goal, parse_rate

pytestmark = pytest.mark.integration
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


def trtclient(*arguments: str, code: int = 0) -> Done:
    """Run the command in this process: what it says and returns is the same, and it starts at once."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        got = run(list(arguments))
    assert got == code, err.getvalue()
    return Done(out.getvalue(), err.getvalue())


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "trtclient", *arguments], text=True, **options)


def generate(server: StandIn, *, name: str = "", request: Generation | None = None) -> list[Piece]:
    async def ask() -> list[Piece]:
        pieces: list[Piece] = []
        api = apis.connect(f"{server.url}/v1" if name else server.url, "m", name=name)
        try:
            await api.generate(request or Generation(text="x"), pieces.append)
        finally:
            await api.close()
        return pieces

    return asyncio.run(ask())


# -- coordinated omission ---------------------------------------------------------------------------------------------

STALL_S = 1.0


def _stalling(loop_stall: threading.Event) -> Any:
    """A server that handles one request at a time and hangs once, in the middle of the run."""
    gate = asyncio.Lock()

    async def answer(ask: Ask) -> None:
        async with gate:
            if not loop_stall.is_set() and ask.number >= 10:
                loop_stall.set()
                await asyncio.sleep(STALL_S)
            await ask.stream("a", "b")

    return answer


def _open_run(server: StandIn, **options: Any) -> RunState:
    async def main() -> RunState:
        api = apis.connect(server.url, "m")
        sender = Sender(api, lambda arrival: Generation(text=str(arrival.index)), **options)
        try:
            return await sender.run_open(open_loop(parse_rate("20", 2.0), "constant", 0))
        finally:
            await api.close()

    return asyncio.run(main())


@pytest.mark.parametrize("limit", [pytest.param(None, id="no-limit"), pytest.param(1, id="one-connection")])
def test_a_stall_shows_in_every_request_that_was_due_while_it_lasted(limit: int | None) -> None:
    """Latency counts from the due time, whatever held a request up; not even a limit on open requests hides it."""
    with StandIn(_stalling(threading.Event())) as server:
        state = _open_run(server, max_in_flight=limit)
    assert [round(record.due_s * 20) for record in state.records] == list(range(40)), "every request was sent and kept"
    assert all(record.is_ok for record in state.records)
    # The server begins to hang no earlier than request 10 was due, and hangs for STALL_S: whoever is due d seconds
    # after that waits for the rest of it, at least.
    begins_s = state.records[10].due_s
    due_inside = [record for record in state.records if begins_s <= record.due_s < begins_s + STALL_S - 0.05]
    assert len(due_inside) == 19
    for record in due_inside:
        assert record.ttft_s >= STALL_S - (record.due_s - begins_s) - 0.02
    assert summarize(state, goal=Goal()).ttft.quantiles["p90"] >= STALL_S * 0.7, "the report shows it"


def test_a_closed_loop_hides_the_same_stall() -> None:
    """Why the open loop is the default of the examples: here the stall is one slow request among fast ones."""

    async def main(url: str) -> RunState:
        api = apis.connect(url, "m")
        try:
            return await Sender(api, lambda arrival: Generation(text="x")).run_closed(1, limit=40, duration_s=None)
        finally:
            await api.close()

    with StandIn(_stalling(threading.Event())) as server:
        state = asyncio.run(main(server.url))
    assert len(state.records) == 40
    assert max(record.ttft_s for record in state.records) >= STALL_S - 0.02
    assert min(r.due_s for r in state.records[11:]) >= STALL_S - 0.02, "nothing was even due while the server hung"


def test_a_stall_of_the_client_itself_counts_too() -> None:
    """This very process stops for a while: the requests that were due meanwhile were late, and say so."""

    async def quick(ask: Ask) -> None:
        await ask.stream("a")

    async def main(url: str) -> tuple[RunState, float]:
        api = apis.connect(url, "m")
        sender = Sender(api, lambda arrival: Generation(text="x"))
        blocked: list[float] = []

        def block() -> None:
            blocked.append(sender.now_s())
            time.sleep(0.5)

        asyncio.get_running_loop().call_later(0.3, block)
        try:
            return await sender.run_open(open_loop(parse_rate("20", 1.5), "constant", 0)), blocked[0]
        finally:
            await api.close()

    with StandIn(quick) as server:
        state, blocked_s = asyncio.run(main(server.url))
    assert len(state.records) == 30
    inside = [record for record in state.records if blocked_s < record.due_s < blocked_s + 0.45]
    assert len(inside) >= 8
    for record in inside:
        rest_s = blocked_s + 0.5 - record.due_s
        assert record.lag_s >= rest_s - 0.02
        assert record.ttft_s >= rest_s - 0.02


# -- scale ------------------------------------------------------------------------------------------------------------


def test_one_process_holds_a_thousand_streams(tmp_path: Path) -> None:
    """No answer ends before a thousand have begun."""
    count = 1000
    arrived = 0
    all_begun = asyncio.Event()

    async def answer(ask: Ask) -> None:
        nonlocal arrived
        await ask.start()
        await ask.event({"text_output": "a"})
        arrived += 1
        if arrived == count:
            all_begun.set()
        await all_begun.wait()
        await ask.event({"text_output": "b", "finish_reason": "length", "prompt_tokens": 1, "completion_tokens": 2})
        await ask.end()

    prompts = tmp_path / "p.txt"
    prompts.write_text("hello\n")
    with StandIn(answer) as server:
        child = start(
            "load", server.url, "m", "--concurrency", str(count), "--requests", str(count), "--prompts", str(prompts),
            "--format", "json", stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode == 0
        assert server.peak == count
    summary = json.loads(out)["summary"]
    assert (summary["ok"], summary["peak_in_flight"], summary["completion_tokens"]) == (count, count, 2 * count)


# -- failures and protocols -------------------------------------------------------------------------------------------


async def _break_off(ask: Ask) -> None:
    await ask.start()
    await ask.event({"text_output": "a"})


async def _error_in_stream(ask: Ask) -> None:
    await ask.start()
    await ask.event({"text_output": "a"})
    await ask.event({"error": "UNAVAILABLE: the model is shutting down"})
    await ask.end()


async def _busy(ask: Ask) -> None:
    await ask.reply(503, {"error": "later"}, headers="Retry-After: 3\r\n")


async def _not_json(ask: Ask) -> None:
    await ask.start()
    await ask.event("<html>")
    await ask.end()


async def _empty(ask: Ask) -> None:
    await ask.start()
    await ask.end()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        pytest.param(_break_off, "disconnected", "before its response ended", id="broken-off"),
        pytest.param(_error_in_stream, "overloaded", "shutting down", id="error-in-stream"),
        pytest.param(_busy, "overloaded", "HTTP 503: later", id="503"),
        pytest.param(_not_json, "protocol", "expected a JSON object", id="not-json"),
        pytest.param(_empty, "protocol", "without a response", id="empty"),
    ],
)
def test_failures(answer: Any, kind: str, words: str) -> None:
    with StandIn(answer) as server, pytest.raises(RequestFailure, match=words) as caught:
        generate(server)
    assert caught.value.kind == kind


def test_every_failure_is_in_the_report(tmp_path: Path) -> None:
    answers = [_break_off, _busy, lambda ask: ask.stream("a"), lambda ask: ask.gone()]

    async def answer(ask: Ask) -> None:
        await answers[int(ask.body["text_input"])](ask)

    prompts, rows, html = (tmp_path / name for name in ("p.txt", "r.csv", "r.html"))
    prompts.write_text("0\n1\n2\n3\n")
    with StandIn(answer) as server:
        done = trtclient(
            "load", server.url, "m", "--rate", "40", "--arrival", "constant", "--requests", "12", "--timeout", "3s",
            "--prompts", str(prompts), "--csv", str(rows), "--html", str(html), "--format", "json", code=10,
        )  # fmt: skip
    summary = json.loads(done.stdout)["summary"]
    assert summary["failures"] == {"disconnected": 3, "overloaded": 3, "timeout": 3}
    assert (summary["requests"], summary["ok"]) == (12, 3)
    assert [line.split(",")[13] for line in rows.read_text().splitlines()[1:5]] == [
        "disconnected", "overloaded", "", "timeout",
    ]  # fmt: skip
    assert "no whole answer 3 s after it was due" in html.read_text()


def test_the_share_that_must_be_good_decides_the_exit_code(tmp_path: Path) -> None:
    async def answer(ask: Ask) -> None:
        await (ask.stream("a") if ask.number % 2 else _busy(ask))

    prompts = tmp_path / "p.txt"
    prompts.write_text("x\n")
    with StandIn(answer) as server:
        for share, code in (("0.5", 0), ("0.6", 10)):
            trtclient("load", server.url, "m", "--concurrency", "1", "--requests", "10", "--prompts", str(prompts),
                      "--fail-under", share, code=code)  # fmt: skip


def test_an_interrupted_run_reports_what_it_saw(tmp_path: Path) -> None:
    """Ctrl-C ends the run and, on the server, the requests that were open."""

    async def answer(ask: Ask) -> None:
        await ask.start()
        await ask.event({"text_output": "a"})
        await ask.gone()
        gone.append(ask.number)

    gone: list[int] = []
    prompts = tmp_path / "p.txt"
    prompts.write_text("x\n")
    with StandIn(answer) as server:
        child = start("load", server.url, "m", "--rate", "50", "--arrival", "constant", "--duration", "10m",
                      "--prompts", str(prompts), "--format", "json", stdout=subprocess.PIPE)  # fmt: skip
        _eventually(lambda: server.open >= 20, "twenty are open")
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode == 130
        _eventually(lambda: server.open == 0, "the server saw all of them go")
    summary = json.loads(out)["summary"]
    assert summary["is_interrupted"]
    assert summary["failures"]["cancelled"] == summary["requests"] == len(gone) >= 20


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", ["openai", "openai-chat"])
def test_openai_style_servers(name: str, is_stream: bool) -> None:
    is_chat = name == "openai-chat"

    async def answer(ask: Ask) -> None:
        usage = {"prompt_tokens": 4, "completion_tokens": 2}
        if not ask.body["stream"]:
            choice = {"message": {"content": "ab"}} if is_chat else {"text": "ab"}
            await ask.reply(200, {"choices": [{**choice, "finish_reason": "stop"}], "usage": usage})
            return
        await ask.start()
        for text, reason in (("a", None), ("b", "stop")):
            choice = {"delta": {"content": text}} if is_chat else {"text": text}
            await ask.event({"choices": [{**choice, "finish_reason": reason}]})
        await ask.event({"choices": [], "usage": usage})
        await ask.event("[DONE]")
        await ask.end()

    with StandIn(answer) as server:
        pieces = generate(server, name=name, request=Generation(text="x", stream=is_stream))
    assert server.asks[0].path == ("/v1/chat/completions" if is_chat else "/v1/completions")
    assert "".join(piece.text for piece in pieces) == "ab"
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    assert [p.completion_tokens for p in pieces if p.completion_tokens is not None] == [2]


def test_an_openai_stream_without_its_end_is_a_failure() -> None:
    async def answer(ask: Ask) -> None:
        await ask.start()
        await ask.event({"choices": [{"text": "a"}]})
        await ask.end()

    with StandIn(answer) as server, pytest.raises(RequestFailure, match="DONE"):
        generate(server, name="openai")


def test_a_server_without_openai_s_api_is_named_as_such() -> None:
    """Triton answers any path it does not know so; the model's name is not to blame."""

    async def answer(ask: Ask) -> None:
        await ask.reply(404, {"error": "Not Found"})

    with (
        StandIn(answer) as server,
        pytest.raises(RequestFailure, match="has no OpenAI-style API: .*/v1/chat") as caught,
    ):
        generate(server, name="openai-chat")
    assert caught.value.kind == "protocol" and "without /v1" in caught.value.hint

    async def unknown_model(ask: Ask) -> None:
        await ask.reply(404, {"error": {"message": "The model `m` does not exist"}})

    with StandIn(unknown_model) as server, pytest.raises(RequestFailure, match="does not exist") as caught:
        generate(server, name="openai-chat")
    assert caught.value.kind == "not_found"


def test_a_token_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(ask: Ask) -> None:
        await ask.stream("a")

    prompts, report = tmp_path / "p.txt", tmp_path / "r.json"
    prompts.write_text("x\n")
    monkeypatch.setenv("TRTCLIENT_TOKEN", "s3cret")
    with StandIn(answer) as server:
        done = trtclient("load", server.url, "m", "--concurrency", "1", "--requests", "1", "--prompts", str(prompts),
                         "--json", str(report))  # fmt: skip
    assert server.asks[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in done.stdout + done.stderr + report.read_text()


# -- batch ------------------------------------------------------------------------------------------------------------


def _questions(path: Path, count: int) -> None:
    path.write_text(
        "".join(json.dumps({"id": f"q{i}", "text": str(i), "reference": str(i)}) + "\n" for i in range(count))
    )


def _echo(seen: list[str]) -> Any:
    async def answer(ask: Ask) -> None:
        seen.append(ask.body["text_input"])
        await ask.stream(ask.body["text_input"])

    return answer


def _batch(directory: Path, url: str, *more: str) -> list[str]:
    return [
        "batch",
        str(directory / "in.jsonl"),
        "-o",
        str(directory / "out.jsonl"),
        "--url",
        url,
        "--model",
        "m",
        *more,
    ]


def _ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_a_kill_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    """SIGKILL in the middle; the second run asks for the rest, and for nothing that was finished."""
    count, width = 60, 4
    _questions(tmp_path / "in.jsonl", count)
    first: list[str] = []
    hold = threading.Event()

    async def answer(ask: Ask) -> None:
        if len(first) >= 25 and not hold.is_set():
            await ask.start()
            await ask.gone()  # in flight until the client dies
            return
        await _echo(first)(ask)

    with StandIn(answer) as server:
        child = start(*_batch(tmp_path, server.url, "--concurrency", str(width)), stderr=subprocess.DEVNULL)
        journal = tmp_path / "out.jsonl.journal"
        _eventually(lambda: server.open >= width and len(first) >= 25, "requests are in flight")
        _eventually(lambda: journal.exists() and journal.read_bytes().count(b"\n") == len(first), "answers are kept")
        child.kill()
        assert child.wait() == -signal.SIGKILL
        kept = _ids(journal)
        assert sorted(kept) == sorted(f"q{text}" for text in first)
        assert not (tmp_path / "out.jsonl").exists()
        hold.set()
        before = list(first)
        done = trtclient(*_batch(tmp_path, server.url, "--score", "exact", "--format", "json"))
    assert sorted(int(text) for text in first) == list(range(count)), "no question was answered twice"
    assert _ids(tmp_path / "out.jsonl") == [f"q{i}" for i in range(count)], "in the order of the input"
    summary = json.loads(done.stdout)
    assert (summary["reused"], summary["answered"]) == (len(before), count - len(before))
    assert (summary["scored"], summary["right"]) == (count, count)
    assert not journal.exists()


def test_overload_is_waited_out(tmp_path: Path) -> None:
    _questions(tmp_path / "in.jsonl", 6)
    seen: list[str] = []
    refusals = 5

    async def answer(ask: Ask) -> None:
        if ask.number < refusals:
            await ask.reply(400, {"error": "UNAVAILABLE: the queue is full; send the request again later"})
        else:
            await _echo(seen)(ask)

    with StandIn(answer) as server:
        done = trtclient(*_batch(tmp_path, server.url, "--concurrency", "3", "--format", "json"))
    summary = json.loads(done.stdout)
    assert (summary["answered"], summary["failures"], summary["retries"]) == (6, {}, {"overloaded": refusals})
    assert done.stderr.count("the queue is full") == 1, "said once"
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum(row["attempts"] - 1 for row in rows) == refusals


def test_what_failed_for_good_is_recorded_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    _questions(tmp_path / "in.jsonl", 4)
    seen: list[str] = []
    is_fixed = threading.Event()

    async def answer(ask: Ask) -> None:
        if ask.body["text_input"] == "2" and not is_fixed.is_set():
            await ask.reply(400, {"error": "max_tokens: expected at most 8, got 256"})
        else:
            await _echo(seen)(ask)

    with StandIn(answer) as server:
        trtclient(*_batch(tmp_path, server.url), code=10)
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3"]
        assert rows[2]["error"] == {"kind": "invalid", "message": "HTTP 400: max_tokens: expected at most 8, got 256"}
        is_fixed.set()
        seen.clear()
        trtclient(*_batch(tmp_path, server.url))
        assert seen == ["2"]
        seen.clear()
        with (tmp_path / "in.jsonl").open("a") as file:
            file.write('{"id": "new", "text": "9"}\n')
        trtclient(*_batch(tmp_path, server.url))
        assert seen == ["9"], "a longer input costs its new lines only"
        seen.clear()
        trtclient(*_batch(tmp_path, server.url, "--max-tokens", "7"))
        assert len(seen) == 5, "another question is asked again"
    assert _ids(tmp_path / "out.jsonl") == ["q0", "q1", "q2", "q3", "new"]


def test_patience_ends(tmp_path: Path) -> None:
    _questions(tmp_path / "in.jsonl", 1)
    with StandIn(_busy) as server:
        done = trtclient(*_batch(tmp_path, server.url, "--retry-for", "0s", "--format", "json"), code=10)
    assert json.loads(done.stdout)["failures"] == {"overloaded": 1}


def test_a_batch_ends_when_no_server_answers_and_can_be_resumed(tmp_path: Path) -> None:
    _questions(tmp_path / "in.jsonl", 20)
    with StandIn(_busy) as gone:
        url = gone.url
    options = ("--retry-for", "0s", "--concurrency", "2")
    done = trtclient(*_batch(tmp_path, url, *options), code=9)
    assert "3 requests in a row could not connect" in done.stderr and "run the same command again" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    done = trtclient(*_batch(tmp_path, url, *options, "--stop-after", "0", "--format", "json"), code=10)
    assert json.loads(done.stdout)["failures"] == {"connect": 20}
    with StandIn(_echo([])) as server:
        trtclient(*_batch(tmp_path, server.url, *options))
    assert len(_ids(tmp_path / "out.jsonl")) == 20


def test_an_interrupted_batch_goes_on(tmp_path: Path) -> None:
    _questions(tmp_path / "in.jsonl", 10)
    seen: list[str] = []
    is_open = threading.Event()

    async def answer(ask: Ask) -> None:
        if len(seen) >= 3 and not is_open.is_set():
            await ask.gone()
        else:
            await _echo(seen)(ask)

    with StandIn(answer) as server:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = start(*_batch(tmp_path, server.url, "--concurrency", "2"), **pipes)
        journal = tmp_path / "out.jsonl.journal"
        _eventually(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3, "three are kept")
        child.send_signal(signal.SIGTERM)
        out, said = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode == 130
        assert "run the same command again" in said
        assert "left" in out
        is_open.set()
        trtclient(*_batch(tmp_path, server.url))
    assert sorted(int(text) for text in seen) == list(range(10))


def _eventually(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
