"""Several models, one port: who answers, what is relayed, and what happens when one of them stops."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trtbuild_http.errors import EndpointError
from trtbuild_http.exposition import merge
from trtbuild_http.gateway import Exchange, Limits
from trtbuild_http.siblings import listen

from tests.unit.http.kit import CHAT, Client, Model, Running, post, request, wait_until

EMBED = "/v1/embeddings"


@pytest.fixture
def pair(start: Callable[..., Running], tmp_path: Path) -> tuple[Running, Running]:
    """A chat model that has the port, and an embedding model."""
    owner = start(directory=tmp_path)
    embed = Model("embed", frozenset({"org/e5"}))
    embed.routes = {EMBED: embed.answer, CHAT: embed.answer}
    other = start(directory=tmp_path, model=embed, is_awaited=False)
    wait_until(lambda: len(owner.ask("/v1/models").json()["data"]) == 2)
    return owner, other


def test_one_port_answers_for_all(pair: tuple[Running, Running]) -> None:
    owner, other = pair
    assert other.endpoint.address is None
    assert [each["id"] for each in owner.ask("/v1/models").json()["data"]] == ["chat", "embed"]
    assert owner.ask("/v1/models/org/e5").json()["id"] == "embed"
    assert owner.ask(CHAT, {"model": "chat"}).json()["from"] == "chat"
    for name in ("embed", "org/e5"):
        answer = owner.ask(EMBED, {"model": name, "x": 1}, x_request_id="42", user_agent="me", authorization="Bearer s")
        assert answer.json()["got"] == {"model": name, "x": 1}
        assert answer.headers["x-request-id"] == "42"
        got = other.model.exchanges[-1].request
        assert (got.request_id, got.headers["user-agent"]) == ("42", "me")
        assert "authorization" not in got.headers
    assert b'tokens{model="chat"} 1\ntokens{model="embed"} 1\n' in owner.ask("/metrics").body
    assert owner.ask("/metrics").body.count(b"# TYPE") == 1


def test_a_model_must_be_named_where_several_could_be_meant(pair: tuple[Running, Running]) -> None:
    owner, _ = pair
    answer = owner.ask(CHAT, {})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "model")
    assert "chat, embed" in answer.json()["error"]["message"]
    assert owner.ask(EMBED, {}).json()["from"] == "embed"  # the only one that answers there
    answer = owner.ask(CHAT, {"model": "x"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "chat, embed" in answer.json()["error"]["message"]
    assert "does not offer" in owner.ask(EMBED, {"model": "chat"}).json()["error"]["message"]
    assert owner.ask("/v1/nothing", {"model": "embed"}).json()["error"]["code"] == "path_not_found"
    assert owner.ask(EMBED).status == 405


def test_streams_errors_and_refusals_are_relayed(pair: tuple[Running, Running]) -> None:
    owner, other = pair
    with owner.connect() as client:
        client.send(post({"model": "embed", "events": 200, "padding": 3000}) * 2)
        for _ in range(2):
            answer = client.read()
            assert len(answer.events()) == 201
            assert answer.events()[-1] == "[DONE]"
            assert answer.headers["cache-control"] == "no-cache"
    assert owner.ask(CHAT, {"model": "embed", "raise": "x"}).json()["error"]["code"] == "internal"
    other.endpoint.drain()
    answer = owner.ask(CHAT, {"model": "embed"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert owner.ask("/health/ready").json()["reasons"] == {"embed": "it is draining"}
    other.endpoint.resume()
    assert owner.ask(CHAT, {"model": "embed"}).status == 200
    other.model.unready = "the engine is starting"
    assert owner.ask("/health/ready").json()["reasons"] == {"embed": "the engine is starting"}
    assert owner.ask("/health").status == 200


def test_a_large_body_is_relayed(pair: tuple[Running, Running]) -> None:
    owner, _ = pair
    document = {"model": "embed", "text": "\N{SNOWMAN}" * 500_000}
    assert owner.ask(CHAT, document).json()["got"] == document


def test_a_client_that_leaves_is_noticed_by_the_other_model(pair: tuple[Running, Running]) -> None:
    owner, other = pair
    for document in ({"never": True}, {"events": 100_000, "gap_s": 0.001}):
        with owner.connect() as client:
            client.send(post({"model": "embed", **document}))
            wait_until(lambda: len(other.model.exchanges) > len(other.model.gone))
        wait_until(lambda: len(other.model.exchanges) == len(other.model.gone))


def test_a_slow_reader_is_cut_through_the_relay(start: Callable[..., Running], tmp_path: Path) -> None:
    limits = Limits(max_unread_bytes=100_000)
    owner = start(directory=tmp_path, limits=limits)
    other = start(directory=tmp_path, model=Model("embed"), is_awaited=False, limits=limits)
    wait_until(lambda: len(owner.ask("/v1/models").json()["data"]) == 2)
    with owner.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(post({"model": "embed", "events": 1_000_000, "padding": 5000}, x_request_id="slow"))
        wait_until(lambda: other.model.gone == ["slow"])
        assert owner.ask(CHAT, {"model": "embed", "events": 3}).events()[-1] == "[DONE]"


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_model_that_stops_ends_what_runs_with_an_error(pair: tuple[Running, Running], is_stream: bool) -> None:
    owner, other = pair
    with owner.connect() as client:
        document = {"events": 100_000, "gap_s": 0.001} if is_stream else {"never": True}
        client.send(post({"model": "embed", **document}))
        wait_until(lambda: len(other.model.exchanges) == 1)
        other.endpoint.stop()
        answer = client.read()
    error = answer.events()[-1] if is_stream else answer.body.decode()
    assert '"code": "stopping"' in error
    if not is_stream:
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert owner.ask(CHAT, {"model": "embed"}).status == 404
    assert [each["id"] for each in owner.ask("/v1/models").json()["data"]] == ["chat"]


def test_the_port_is_handed_over_when_its_owner_stops(start: Callable[..., Running], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    owner = start(directory=tmp_path, port=port)
    other = start(directory=tmp_path, model=Model("embed"), port=port, is_awaited=False)
    with owner.connect() as client:
        client.send(post({"model": "chat", "events": 100_000, "gap_s": 0.001}))
        wait_until(lambda: len(owner.model.exchanges) == 1)
        owner.endpoint.stop()
        assert '"code": "stopping"' in client.read().events()[-1]
    wait_until(lambda: other.endpoint.address == ("127.0.0.1", port))
    assert other.ask(CHAT, {}).json()["from"] == "embed"
    assert [each["id"] for each in other.ask("/v1/models").json()["data"]] == ["embed"]


def test_the_higher_version_answers(start: Callable[..., Running], tmp_path: Path) -> None:
    old = start(directory=tmp_path, model=Model(mark="9"), version="9")
    new = start(directory=tmp_path, model=Model(mark="10"), version="10", is_awaited=False)
    wait_until(lambda: old.ask(CHAT, {}).json()["mark"] == "10")
    assert [each["mark"] for each in old.ask("/v1/models").json()["data"]] == ["10"]
    old.model.unready = "it is being replaced"
    assert old.ask("/health/ready").status == 200  # the version that answers is ready
    lower = start(directory=tmp_path, model=Model(mark="2"), version="2", is_awaited=False)
    assert old.ask(CHAT, {"model": "chat"}).json()["mark"] == "10"
    new.endpoint.stop()
    assert old.ask(CHAT, {}).json()["mark"] == "9"
    lower.endpoint.stop()


def test_sockets_of_ended_processes_are_removed(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(directory=tmp_path)
    made, path = listen(str(tmp_path), "gone", "7")
    made.close()
    assert path.exists()
    assert running.ask(CHAT, {}).status == 200
    assert not path.exists()
    assert any("removed" in line for line in running.log)
    for name in ("x.sock", "noise", "a@b.c.sock", ".hidden@1.1.sock", f"long@{'9' * 30}.1.sock"):
        (tmp_path / name).write_text("")
    assert running.ask(CHAT, {}).status == 200


def test_a_model_that_stands_still_delays_the_others_only_once(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(directory=tmp_path)
    made, path = listen(str(tmp_path), "stuck", "1")  # listens, and nobody accepts
    with contextlib.closing(made):
        began = time.monotonic()
        assert [running.ask(CHAT, {}).status for _ in range(30)] == [200] * 30
        assert time.monotonic() - began < 20  # one question takes 2 s, and 30 would take a minute
        assert path.exists()
        assert [each["id"] for each in running.ask("/v1/models").json()["data"]] == ["chat"]


@pytest.mark.parametrize("name", ["a" * 200, "org/model@2", "\N{SNOWMAN}" * 60, "..", "a b%20"])
def test_names_of_any_kind_are_found(start: Callable[..., Running], tmp_path: Path, name: str) -> None:
    owner = start(directory=tmp_path)
    start(directory=tmp_path, model=Model(name), is_awaited=False)
    wait_until(lambda: len(owner.ask("/v1/models").json()["data"]) == 2)
    assert owner.ask(CHAT, {"model": name}).json()["from"] == name


def test_two_servers_on_one_port_say_so(
    start: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = start()
    second = start(port=first.address[1], is_awaited=False)
    wait_until(lambda: bool(second.log))
    assert f"port 127.0.0.1:{first.address[1]} is taken by another process" in second.log[0]
    assert "--openai-port" in second.log[0]
    first.endpoint.stop()
    wait_until(lambda: second.endpoint.address is not None)
    assert second.ask("/health").status == 200


HOSTS = ["localhost", "0.0.0.0", "127.0.0.1", *(["::"] if socket.has_dualstack_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_of_any_kind_are_bound(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("tests.unit.http.kit.HOST", host)
    running = start()
    loopbacks = {"::": ("127.0.0.1", "::1"), "localhost": (running.address[0],)}.get(host, ("127.0.0.1",))
    for loopback in loopbacks:
        with Client((loopback, running.address[1])) as client:
            client.send(request("GET", "/health"))
            assert client.read().status == 200
    shown = f"[{host}]" if ":" in host else host
    assert running.log == [f"OpenAI endpoint: listening at http://{shown}:{running.address[1]}"]


def test_an_address_that_is_not_here_is_reported(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtbuild_http.ownership._QUIET_S", 0)
    monkeypatch.setattr("tests.unit.http.kit.HOST", "192.0.2.1")
    running = start(is_awaited=False)
    wait_until(lambda: bool(running.log))
    assert "192.0.2.1:0 cannot be bound" in running.log[0]
    assert "--openai-host" in running.log[0]


def test_a_directory_that_others_may_enter_is_refused(start: Callable[..., Running], tmp_path: Path) -> None:
    class Open(type(tmp_path)):  # type: ignore[misc]
        def chmod(self, mode: int) -> None:  # the test kit makes its directories private
            super().chmod(0o755)

    with pytest.raises(EndpointError, match=r"mode 0700, got uid \d+ and mode 0755"):
        start(directory=Open(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EndpointError, match="cannot be used"):
        start(directory=tmp_path / "link")


class TestDraining:
    """Draining and stopping."""

    def test_what_runs_finishes_and_new_requests_are_refused(self, start: Callable[..., Running]) -> None:
        running = start()
        with running.connect() as streaming, running.connect() as idle:
            idle.send(request("GET", "/health"))
            assert idle.read().status == 200
            streaming.send(post({"events": 3, "hold_after": 0}))
            wait_until(lambda: len(running.model.exchanges) == 1)
            running.endpoint.drain()
            idle.send(post({}))
            answer = idle.read()
            assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "5", "close")
            assert answer.json()["error"]["code"] == "draining"
            assert running.ask("/v1/models").status == 503
            assert running.ask("/health").status == 200
            ready = running.ask("/health/ready")
            assert (ready.status, ready.json()["reasons"]) == (503, {"server": "it is draining"})
            assert ready.headers["connection"] == "close"
            assert running.ask("/metrics").status == 200
            running.model.release.set()
            assert streaming.read().events()[-1] == "[DONE]"
            assert streaming.is_closed()
        running.endpoint.resume()
        assert running.ask(CHAT, {}).status == 200

    def test_stopping_ends_streams_with_an_error_and_leaves_no_thread(self, start: Callable[..., Running]) -> None:
        before = threading.active_count()
        running = start()
        address = running.address
        with running.connect() as streaming, running.connect() as waiting, running.connect():
            streaming.send(post({"events": 100_000, "gap_s": 0.001}))
            waiting.send(post({"never": True}))
            wait_until(lambda: len(running.model.exchanges) == 2)
            running.endpoint.stop()
            assert '"code": "stopping"' in streaming.read().events()[-1]
            answer = waiting.read()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "stopping")
        assert len(running.model.gone) == 2
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        wait_until(lambda: threading.active_count() <= before)
        running.endpoint.stop()
        running.endpoint.drain()
        running.endpoint.resume()

    def test_what_runs_may_have_time_to_finish(self, start: Callable[..., Running]) -> None:
        running = start()
        with running.connect() as streaming, running.connect() as endless:
            streaming.send(post({"events": 30, "gap_s": 0.01}))
            endless.send(post({"never": True}))
            wait_until(lambda: len(running.model.exchanges) == 2)
            running.endpoint.stop(grace_s=1.0)
            assert streaming.read().events()[-1] == "[DONE]"
            assert endless.read().json()["error"]["code"] == "stopping"

    def test_a_callback_that_fails_does_not_keep_others_from_ending(self, start: Callable[..., Running]) -> None:
        running = start()
        with running.connect() as one, running.connect() as two:
            for client in (one, two):
                client.send(post({"never": True}))
            wait_until(lambda: len(running.model.exchanges) == 2)
            for exchange in running.model.exchanges:
                exchange.on_gone(lambda: 1 / 0)
            one.socket.close()
            wait_until(lambda: len(running.log) == 2)
            assert "ZeroDivisionError" in running.log[-1]
            running.endpoint.stop()
            assert two.read().json()["error"]["code"] == "stopping"
            assert "could not be ended in order" in running.log[-1]

    def test_a_client_that_reads_nothing_does_not_hold_the_end_up(self, start: Callable[..., Running]) -> None:
        running = start()

        def answer(exchange: Exchange, document: dict[str, Any]) -> None:
            exchange.respond(200, b"x" * (30 << 20))

        running.model.routes[CHAT] = answer
        with running.connect() as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(post({}))
            assert running.ask("/health").status == 200
            running.endpoint.stop()
            assert running.endpoint._server is not None
            assert not running.endpoint._server._thread.is_alive()


def test_metrics_of_several_models_are_one_text() -> None:
    one = b"# HELP a A.\n# TYPE a counter\na 1\n# TYPE h histogram\nh_bucket 1\nh_sum 2\n"
    two = b'# comment\n# HELP a A.\n# TYPE a counter\na{m="2"} 2\n# HELP b B\nb 3\n'
    assert merge([one, two]).decode().splitlines() == [
        "# HELP a A.", "# TYPE a counter", "a 1", 'a{m="2"} 2',
        "# TYPE h histogram", "h_bucket 1", "h_sum 2",
        "# HELP b B", "b 3",
    ]  # fmt: skip
