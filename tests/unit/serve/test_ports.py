"""Ports are checked before anything starts."""

from __future__ import annotations

import socket

import pytest

from trtbuild.errors import LaunchError, SpecError
from trtbuild.serve.ports import choose_ports, refuse_equal_ports
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
    assert len({ports.http, ports.grpc, ports.metrics}) == 3


def test_one_port_for_two_services_is_refused() -> None:
    with pytest.raises(SpecError, match="--grpc-port: 8000 is --http-port, too"):
        refuse_equal_ports(ServerSpec(http_port=8000, grpc_port=8000))
    refuse_equal_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
