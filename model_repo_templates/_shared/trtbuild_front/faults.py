"""How a request can fail, apart from the model's own faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RequestError(Exception):
    """The request is wrong; the same request will fail again."""


class OverloadError(Exception):
    """There is no room or no engine at this moment; the same request may succeed later."""


class BusyError(OverloadError):
    """There is no room for the request before it reaches the engine; counted as rejected, not as failed."""


class EngineError(Exception):
    """The engine refused or broke the request."""


class ClientGoneError(Exception):
    """An answer could not be delivered."""


class ProtocolError(Exception):
    """The peer of a connection broke its protocol."""


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """A panic of the tokenizers library is a BaseException; only this request fails by it."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3_runtime's; it cannot be imported
            raise
        raise EngineError("the tokenizers library failed on this request (a panic, see the server's log)") from None
