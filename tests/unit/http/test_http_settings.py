"""What the environment variable may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trtbuild_http.gateway import EndpointSettings

GOOD: dict[str, Any] = {"host": "127.0.0.1", "port": 8080, "runtime_dir": "/tmp/x"}


def _read(value: str | None) -> EndpointSettings | None:
    return EndpointSettings.from_environment({} if value is None else {"TRTBUILD_OPENAI": value})


@pytest.mark.parametrize("value", [None, "", "  "])
def test_absent_or_empty_means_no_endpoint(value: str | None) -> None:
    assert _read(value) is None


def test_all_fields() -> None:
    more = {"api_key_file": "/k", "allowed_origins": ["https://a/"], "max_body_bytes": 5, "models": ["a", "b"]}
    assert _read(json.dumps(GOOD)) == EndpointSettings(**GOOD)
    assert _read(json.dumps(GOOD | more)) == EndpointSettings(
        **GOOD, api_key_file="/k", allowed_origins=("https://a",), max_body_bytes=5, models=("a", "b")
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object, got list"),
        ('{"port": 1, "runtime_dir": "/x"}', r"lacks \['host'\]"),
        (json.dumps(GOOD | {"prot": 1}), r"unknown fields \['prot'\]"),
        (json.dumps(GOOD | {"port": "8080"}), "port must be an integer, got '8080'"),
        (json.dumps(GOOD | {"port": True}), "port must be an integer"),
        (json.dumps(GOOD | {"port": 65536}), "0 to 65535, got 65536"),
        (json.dumps(GOOD | {"max_body_bytes": 0}), "max_body_bytes must be positive"),
        (json.dumps(GOOD | {"allowed_origins": "*"}), "allowed_origins must be a list"),
        (json.dumps(GOOD | {"allowed_origins": [1]}), "list of strings"),
        (json.dumps(GOOD | {"models": [None]}), "list of strings"),
        (json.dumps(GOOD | {"runtime_dir": "x"}), "absolute path"),
    ],
)
def test_mistakes_are_named(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(value)
