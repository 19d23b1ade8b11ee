"""Which web pages of other origins may call, and what browsers are told about it (CORS).

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_EXPOSED = "x-request-id, retry-after"
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Origins:
    """The allowed origins."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed)

    def headers(self, origin: str) -> dict[str, str]:
        """Return the headers of every answer to a page of ``origin``."""
        if not self._allowed:
            return {}
        if "*" in self._allowed:
            return {"access-control-allow-origin": "*", "access-control-expose-headers": _EXPOSED}
        if origin in self._allowed:
            return {
                "access-control-allow-origin": origin,
                "access-control-expose-headers": _EXPOSED,
                "vary": "Origin",
            }
        return {"vary": "Origin"}

    def preflight_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the further headers of the answer to a browser that asks before it sends a request."""
        if "access-control-request-method" not in headers:
            return {}
        if not {"*", headers.get("origin", "")} & self._allowed:
            return {}
        # Clients add headers of their own, such as openai-node's x-stainless-*: what is asked for is allowed.
        asked = headers.get("access-control-request-headers", "")
        return {
            "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
            "access-control-allow-headers": asked if _NAMES.fullmatch(asked) else "authorization, content-type",
            "access-control-max-age": "600",
        }
