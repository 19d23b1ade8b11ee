"""Where the server's gRPC is found."""

from __future__ import annotations

import re

import pytest
from trtbuild_front.transport.endpoint import find_endpoint


@pytest.mark.parametrize(
    ("parameter", "environment", "arguments", "expected"),
    [
        pytest.param("", {}, ["tritonserver"], ("127.0.0.1", 8001), id="default"),
        pytest.param("", {}, [], ("127.0.0.1", 8001), id="unknown-parent"),
        pytest.param("", {}, ["t", "--grpc-port=9001"], ("127.0.0.1", 9001), id="port"),
        pytest.param("", {}, ["t", "--grpc-port", "9001", "--x"], ("127.0.0.1", 9001), id="port-apart"),
        pytest.param("", {}, ["t", "--grpc-port=1", "--grpc-port=2"], ("127.0.0.1", 2), id="the-last-one"),
        pytest.param("", {}, ["t", "--grpc-address=0.0.0.0"], ("127.0.0.1", 8001), id="every-address"),
        pytest.param("", {}, ["t", "--grpc-address=10.0.0.7"], ("10.0.0.7", 8001), id="one-address"),
        pytest.param("", {}, ["t", "--grpc-use-ssl=false", "--allow-grpc=true"], ("127.0.0.1", 8001), id="said-aloud"),
        pytest.param("", {"TRTBUILD_GRPC_ENDPOINT": "h:1"}, ["t", "--grpc-port=2"], ("h", 1), id="environment"),
        pytest.param("[::1]:5", {"TRTBUILD_GRPC_ENDPOINT": "h:1"}, [], ("::1", 5), id="parameter"),
        pytest.param("h:1", {}, ["t", "--allow-grpc=false"], ("h", 1), id="parameter-wins"),
    ],
)
def test_found(parameter: str, environment: dict[str, str], arguments: list[str], expected: tuple[str, int]) -> None:
    assert find_endpoint(parameter, environment, arguments) == expected


@pytest.mark.parametrize(
    ("parameter", "arguments", "message"),
    [
        pytest.param("", ["--allow-grpc=false"], "--allow-grpc=false", id="no-grpc"),
        pytest.param("", ["--grpc-use-ssl=true"], "speaks TLS only", id="tls"),
        pytest.param("", ["--grpc-use-ssl", "1"], "speaks TLS only", id="tls-apart"),
        pytest.param("nowhere", [], "parameter grpc_endpoint: expected HOST:PORT, got 'nowhere'", id="no-port"),
    ],
)
def test_refused_with_what_to_set(parameter: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_endpoint(parameter, {}, arguments)
