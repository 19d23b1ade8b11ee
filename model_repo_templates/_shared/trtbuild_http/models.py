"""The models of this server: their list, their state, and which of them answers a request.

One is in this process; the others are asked over their sockets. Of two versions of a model, the higher one answers.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping
from typing import Any

from trtbuild_http import exposition, jsontext
from trtbuild_http.errors import ApiError
from trtbuild_http.exchange import Exchange
from trtbuild_http.model_api import ModelApi
from trtbuild_http.relay import relay
from trtbuild_http.siblings import DESCRIPTION_PATH, METRICS_PATH, Sibling, Siblings


class Models:
    """Knows all models. Belongs to the loop's thread."""

    def __init__(self, api: ModelApi, siblings: Siblings, expected: tuple[str, ...]) -> None:
        self._api = api
        self._siblings = siblings
        self._expected = expected

    @property
    def are_alone(self) -> bool:
        """Whether no other model is here, so that everything can be answered at once."""
        return not self._siblings.sockets()

    def description(self) -> dict[str, Any]:
        """Return what the other processes need to know of the model in this one."""
        api = self._api
        return {
            "name": api.name,
            "aliases": sorted(api.aliases),
            "routes": sorted(api.routes),
            "entry": api.describe(),
            "unready": api.unready_reason(),
        }

    def own_metrics(self) -> bytes:
        """Return the metrics of the model in this process."""
        return self._api.metrics()

    async def descriptions(self) -> dict[str, dict[str, Any]]:
        """Return the description of every model by name."""
        siblings = await self._siblings.known()
        answers = await asyncio.gather(*(self._siblings.ask(each.socket, DESCRIPTION_PATH) for each in siblings))
        found = {self._api.name: self.description()}
        newest: dict[str, Sibling] = {}
        for sibling, answer in zip(siblings, answers, strict=True):
            if newest.setdefault(sibling.name, sibling) is not sibling:
                continue
            if sibling.name == self._api.name and not self._siblings.is_newer_than_own(sibling):
                continue
            silent = {"name": sibling.name, "entry": None, "unready": "its process does not answer"}
            found[sibling.name] = silent if answer is None else jsontext.loads(answer)
        return found

    async def unready_reasons(self) -> dict[str, str]:
        """Return why models cannot answer now, by name."""
        found = await self.descriptions()
        reasons = {name: "it has not started" for name in self._expected if name not in found}
        reasons |= {name: each["unready"] for name, each in found.items() if each["unready"]}
        return dict(sorted(reasons.items()))

    async def metrics(self) -> bytes:
        """Return the metrics of all models."""
        siblings = await self._siblings.known()
        texts = await asyncio.gather(*(self._siblings.ask(each.socket, METRICS_PATH) for each in siblings))
        return exposition.merge([self._api.metrics(), *filter(None, texts)])

    def offers(self, path: str) -> bool:
        """Return whether this process's model answers at a path, or one that is known already."""
        return path in self._api.routes or any(path in each.routes for each in self._siblings.last_known)

    def handle_own(self, exchange: Exchange) -> None:
        """Have this process's model answer.

        Raises:
            ApiError: It does not offer the path, or the body is no JSON object.
        """
        handler = self._api.routes.get(exchange.request.path)
        if handler is None:
            raise _not_offered(self._api.name, exchange.request.path)
        handler(exchange, read_object(exchange.request.body))

    def handle_alone(self, exchange: Exchange) -> None:
        """Have this process's model answer, where it is the only one.

        Raises:
            ApiError: No model has the name or offers the path, or the body is no JSON object.
        """
        path = exchange.request.path
        if path not in self._api.routes:
            raise unknown_path(path, self._api.routes)
        document = read_object(exchange.request.body)
        self._choose(document, path, [])
        self._api.routes[path](exchange, document)

    async def handle(self, exchange: Exchange) -> None:
        """Have the model answer that a request names.

        Raises:
            ApiError: As for :meth:`handle_alone`, or the model's process does not answer.
        """
        path = exchange.request.path
        siblings = await self._siblings.known()
        if path not in self._api.routes and not any(path in each.routes for each in siblings):
            raise unknown_path(path, {*self._api.routes, *(offered for each in siblings for offered in each.routes)})
        document = read_object(exchange.request.body)
        name = self._choose(document, path, siblings)
        for each in siblings:
            if each.name != name or (name == self._api.name and not self._siblings.is_newer_than_own(each)):
                continue
            if path not in each.routes:
                raise _not_offered(name, path)
            try:
                await relay(exchange, each.socket.path)
                return
            except OSError as error:
                if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                    self._siblings.forget(each.socket)
        if name != self._api.name:
            message = f"the process that serves model {name!r} has ended; it is started again, retry"
            raise ApiError(503, message, code="model_process_ended", retry_after_s=2)
        handler = self._api.routes.get(path)
        if handler is None:
            raise _not_offered(name, path)
        handler(exchange, document)

    def _choose(self, document: Mapping[str, Any], path: str, siblings: list[Sibling]) -> str:
        """Return the name of the model that a request means."""
        api = self._api
        offered = {api.name: api.aliases} if path in api.routes else {}
        offered |= {each.name: each.aliases for each in reversed(siblings) if path in each.routes}
        names = ", ".join(sorted(offered))
        wanted = document.get("model")
        if wanted is None:
            if len(offered) == 1:
                return next(iter(offered))
            raise ApiError(400, f"model is missing: this server has several models, say one of: {names}", param="model")
        if not isinstance(wanted, str):
            raise ApiError(400, f"model must be a string, one of: {names}", param="model")
        found = wanted if wanted in offered else min((n for n, a in offered.items() if wanted in a), default=None)
        if found is not None:
            return found
        everything = {api.name: api.aliases} | {each.name: each.aliases for each in siblings}
        for name, aliases in everything.items():
            if wanted == name or wanted in aliases:
                raise _not_offered(name, path)
        raise unknown_model(wanted, sorted(everything))


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        ApiError: It is none.
    """
    try:
        document = jsontext.loads(body)
    except ValueError as error:  # of its kind are the errors of both readers, and of wrong UTF-8
        raise ApiError(400, f"the request's body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, "the request's body must be a JSON object", code="invalid_json")
    return document


def unknown_model(wanted: str, names: list[str]) -> ApiError:
    """Return the refusal of a request for a model that is not served."""
    return ApiError(
        404,
        f"the model {wanted[:200]!r} does not exist; this server has: {', '.join(names)}",
        param="model",
        code="model_not_found",
    )


def unknown_path(path: str, offered: Iterable[str] = ()) -> ApiError:
    """Return the refusal of a request for a path that does not exist; ``offered`` are those that models answer at."""
    message = f"nothing is at {path[:200]!r}; see /openapi.json for what is"
    if paths := ", ".join(sorted(offered)):
        message = f"no model of this server offers {path[:200]!r}; they offer {paths}"
    return ApiError(404, message, code="path_not_found")


def _not_offered(name: str, path: str) -> ApiError:
    return ApiError(404, f"the model {name!r} does not offer {path}", param="model", code="path_not_found")
