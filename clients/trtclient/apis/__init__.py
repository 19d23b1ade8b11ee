"""The protocols a model can be reached by, one module each, behind :class:`trtclient.generation.Api`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from trtbuild import redact
from trtbuild.errors import SpecError

if TYPE_CHECKING:
    from trtclient.generation import Api

NAMES = ("generate", "grpc", "openai", "openai-chat")


def choose(url: str) -> str:
    """Return the protocol that a URL speaks of: ``grpc(s)://``, a path that ends in ``/v1``, or Triton's own."""
    if url.startswith(("grpc://", "grpcs://")):
        return "grpc"
    return "openai-chat" if url.rstrip("/").endswith("/v1") else "generate"


def connect(url: str, model: str, *, name: str = "", token: str = "", ca_file: str | None = None) -> Api:
    """Return the way to ``model`` at ``url``; nothing is sent yet.

    ``token`` is a bearer token for a gateway. A login in the URL (``http://user:password@gateway``) is sent as basic
    authentication, unless there is a token.

    Raises:
        SpecError: The URL or the protocol is none that exists here.
    """
    if "://" not in url:
        url = f"http://{url}"
    chosen = name or choose(url)
    url, login = redact.split_login(url)
    headers = {}
    if token:
        redact.learn(token)
        headers["Authorization"] = f"Bearer {token}"
    elif login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    if chosen == "generate":
        from trtclient.apis.generate import GenerateApi

        return GenerateApi(url, model, headers=headers, ca_file=ca_file)
    if chosen == "grpc":
        from trtclient.apis.grpc import GrpcApi

        return GrpcApi(url, model, headers=headers, ca_file=ca_file)
    if chosen in {"openai", "openai-chat"}:
        from trtclient.apis.openai import OpenAiApi

        return OpenAiApi(url, model, is_chat=chosen == "openai-chat", headers=headers, ca_file=ca_file)
    raise SpecError(
        f"expected one of {', '.join(NAMES)}, got {chosen!r}", hint="leave out --api: the URL determines it"
    )
