"""Which of a server's APIs its clients may use, and how its own models know each other.

It decides the server's options for restricted APIs and the secrets of one start. It starts nothing.

Triton has one means of access control: a restricted API answers only requests with a certain header. What it
offers beyond inference changes the server (shared memory, model repository, logging, trace), and no client of a served
model needs it, so all four are restricted, by a random value that is generated for every start and never disclosed. The
value is on the server's command line, because the server takes it nowhere else: other users of the same machine may
read it there, clients on the network may not.

Source: triton-inference-server/server, docs/customization_guide/inference_protocols.md (limit endpoint access) and
src/command_line_parser.cc, ParseRestrictedFeatureOption: ``<apis>:<header>=<value>``, repeatable, an API in one only.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trtbuild import catalog
from trtbuild.errors import SpecError
from trtbuild.spec import RESTRICTED_APIS, ServerSpec

HEADER = "trtbuild-restricted"
"""Header of the restricted APIs; gRPC's twin gets ``triton-grpc-protocol-`` put before it by the server."""

RESTRICTIONS = ("http-restricted-api", "grpc-restricted-protocol")
OTHER_ENDPOINTS = ("allow-sagemaker", "allow-vertex-ai")
ENGINE_SECRET = "TRTBUILD_ENGINE_SECRET"  # noqa: S105 - the variable's name
"""Environment variable that front and engine models share (``trtbuild_front.engine.SECRET_VARIABLE``)."""

MIN_SECRET_LENGTH = 16
"""Characters below which an engine secret of the user's own is refused."""

_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What one start of a server keeps from its clients.

    Attributes:
        api: Value of the header that opens the restricted APIs.
        engine: What the engine model knows its front model by.
    """

    api: str = field(repr=False)
    engine: str = field(repr=False)


def make_secrets(environ: Mapping[str, str]) -> Secrets:
    """Return the secrets of one start; an engine secret in the environment is kept, for servers that share one.

    Raises:
        SpecError: That one can be guessed, or cannot be sent as text.
    """
    shared = environ.get(ENGINE_SECRET, "")
    if shared and not (shared.isascii() and shared.isprintable() and len(shared) >= MIN_SECRET_LENGTH):
        raise SpecError(
            f"{ENGINE_SECRET}: expected at least {MIN_SECRET_LENGTH} printable ASCII characters, got {len(shared)} "
            "characters",
            hint=f'export {ENGINE_SECRET}="$(openssl rand -hex 32)", or unset it',
        )
    return Secrets(api=secrets.token_hex(32), engine=shared or secrets.token_hex(32))


def server_arguments(spec: ServerSpec) -> dict[str, str]:
    """Return the user's own arguments for the server, without leading dashes."""
    return {name.lstrip("-"): value for name, value in spec.server_arg.items()}


def restrictions(spec: ServerSpec, value: str) -> tuple[str, ...]:
    """Return the server's options that keep clients from the APIs which the spec does not open.

    An API that the user restricts with a header of their own (``--server-arg``) stays under theirs.

    Raises:
        SpecError: An API is opened and restricted at once.
    """
    arguments = server_arguments(spec)
    options = []
    for option in RESTRICTIONS:
        theirs = {name.strip() for name in arguments.get(option, "").partition(":")[0].split(",")}
        for api in spec.open_api:
            if api in theirs:
                raise SpecError(
                    f"--open-api {api} opens what --server-arg {option} restricts",
                    hint=f"leave out --open-api {api}, or take {api} out of {option}",
                )
        closed = [api for api in RESTRICTED_APIS if api not in spec.open_api and api not in theirs]
        if closed:
            options.append(f"--{option}={','.join(closed)}:{HEADER}={value}")
    return tuple(options)


def foreign_addresses(spec: ServerSpec) -> tuple[str, ...]:
    """Return the addresses that Triton will listen on and others than this machine can reach."""
    arguments = server_arguments(spec)
    named = [spec.host, *(arguments[name] for name in ("http-address", "grpc-address") if name in arguments)]
    return tuple(dict.fromkeys(address for address in named if not is_loopback(address)))


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach what listens on an address."""
    return address.startswith(_LOOPBACK)


def exposure_warnings(spec: ServerSpec, version: str, *, is_wheel: bool) -> Iterator[str]:
    """Yield what is said of a server with known vulnerabilities before it starts, and what to do.

    Args:
        spec: Where it will listen.
        version: Its release or version, "" when unknown.
        is_wheel: It is the CPU server of the wheel, of which there is no newer one.
    """
    found = catalog.open_advisories(version)
    if not found:
        return
    addresses = ", ".join(foreign_addresses(spec))
    where = (
        f"listens on {addresses}, not for networks you do not trust" if addresses else "listens on this machine only"
    )
    remedy = f"serve from {catalog.first_safe_image(version)} or newer"
    if is_wheel:
        remedy = "there is no newer CPU server" + (
            ": leave --host at 127.0.0.1, or let only trusted clients reach it" if addresses else "; keep it so"
        )
    yield f"Triton {version} has known vulnerabilities and {where}: {catalog.describe(found)}; {remedy}"


def endpoint_warnings(spec: ServerSpec, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is said of endpoints of the server where restrictions may not hold.

    Source: triton-inference-server/server pull requests 8680 and 8686, in 2.67 (26.03); its help of
    ``--allow-vertex-ai`` on AIP_MODE.
    """
    arguments = server_arguments(spec)
    asked = [
        f"--server-arg {name}" for name in OTHER_ENDPOINTS if arguments.get(name, "false").lower() in {"true", "1"}
    ]
    if environ.get("AIP_MODE") == "PREDICTION" and "allow-vertex-ai" not in arguments:
        asked.append("AIP_MODE=PREDICTION in the environment")
    for what in asked:
        yield (
            f"{what} adds an endpoint where Triton before 26.03 checks no restriction: clients reach every API of the "
            "server there; leave it out, or serve with Triton 26.03 or later"
        )
