"""Pure parts of talking to a hub: waiting times, proxy exceptions."""

from __future__ import annotations

import pytest

from trtbuild.fetch.connections import bypasses_proxy
from trtbuild.fetch.retry import retry_after_s

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"Retry-After": "12"}, 12.0, id="seconds"),
        pytest.param({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0, id="date"),
        pytest.param({"Retry-After": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0, id="past-date"),
        pytest.param({"Retry-After": "-5"}, 0.0, id="negative"),
        pytest.param({"RateLimit": '"resolvers";r=0;t=47'}, 47.0, id="ratelimit"),
        pytest.param({"Retry-After": "soon"}, None, id="nonsense"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, NOW) == expected


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
