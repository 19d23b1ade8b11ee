"""The endpoint of a front model: opened when the server's environment asks for it, drained and closed with the model.

It decides what is put together, and that a model without an endpoint serves Triton's protocols all the same.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtbuild_http.settings import EndpointSettings

from trtbuild_front.openai.api import Identity, Serves, TextApi
from trtbuild_front.openai.engine_watch import Address, EngineWatch, find_fault
from trtbuild_front.openai.metrics_text import MetricsText
from trtbuild_front.openai.openapi import document

if TYPE_CHECKING:
    from trtbuild_http.gateway import Endpoint

    from trtbuild_front.engine import EngineContract
    from trtbuild_front.metrics.accounting import Accounting
    from trtbuild_front.text.model import TextModel


_LAST_WORDS_S = 1.0
"""For telling those whose time is up why."""


class ServesAndCounts(Serves, Protocol):
    """Who serves requests and counts them; :class:`trtbuild_front.service.Service`."""

    accounting: Accounting


def _version() -> str:
    try:
        return importlib.metadata.version("trtbuild")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def identity_of(name: str, parameters: Mapping[str, str]) -> Identity:
    """Return what a model is called, by the parameters of its configuration."""
    created = parameters.get("built_at", "0")
    return Identity(
        name=name,
        model_id=parameters.get("model_id", ""),
        revision=parameters.get("model_revision", ""),
        engine_key=parameters.get("engine_key", ""),
        created=int(created) if created.isdecimal() else 0,
    )


class OpenAiEndpoint:
    """An endpoint that is open."""

    def __init__(self, endpoint: Endpoint, watch: EngineWatch) -> None:
        self._endpoint, self._watch = endpoint, watch

    def drain(self) -> None:
        """Refuse new requests; those that run go on."""
        self._endpoint.drain()

    def resume(self) -> None:
        """Take new requests again."""
        self._endpoint.resume()

    def close(self, until_s: float) -> None:
        """Let what runs go on until it is over, or the monotonic clock says ``until_s``; then close.

        The server unloads a model once it has no requests of the server's own protocols, and knows nothing of these.
        """
        self._endpoint.stop(max(0.0, until_s - time.monotonic()) + _LAST_WORDS_S)
        self._watch.stop()


@dataclass(frozen=True, kw_only=True)
class Served:
    """A served model, and the server around it.

    Attributes:
        identity: What the model is called.
        text: Its tokenizer.
        contract: What its engine takes.
        service: Serves requests.
        slots: Requests the engine computes at once.
        max_waiting: Requests that may wait beside them; 0 for no limit.
        model_version: Version of the front model.
        server: Where the server listens for HTTP; None where it does not.
        metrics: Where it offers metrics; None where it does not.
    """

    identity: Identity
    text: TextModel
    contract: EngineContract
    service: ServesAndCounts
    slots: int
    max_waiting: int
    model_version: str
    server: Address | None
    metrics: Address | None


def open_endpoint(environment: Mapping[str, str], served: Served, log: Callable[[str], None]) -> OpenAiEndpoint | None:
    """Open the endpoint that the environment asks for; None where it asks for none.

    Args:
        environment: With the variable that ``trtbuild serve`` sets.
        served: What is offered.
        log: Gets errors.

    Returns:
        The endpoint. None, and a line in the log, where it cannot be opened: the model's other protocols work.
    """
    try:
        settings = EndpointSettings.from_environment(environment)
        if settings is None:
            return None
        from trtbuild_http.gateway import Endpoint, EndpointError  # needs httptools, which not every image has
    except (ValueError, ImportError) as error:
        log(f"OpenAI endpoint: it is off: {error}")
        return None
    watch = EngineWatch(lambda: find_fault(served.contract.model, served.server, served.metrics))
    version = _version()
    endpoint = Endpoint(
        settings, _api(served, watch), version, log, document(version), model_version=served.model_version
    )
    try:
        endpoint.start()
    except EndpointError as error:
        log(f"OpenAI endpoint: it is off: {error}")
        return None
    watch.start()
    return OpenAiEndpoint(endpoint, watch)


def _api(served: Served, watch: EngineWatch) -> TextApi:
    service = served.service
    metrics = MetricsText(
        service.accounting.snapshot,
        lambda: service.beat_s,
        labels={"model": served.identity.name, "version": served.model_version},
        slots=served.slots,
    )
    return TextApi(
        served.identity,
        served.text,
        served.contract,
        service,
        most_at_once=served.slots + served.max_waiting if served.max_waiting else 0,
        metrics=metrics.write,
        engine_fault=watch.fault,
    )
