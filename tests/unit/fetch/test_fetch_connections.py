"""Which addresses are reached past the proxy."""

from __future__ import annotations

import pytest

from trtbuild.fetch.connections import bypasses_proxy


@pytest.mark.parametrize(
    ("url", "no_proxy", "expected"),
    [
        pytest.param("https://huggingface.co/x", "", False, id="empty"),
        pytest.param("https://huggingface.co/x", "*", True, id="everything"),
        pytest.param("https://huggingface.co/x", "example.com, huggingface.co", True, id="listed"),
        pytest.param("https://cdn.huggingface.co/x", "huggingface.co", True, id="subdomain"),
        pytest.param("https://cdn.huggingface.co/x", ".huggingface.co", True, id="leading-dot"),
        pytest.param("https://cdn.huggingface.co/x", "*.huggingface.co", True, id="star-dot"),
        pytest.param("https://nothuggingface.co/x", "huggingface.co", False, id="not-a-subdomain"),
        pytest.param("https://huggingface.co/x", "huggingface.co:443", True, id="port-of-scheme"),
        pytest.param("https://huggingface.co:8443/x", "huggingface.co:443", False, id="other-port"),
        pytest.param("http://10.1.2.3:8080/x", "10.0.0.0/8", True, id="network"),
        pytest.param("http://11.1.2.3:8080/x", "10.0.0.0/8", False, id="other-network"),
        pytest.param("http://[::1]:8080/x", "::1", True, id="ipv6"),
    ],
)
def test_no_proxy(url: str, no_proxy: str, expected: bool) -> None:
    assert bypasses_proxy(url, no_proxy) is expected
