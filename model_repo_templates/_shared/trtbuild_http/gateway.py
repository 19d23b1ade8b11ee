"""The endpoint of one model process: what a model starts, drains and stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from trtbuild_http.errors import ApiError, EndpointError
from trtbuild_http.exchange import Exchange, HttpRequest
from trtbuild_http.keys import KeyFile
from trtbuild_http.limits import Limits
from trtbuild_http.model_api import Handler, ModelApi
from trtbuild_http.models import Models
from trtbuild_http.optional import httptools
from trtbuild_http.origins import Origins
from trtbuild_http.ownership import PortOwner
from trtbuild_http.pages import Pages
from trtbuild_http.router import Router
from trtbuild_http.server import Server
from trtbuild_http.settings import ENVIRONMENT_NAME, EndpointSettings
from trtbuild_http.siblings import Siblings, listen, open_directory

__all__ = [
    "ENVIRONMENT_NAME",
    "ApiError",
    "Endpoint",
    "EndpointError",
    "EndpointSettings",
    "Exchange",
    "Handler",
    "HttpRequest",
    "Limits",
    "ModelApi",
]

_PAGE = Path(__file__).resolve().parent / "page"


class Endpoint:
    """Answers HTTP for one model, and for the other models of the server while it has the port."""

    def __init__(
        self,
        settings: EndpointSettings,
        api: ModelApi,
        version: str,
        log: Callable[[str], None],
        openapi: bytes,
        *,
        model_version: str = "1",
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._api = api
        self._version = version
        self._model_version = model_version
        self._openapi = openapi
        self._limits = limits or Limits(max_body_bytes=settings.max_body_bytes)
        self._log = lambda message: log(f"OpenAI endpoint: {message}")
        self._server: Server | None = None
        self._router: Router | None = None
        self._owner: PortOwner | None = None
        self._internal: asyncio.AbstractServer | None = None
        self._socket_path: Path | None = None
        self._directory = -1

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port while this process has the port."""
        return self._owner.address if self._owner is not None else None

    def start(self) -> None:
        """Listen for the other models, and for clients as soon as the port is free.

        Raises:
            EndpointError: It cannot; the message says what to change.
        """
        if httptools is None:
            raise EndpointError("the OpenAI endpoint needs httptools: pip install httptools, or pass --openai-port 0")
        settings = self._settings
        self._directory = open_directory(settings.runtime_dir)
        listening, self._socket_path = listen(settings.runtime_dir, self._api.name, self._model_version)
        siblings = Siblings(settings.runtime_dir, self._socket_path, self._log)
        router = self._router = Router(
            api=self._api,
            models=Models(self._api, siblings, settings.models),
            pages=Pages(_PAGE),
            keys=KeyFile(settings.api_key_file, self._log) if settings.api_key_file else None,
            origins=Origins(settings.allowed_origins),
            version=self._version,
            openapi=self._openapi,
            spawn=lambda: server.spawn,
            log=self._log,
        )
        server = self._server = Server(self._limits, router, self._log)

        async def serve(made: object) -> asyncio.AbstractServer:
            return await server.listen(made, is_internal=False)

        owner = self._owner = PortOwner(settings.host, settings.port, settings.runtime_dir, serve, self._log)

        async def begin() -> None:
            self._internal = await server.listen(listening, is_internal=True)
            await owner.run()

        server.start()
        server.call(lambda: server.spawn(begin()))

    def drain(self) -> None:
        """Refuse new requests; those that run go on. Thread-safe."""
        if self._router is not None and self._server is not None:
            self._router.is_draining = True
            self._server.call(self._server.end_keep_alive)

    def resume(self) -> None:
        """Take new requests again. Thread-safe."""
        if self._router is not None:
            self._router.is_draining = False

    def stop(self, grace_s: float = 0.0) -> None:
        """Give the port to another model of the server, end what runs, and end the thread. Safe to call again.

        Args:
            grace_s: How long what runs may go on; requests that come meanwhile are refused.
        """
        if self._router is not None and self._server is not None:
            self._router.is_draining = True
            self._server.stop(self._release, grace_s)

    def _release(self) -> None:
        if self._owner is not None:
            self._owner.release()
        if self._socket_path is not None:
            with contextlib.suppress(OSError):
                self._socket_path.unlink()
        if self._internal is not None:
            self._internal.close()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
