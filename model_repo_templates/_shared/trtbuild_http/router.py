"""Which request gets which answer: keys, draining, methods and the endpoint's own paths; all else is a model's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from trtbuild_http import exposition, jsontext
from trtbuild_http.errors import ApiError
from trtbuild_http.exchange import Exchange, Form, HttpRequest
from trtbuild_http.framing import Head
from trtbuild_http.keys import KeyFile
from trtbuild_http.model_api import ModelApi
from trtbuild_http.models import Models, unknown_model, unknown_path
from trtbuild_http.origins import Origins
from trtbuild_http.pages import Pages
from trtbuild_http.siblings import DESCRIPTION_PATH, METRICS_PATH

Spawn = Callable[[Coroutine[Any, Any, None]], None]

_MODELS = "/v1/models"
_OPEN = frozenset({"/health", "/health/ready", "/version", "/openapi.json"})
"""Paths that need no key; those of the page need none either, since the page asks for it."""
_WHILE_DRAINING = frozenset({"/health", "/health/ready", "/version", "/metrics", DESCRIPTION_PATH, METRICS_PATH})
_READING = frozenset({"GET", "HEAD"})


class Router:
    """The application of a :class:`trtbuild_http.server.Server`."""

    def __init__(
        self,
        *,
        api: ModelApi,
        models: Models,
        pages: Pages,
        keys: KeyFile | None,
        origins: Origins,
        version: str,
        openapi: bytes,
        spawn: Callable[[], Spawn],
        log: Callable[[str], None],
    ) -> None:
        self._api = api
        self._models = models
        self._pages = pages
        self._keys = keys
        self._origins = origins
        self._version = jsontext.dumps({"version": version})
        self._openapi = openapi
        self._spawn = spawn
        self._log = log
        self.is_draining = False
        self._readers: dict[str, Callable[[Exchange], None]] = {
            "/health": self._answer_health,
            "/health/ready": lambda exchange: self._answer_later(exchange, self._answer_ready(exchange)),
            "/version": lambda exchange: exchange.respond(200, self._version),
            "/openapi.json": lambda exchange: exchange.respond(200, self._openapi),
            "/metrics": lambda exchange: self._answer_later(exchange, self._answer_metrics(exchange)),
            _MODELS: lambda exchange: self._answer_later(exchange, self._answer_models(exchange)),
        }
        self._internal_readers: dict[str, Callable[[Exchange], None]] = {
            DESCRIPTION_PATH: lambda exchange: exchange.respond(200, jsontext.dumps(self._own_description())),
            METRICS_PATH: lambda exchange: exchange.respond(200, self._models.own_metrics(), exposition.CONTENT_TYPE),
        }

    def screen(self, head: Head, *, is_internal: bool) -> ApiError | None:
        """Return why a request is refused before its body is read: key, drain, kind of body."""
        path = head.path
        is_open = is_internal or path in _OPEN or path in self._pages or head.method == "OPTIONS"
        if self._keys is not None and not is_open:
            error = self._keys.check(head.headers.get("authorization", ""))
            if error is not None:
                return error
        if self.is_draining and path not in _WHILE_DRAINING:
            return ApiError(503, "the server is draining and takes no new requests", code="draining", retry_after_s=5)
        return _judge_content(head) if head.method == "POST" else None

    def prepare(self, request: HttpRequest, form: Form) -> None:
        """Add the headers that every answer to this request has."""
        if self.is_draining:
            form.keeps_alive = False
        if "origin" in request.headers:
            headers = self._origins.headers(request.headers["origin"])
            form.extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")

    def handle(self, exchange: Exchange, *, is_internal: bool) -> None:
        """Answer a request, now or later."""
        self._guard(exchange, lambda: self._handle_internal(exchange) if is_internal else self._handle(exchange))

    def _guard(self, exchange: Exchange, work: Callable[[], None]) -> None:
        try:
            work()
        except ApiError as error:
            exchange.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever one request meets, the others go on
            self._fail(exchange, error)

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        request = exchange.request
        self._log(f"request {request.request_id} to {request.path[:100]!r} failed, please report this: {error!r}")
        exchange.fail(ApiError(500, "the server failed to answer this request; its log says why", code="internal"))

    def _answer_later(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except ApiError as error:
                exchange.fail(error)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(exchange, error)

        self._spawn()(guarded())

    def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        path, method = request.path, request.method
        if method == "OPTIONS":
            headers = self._origins.preflight_headers(request.headers)
            exchange.respond(204, b"", headers=headers or {"allow": self._allowed(path) or "GET, HEAD, POST, OPTIONS"})
        elif method == "POST" and not self._is_read(path):
            if self._models.are_alone:
                self._models.handle_alone(exchange)
            else:
                self._answer_later(exchange, self._models.handle(exchange))
        elif method in _READING and path in self._readers:
            self._readers[path](exchange)
        elif method in _READING and path in self._pages:
            self._pages.answer(exchange)
        elif method in _READING and self._is_read(path):
            self._answer_later(exchange, self._answer_model(exchange, path[len(_MODELS) + 1 :]))
        elif allowed := self._allowed(path):
            raise ApiError(405, f"{path[:200]} takes {allowed}, not {method}", headers={"allow": allowed})
        else:
            raise unknown_path(path)

    def _handle_internal(self, exchange: Exchange) -> None:
        reader = self._internal_readers.get(exchange.request.path)
        if reader is not None:
            reader(exchange)
        else:
            self._models.handle_own(exchange)

    def _is_read(self, path: str) -> bool:
        """Return whether a path is one of those that are read with GET."""
        return path in self._readers or path in self._pages or path.startswith(_MODELS + "/")

    def _allowed(self, path: str) -> str:
        """Return the methods that a path takes; empty for one that does not exist."""
        if self._is_read(path):
            return "GET, HEAD, OPTIONS"
        return "POST, OPTIONS" if self._models.offers(path) else ""

    # The endpoint's own answers.

    def _own_description(self) -> dict[str, Any]:
        description = self._models.description()
        if self.is_draining:
            description["unready"] = "it is draining"
        return description

    def _answer_health(self, exchange: Exchange) -> None:
        reason = self._api.stuck_reason()
        if reason:
            exchange.respond(503, jsontext.dumps({"status": "stuck", "reasons": {self._api.name: reason}}))
        else:
            exchange.respond(200, b'{"status":"ok"}')

    async def _answer_ready(self, exchange: Exchange) -> None:
        reasons = await self._models.unready_reasons()
        if self.is_draining:
            reasons["server"] = "it is draining"
        if self._keys is not None and self._keys.fault:
            reasons["api_keys"] = "the API key file cannot be used; the log says why"
        if reasons:
            exchange.respond(503, jsontext.dumps({"status": "unready", "reasons": reasons}))
        else:
            exchange.respond(200, b'{"status":"ready"}')

    async def _answer_metrics(self, exchange: Exchange) -> None:
        exchange.respond(200, await self._models.metrics(), exposition.CONTENT_TYPE)

    async def _answer_models(self, exchange: Exchange) -> None:
        found = await self._models.descriptions()
        entries = [each["entry"] for _, each in sorted(found.items()) if each["entry"] is not None]
        exchange.respond(200, jsontext.dumps({"object": "list", "data": entries}))

    async def _answer_model(self, exchange: Exchange, wanted: str) -> None:
        found = await self._models.descriptions()
        names = [wanted] if wanted in found else sorted(n for n, d in found.items() if wanted in d.get("aliases", ()))
        entry = found[names[0]]["entry"] if names else None
        if entry is None:
            raise unknown_model(wanted, sorted(found))
        exchange.respond(200, jsontext.dumps(entry))


def _judge_content(head: Head) -> ApiError | None:
    """Return why a body of this kind is not taken."""
    encoding = head.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        return ApiError(415, f"a body in Content-Encoding {encoding[:40]!r} is not taken; send it as it is")
    kind, _, options = head.headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        got = repr(kind[:100]) if kind else "none"
        return ApiError(415, f"the body must be JSON: send the header Content-Type: application/json, got {got}")
    charset = options.partition("charset=")[2].strip(' "')
    if charset and charset not in {"utf-8", "utf8"}:
        return ApiError(415, f"JSON must be UTF-8, got charset {charset[:40]!r}")
    return None
