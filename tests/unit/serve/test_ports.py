"""Ports are checked before anything starts."""

from __future__ import annotations

import socket

import pytest

from trtbuild.errors import LaunchError, SpecError
from trtbuild.serve import ports as ports_module
from trtbuild.serve.ports import asked_ports, choose_ports, refuse_equal_ports
from trtbuild.spec import ServerSpec


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"cannot listen on 127.0.0.1:{port} \(grpc_port\)"):
            choose_ports(ServerSpec(http_port=0, grpc_port=port, metrics_port=0))


def test_zero_chooses_different_free_ports() -> None:
    ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    assert len({ports.http, ports.grpc, ports.metrics, ports.openai} - {None, 0}) == 4


def test_zero_chooses_none_that_an_outgoing_connection_may_get() -> None:
    assert max(ports_module._CHOSEN) < 32_768
    for _ in range(20):
        ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
        assert {ports.http, ports.grpc, ports.metrics, ports.openai} <= set(ports_module._CHOSEN)


def test_zero_chooses_none_that_another_start_has_just_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs.bind(("127.0.0.1", 0))  # bound, not listening yet
        taken = theirs.getsockname()[1]
        monkeypatch.setattr(ports_module.random, "sample", lambda *_: [taken])
        chosen = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    assert taken not in {chosen.http, chosen.grpc, chosen.metrics}


def test_one_port_for_two_services_is_refused() -> None:
    with pytest.raises(SpecError, match="--grpc-port: 8000 is --http-port, too"):
        refuse_equal_ports(ServerSpec(http_port=8000, grpc_port=8000))
    refuse_equal_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    with pytest.raises(SpecError, match="--openai-port: 8080 is --http-port, too") as caught:
        refuse_equal_ports(ServerSpec(http_port=8080))
    assert "0 turns it off" in caught.value.hint
    refuse_equal_ports(ServerSpec(http_port=8080, openai_port=0))
    with pytest.raises(SpecError, match="--openai-port: 8002 is --metrics-port, too"):
        refuse_equal_ports(ServerSpec(openai_port=8002))


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        pytest.param({}, 8080, id="default"),
        pytest.param({"http_port": 0}, 0, id="default-of-chosen-ports"),
        pytest.param({"http_port": 0, "openai_port": 9000}, 9000, id="said"),
        pytest.param({"openai_port": 0}, None, id="off"),
        pytest.param({"http_port": 0, "openai_port": 0}, None, id="off-of-chosen-ports"),
    ],
)
def test_what_is_asked_for_as_the_openai_port(settings: dict[str, int], asked: int | None) -> None:
    assert asked_ports(ServerSpec(**settings)).openai == asked  # type: ignore[arg-type]


def test_a_taken_openai_port_is_named_on_its_own_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = ServerSpec(http_port=0, grpc_port=0, metrics_port=0, openai_port=port, openai_host="127.0.0.2")
        with pytest.raises(LaunchError, match=rf"cannot listen on 127.0.0.2:{port} \(openai_port\)") as caught:
            choose_ports(spec)
        assert "0 turns it off" in caught.value.hint


def test_no_openai_port_is_chosen_when_it_is_off() -> None:
    assert choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0, openai_port=0)).openai is None
