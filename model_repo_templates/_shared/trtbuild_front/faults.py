"""How a request can fail, apart from the model's own faults."""

from __future__ import annotations


class RequestError(Exception):
    """The request is wrong; the same request will fail again."""


class OverloadError(Exception):
    """There is no room or no engine at this moment; the same request may succeed later."""


class EngineError(Exception):
    """The engine refused or broke the request."""


class ClientGoneError(Exception):
    """An answer could not be delivered."""


class ProtocolError(Exception):
    """The peer of a connection broke its protocol."""
