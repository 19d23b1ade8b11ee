"""What a client is told when a request fails: a status, and the error object that OpenAI's clients read.

Source: https://platform.openai.com/docs/guides/error-codes; openai-python 3.57, ``_exceptions.py`` reads message, type,
param and code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class EndpointError(Exception):
    """The endpoint cannot be offered; the message says what to change."""


class ApiError(Exception):
    """A request fails with a status and an error object.

    Attributes:
        status: The HTTP status, used as long as nothing has been sent.
        message: What happened and what was expected.
        kind: The error's ``type``.
        param: The field of the request that is wrong.
        code: A stable word for programs.
        retry_after_s: When to try again.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to this error."""
        found = dict(self._headers)
        if self.retry_after_s is not None:
            found["retry-after"] = str(self.retry_after_s)
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found

    def body(self) -> bytes:
        """Return the error object as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()
