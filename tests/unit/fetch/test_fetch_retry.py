"""How long a server asks to wait."""

from __future__ import annotations

import pytest

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
