"""Every status that a client may get, in which form, and what happens to its connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from trtbuild_http import jsontext
from trtbuild_http.errors import ApiError, EndpointError
from trtbuild_http.exchange import Exchange, HttpRequest
from trtbuild_http.gateway import Limits

from tests.unit.http.kit import CHAT, Model, Running, post, request, wait_until

ERRORS: dict[str, tuple[int, str | None, bytes]] = {
    "not-json": (400, "invalid_json", request("POST", CHAT, b"{")),
    "no-object": (400, "invalid_json", request("POST", CHAT, b"[1]")),
    "empty": (400, "invalid_json", request("POST", CHAT, b"")),
    "not-utf-8": (400, "invalid_json", request("POST", CHAT, b'{"a": "\xff"}')),
    "half-a-character": (400, "invalid_json", request("POST", CHAT, b'{"a": "\\ud800"}')),
    "half-a-character-upper": (400, "invalid_json", request("POST", CHAT, b'{"a": "\\uD800"}')),
    "nan": (400, "invalid_json", request("POST", CHAT, b'{"a": NaN}')),
    "infinity": (400, "invalid_json", request("POST", CHAT, b'{"a": -Infinity}')),
    "deep": (400, "invalid_json", request("POST", CHAT, b'{"a":' + b"[" * 200_000)),
    "long-number": (400, "invalid_json", request("POST", CHAT, b'{"a":' + b"9" * 10_000 + b"e")),
    "model-of-another-kind": (400, None, post({"model": 7})),
    "unknown-model": (404, "model_not_found", post({"model": "gpt-4"})),
    "unknown-path": (404, "path_not_found", request("GET", "/v2/nothing")),
    "unknown-path-post": (404, "path_not_found", request("POST", "/v1/nothing", b"{}")),
    "unknown-path-put": (404, "path_not_found", request("PUT", "/v1/nothing", b"{}")),
    "internal-path": (404, "path_not_found", request("GET", "/internal/model")),
    "unknown-model-entry": (404, "model_not_found", request("GET", "/v1/models/org/other")),
    "get-of-post": (405, None, request("GET", CHAT)),
    "delete": (405, None, request("DELETE", CHAT)),
    "post-of-get": (405, None, request("POST", "/health", b"{}")),
    "trace": (405, None, request("TRACE", "/health")),
    "raised": (500, "internal", post({"raise": "a secret detail"})),
}


@pytest.mark.parametrize(("status", "code", "data"), ERRORS.values(), ids=ERRORS)
def test_errors_are_openais_and_the_connection_goes_on(
    shared: Running, status: int, code: str | None, data: bytes
) -> None:
    with shared.connect() as client:
        client.send(data + request("GET", "/health"))
        answer, next_answer = client.read(), client.read()
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    assert "secret" not in error["message"]
    assert ("allow" in answer.headers) == (status == 405)
    assert next_answer.status == 200


CLOSING: dict[str, tuple[int, bytes]] = {
    "too-large": (413, request("POST", CHAT, b"", content_length="99999999")),
    "too-many-headers": (431, request("GET", "/", **{f"x-{number}": "1" for number in range(101)})),
    "long-header": (431, request("GET", "/", x="y" * 40_000)),
    "no-type": (415, request("POST", CHAT, b"{}", content_type=None)),  # type: ignore[arg-type]
    "form": (415, request("POST", CHAT, b"a=b", content_type="application/x-www-form-urlencoded")),
    "text": (415, request("POST", CHAT, b"{}", content_type="text/plain")),
    "charset": (415, request("POST", CHAT, b"{}", content_type="application/json; charset=latin-1")),
    "compressed": (415, request("POST", CHAT, b"{}", content_encoding="gzip")),
}


@pytest.mark.parametrize(("status", "data"), CLOSING.values(), ids=CLOSING)
def test_what_is_refused_before_its_body_closes_the_connection(shared: Running, status: int, data: bytes) -> None:
    answer = shared.raw(data)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_other_spellings_of_json_are_taken(shared: Running) -> None:
    for kind in ("application/json;charset=UTF-8", "Application/JSON", "application/vnd.api+json"):
        assert shared.ask(CHAT, {}, content_type=kind).status == 200


def test_a_large_upload_that_is_refused_can_read_why(shared: Running) -> None:
    with shared.connect() as client:
        client.send(request("POST", CHAT, b"", content_length=str(20 << 20)))
        for _ in range(20):
            client.send(b"x" * (1 << 20))  # all of it, before the answer is looked at
        assert client.read().status == 413


def test_permission_to_send_is_given_or_refused_before_the_body(shared: Running) -> None:
    with shared.connect() as client:
        client.send(request("POST", CHAT, b"", content_length="7", expect="100-continue"))
        assert client._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b'{"a":1}')
        assert client.read().json()["got"] == {"a": 1}
    assert shared.raw(request("POST", CHAT, b"", content_length="99999999", expect="100-continue")).status == 413


def test_health_tells_a_process_from_its_serving_thread(start: Callable[..., Running]) -> None:
    running = start()
    assert running.ask("/health").json() == {"status": "ok"}
    assert running.ask("/health/ready").json() == {"status": "ready"}
    running.model.unready = "the engine is starting"
    assert running.ask("/health").status == 200
    answer = running.ask("/health/ready")
    assert (answer.status, answer.json()["reasons"]) == (503, {"chat": "the engine is starting"})
    running.model.stuck = "the serving thread has not turned for 30 s"
    answer = running.ask("/health")
    assert (answer.status, answer.json()["reasons"]) == (503, {"chat": "the serving thread has not turned for 30 s"})


def test_a_server_is_ready_when_all_its_models_are_there(start: Callable[..., Running]) -> None:
    answer = start(models=("chat", "embed")).ask("/health/ready")
    assert (answer.status, answer.json()["reasons"]) == (503, {"embed": "it has not started"})


def test_the_documents(start: Callable[..., Running]) -> None:
    running = start(model=Model("chat", frozenset({"org/Chat-7B"})), version="3")
    assert running.ask("/version").json() == {"version": "3"}
    assert running.ask("/openapi.json").json() == {"openapi": "3.1.0"}
    entry = {"id": "chat", "object": "model", "mark": ""}
    assert running.ask("/v1/models").json() == {"object": "list", "data": [entry]}
    for name in ("chat", "org/Chat-7B", "org%2FChat-7B"):
        assert running.ask(f"/v1/models/{name}").json() == entry
    metrics = running.ask("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert metrics.body == running.model.metrics()
    for path in ("/version", "/v1/models", "/metrics"):
        head = running.ask(path, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(running.ask(path).body)))


def test_models_are_found_by_name_and_alias_or_need_no_name(start: Callable[..., Running]) -> None:
    running = start(model=Model("chat", frozenset({"org/Chat-7B"})))
    for document in ({}, {"model": None}, {"model": "chat"}, {"model": "org/Chat-7B"}):
        assert running.ask(CHAT, document).json()["from"] == "chat"
    message = running.ask(CHAT, {"model": "x"}).json()["error"]["message"]
    assert message == "the model 'x' does not exist; this server has: chat"


GOOD_IDS = ["a", "!~", "x" * 128, '5f0c\\"<>']
BAD_IDS = ["", "x" * 129, "a b", "a\tb", "caf\xe9"]


@pytest.mark.parametrize("given", [*GOOD_IDS, *BAD_IDS])
def test_request_ids_are_returned_or_made(shared: Running, given: str) -> None:
    got = shared.ask("/health", x_request_id=given).headers["x-request-id"]
    assert (got == given) == (given in GOOD_IDS)
    assert got.isascii()
    assert got.isprintable()


def test_a_handler_gets_the_request(shared: Running) -> None:
    shared.ask(f"{CHAT}?a=b", {"x": 1}, user_agent="me", x_request_id="42")
    got = shared.model.exchanges[-1].request
    assert (got.method, got.path, got.query, got.body, got.request_id) == ("POST", CHAT, "a=b", b'{"x": 1}', "42")
    assert got.headers["user-agent"] == "me"


def test_streams_are_events_and_the_connection_goes_on(shared: Running, any_loop: None) -> None:
    with shared.connect() as client:
        client.send(post({"events": 3}) * 2)
        for _ in range(2):
            answer = client.read()
            assert answer.status == 200
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-request-id"]
            assert answer.events() == [f'{{"n": {number}, "pad": ""}}' for number in range(3)] + ["[DONE]"]


def test_http_1_0_gets_no_chunks(shared: Running) -> None:
    data = post({"events": 2}).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = shared.raw(data)
    assert "transfer-encoding" not in answer.headers
    assert answer.events()[-1] == "[DONE]"
    assert shared.raw(request("GET", "/health").replace(b"HTTP/1.1", b"HTTP/1.0")).status == 200
    with shared.connect() as client:  # as ApacheBench asks
        for _ in range(2):
            client.send(request("GET", "/health", connection="Keep-Alive").replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert client.read().headers["connection"] == "keep-alive"


def test_connection_close_is_obeyed(shared: Running) -> None:
    for data in (
        post({}, connection="close"),
        post({"events": 2}, connection="Keep-Alive, Close"),
        request("GET", "/health", connection="close"),
    ):
        assert shared.raw(data + request("GET", "/health")).headers["connection"] == "close"


def test_requests_in_a_row_are_answered_in_order_and_bounded(start: Callable[..., Running]) -> None:
    running = start()
    running.model.release.clear()
    with running.connect() as client:
        client.send(post({"events": 2, "hold_after": 0}))
        wait_until(lambda: len(running.model.exchanges) == 1)
        sender = threading.Thread(target=client.send, args=(post({"pad": "y" * 1000}) * 20_000,), daemon=True)
        sender.start()  # 22 MB: more than the server and both kernels' buffers take
        sender.join(1)
        assert sender.is_alive()
        assert running.endpoint._server is not None
        assert running.endpoint._server.held_bytes < 1 << 20
        assert len(running.model.exchanges) == 1
        running.model.release.set()
        assert client.read().events()[-1] == "[DONE]"
        for _ in range(20_000):
            assert client.read().status == 200
        sender.join()
    assert len(running.model.exchanges) == 20_001


def test_an_error_within_a_stream_is_its_last_event(start: Callable[..., Running]) -> None:
    running = start()

    def fail(exchange: Exchange, document: dict[str, Any]) -> None:
        del document
        exchange.start_events()
        exchange.send_event(b"1")
        exchange.fail(ApiError(500, "the engine has stopped", code="engine_error"))
        exchange.send_event(b"dropped")
        exchange.fail(ApiError(400, "dropped"))

    running.model.routes[CHAT] = fail
    first, last = running.ask(CHAT, {}).events()
    assert first == "1"
    assert json.loads(last)["error"]["code"] == "engine_error"


def test_errors_carry_their_headers(start: Callable[..., Running]) -> None:
    running = start()

    def refuse(exchange: Exchange, document: dict[str, Any]) -> None:
        raise ApiError(429, "the queue is full", retry_after_s=2)

    running.model.routes[CHAT] = refuse
    answer = running.ask(CHAT, {})
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_only_the_first_answer_counts_and_headers_cannot_be_split() -> None:
    class Nowhere:
        def post(self) -> None:
            pass

    exchange = Exchange(HttpRequest("POST", "/", "", {}, b"", "1"), Nowhere())
    with pytest.raises(ValueError, match="split"):
        exchange.respond(200, b"", headers={"x": "a\r\nb: c"})
    exchange.respond(200, b"first")
    exchange.respond(200, b"second")
    exchange.start_events()
    exchange.send_event(b"third")
    data, is_over = exchange.take()
    assert is_over
    assert data.endswith(b"\r\n\r\nfirst")
    exchange.mark_gone()
    called: list[int] = []
    exchange.on_gone(lambda: called.append(1))
    assert called == [1]


def test_where_all_connections_are_busy_the_next_is_refused(start: Callable[..., Running]) -> None:
    running = start(limits=Limits(max_connections=2))
    with running.connect() as one, running.connect() as two:
        for client in (one, two):
            client.send(post({"events": 2, "hold_after": 0}))
        wait_until(lambda: len(running.model.exchanges) == 2)
        with running.connect() as third:
            answer = third.read()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert third.is_closed()
        running.model.release.set()
        assert one.read().events()[-1] == two.read().events()[-1] == "[DONE]"
    wait_until(lambda: running.ask("/health").status == 200)


@pytest.mark.parametrize("begun", [b"", b"GET /health", request("POST", CHAT, b"", content_length="10")])
def test_connections_that_ask_for_nothing_make_room(start: Callable[..., Running], begun: bytes) -> None:
    """Otherwise whoever opens enough of them keeps everybody else out, the probes of a pod included."""
    running = start(limits=Limits(max_connections=3))
    with running.connect() as busy, running.connect() as first, running.connect() as second:
        busy.send(post({"events": 2, "hold_after": 0}))
        for client in (first, second):
            client.send(begun)
        wait_until(lambda: len(running.model.exchanges) == 1)
        for _ in range(20):
            assert running.ask("/health").status == 200
        assert first.is_closed()
        running.model.release.set()
        assert busy.read().events()[-1] == "[DONE]"


def test_too_many_bytes_of_bodies_are_refused(start: Callable[..., Running]) -> None:
    running = start(limits=Limits(max_bodies_bytes=100_000))
    with running.connect() as client:
        client.send(request("POST", CHAT, b"", content_length="300000") + b"x" * 200_000)
        answer = client.read()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "too_many_bytes")
    assert running.endpoint._server is not None
    server = running.endpoint._server
    wait_until(lambda: server.held_bytes == 0)
    assert running.ask(CHAT, {}).status == 200


@pytest.mark.parametrize("reader", ["json", "orjson"] if jsontext.orjson is not None else ["json"])
@pytest.mark.parametrize(
    "text",
    [b"{", b"\xff", b'"\\ud800"', b'"\\uDC00"', b"NaN", b"[Infinity]", b"[" * 100_000, b"", b"1 2", b"\xef\xbb\xbf1"],
)
def test_both_json_readers_refuse_the_same(reader: str, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    if reader == "json":
        monkeypatch.setattr(jsontext, "orjson", None)
    with pytest.raises(ValueError, match=r"."):
        jsontext.loads(text)
    value = {"a": ["\N{GRINNING FACE}", "\\ud", 1.5, None, True]}
    assert jsontext.loads(jsontext.dumps(value)) == value
    assert jsontext.loads(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_without_the_parser_it_says_what_to_install(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtbuild_http.gateway.httptools", None)
    with pytest.raises(EndpointError, match="pip install httptools"):
        start()
