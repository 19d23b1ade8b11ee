"""What the command that starts the server tells its models about the endpoint: one environment variable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

ENVIRONMENT_NAME = "TRTBUILD_OPENAI"
"""Holds a JSON object; absent or empty, there is no endpoint."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Where the endpoint listens and whom it answers.

    Attributes:
        host: Address to bind.
        port: TCP port; 0 for any free one.
        runtime_dir: Private directory that the models of one server share.
        api_key_file: File with one key a line; empty when no key is asked for.
        allowed_origins: Web pages that may call from a browser; ``*`` for any.
        max_body_bytes: Longest request body.
        models: Names of the models that the server is to have; it is not ready before they are.
    """

    host: str
    port: int
    runtime_dir: str
    api_key_file: str = ""
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20
    models: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> EndpointSettings | None:
        """Return the settings, or None when no endpoint is wanted.

        Raises:
            ValueError: The variable's value is wrong; says what was expected.
        """
        text = environment.get(ENVIRONMENT_NAME, "").strip()
        if not text:
            return None
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{ENVIRONMENT_NAME} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ValueError(f"{ENVIRONMENT_NAME} must be a JSON object, got {type(document).__name__}")
        known = {field.name: _TYPES[field.type] for field in fields(cls)}
        if unknown := sorted(document.keys() - known):
            raise ValueError(f"{ENVIRONMENT_NAME} has unknown fields {unknown}, expected some of {sorted(known)}")
        if missing := [name for name in ("host", "port", "runtime_dir") if name not in document]:
            raise ValueError(f"{ENVIRONMENT_NAME} lacks {missing}")
        for name, value in document.items():
            kind = known[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{ENVIRONMENT_NAME}: {name} must be {_WORDS[kind]}, got {value!r}")
        origins = tuple(origin.rstrip("/") for origin in _strings(document, "allowed_origins"))
        return cls(**{**document, "allowed_origins": origins, "models": _strings(document, "models")})._checked()

    def _checked(self) -> EndpointSettings:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"{ENVIRONMENT_NAME}: port must be 0 to 65535, got {self.port}")
        if self.max_body_bytes < 1:
            raise ValueError(f"{ENVIRONMENT_NAME}: max_body_bytes must be positive, got {self.max_body_bytes}")
        if not Path(self.runtime_dir).is_absolute():
            raise ValueError(f"{ENVIRONMENT_NAME}: runtime_dir must be an absolute path, got {self.runtime_dir!r}")
        return self


_TYPES: Mapping[Any, type] = {"str": str, "int": int, "tuple[str, ...]": list}
_WORDS = {str: "a string", int: "an integer", list: "a list"}


def _strings(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = document.get(name, [])
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{ENVIRONMENT_NAME}: {name} must be a list of strings, got {values!r}")
    return tuple(values)
