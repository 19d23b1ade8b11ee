"""What a hub's refusals and broken connections mean, and which of them may pass.

It decides what to tell the user. It asks nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    ProxyError,
    SSLError,
)

from trtbuild.errors import FetchError
from trtbuild.fetch.hub import Hub


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a request is about, for messages."""

    model_id: str
    revision: str
    path: str = ""


class RetryableError(Exception):
    """A failure that may pass.

    Attributes:
        after_s: Seconds the server asked to wait, or None.
        is_unreachable: No connection came about at all.
    """

    def __init__(self, reason: str, *, after_s: float | None = None, is_unreachable: bool = False) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.is_unreachable = is_unreachable


class RangeRefusedError(RetryableError):
    """The server says that it has no such part of the file (416)."""


class StoppedError(Exception):
    """The transfer was called off by another thread's failure or by the user."""


class UnreachableError(FetchError):
    """The hub did not answer (no network, proxy, outage); what is in the cache may still do."""


def refusal(status: int, headers: Mapping[str, str], hub: Hub, subject: Subject) -> FetchError:
    """Return what the hub's final no means. Source: huggingface_hub 2.4, utils/_http.py (X-Error-Code)."""
    code, model = headers.get("X-Error-Code", ""), subject.model_id
    page, settings = f"{hub.endpoint}/{model}", f"{hub.endpoint}/settings/tokens"
    if code == "GatedRepo" and hub.token:
        return FetchError(
            f"{model} is gated, and the account of your access token has not been let in",
            hint=f"ask for access at {page} with that account; a fine-grained token also needs 'read access to public "
            f"gated repositories' ({settings})",
        )
    if code == "GatedRepo":
        return FetchError(
            f"{model} is gated: it is given only to accounts that accepted its terms, and no access token was sent",
            hint=f"accept the terms at {page}, make a token at {settings}, then: export HF_TOKEN=hf_...",
        )
    if code == "RevisionNotFound":
        return FetchError(
            f"{model} has no branch, tag or commit {subject.revision!r}",
            hint=f"see {page}/commits/main, then pass one with --revision (default: main)",
        )
    if code == "EntryNotFound":
        return FetchError(
            f"{model} has no file {subject.path!r} at {subject.revision}",
            hint="the listing and the files of the hub disagree; try again, or another --revision",
        )
    if status == 401 and hub.login is not None:
        return FetchError(
            f"{hub.host} does not accept the login in HF_ENDPOINT "
            f"(401: {headers.get('X-Error-Message') or 'unauthorized'})",
            hint="correct the user and password there (percent-encoded), or take them out and export HF_TOKEN",
        )
    if code == "RepoNotFound" or status == 404 or (status == 401 and not hub.token):
        seen = "for your access token" if hub.token else "without an access token"
        return FetchError(
            f"{hub.host} has no model {model!r} {seen}",
            hint="check the spelling (trtbuild models lists the catalog); for a private model, export HF_TOKEN of an "
            "account that may read it",
        )
    if status == 401:
        return FetchError(
            f"{hub.host} does not accept the access token (401: {headers.get('X-Error-Message') or 'unauthorized'})",
            hint=f"make a new token at {settings} and export HF_TOKEN=hf_..., or unset HF_TOKEN for public models",
        )
    if status == 403:
        return FetchError(
            f"{hub.host} denies access to {model} (403: {headers.get('X-Error-Message') or 'forbidden'})",
            hint=f"check what the token may read at {settings}",
        )
    reason = headers.get("X-Error-Message") or "no reason given"
    return FetchError(
        f"{hub.host} answers {status} for {subject.path or model}: {reason}",
        hint=f"check HF_ENDPOINT ({hub.endpoint}) and {page}",
    )


def explain_transport(error: HTTPError, *, host: str, proxy: str) -> RetryableError:
    """Return a failed connection in words.

    Args:
        error: What urllib3 says.
        host: The host that was asked, for people.
        proxy: Address of the proxy it was asked through; empty for none.

    Raises:
        FetchError: It is a matter of trust, so another try is of no use.
    """
    proxy = urlsplit(proxy).netloc.rpartition("@")[2]
    via = f" through the proxy {proxy}" if proxy else ""
    if isinstance(error, ProxyError) and isinstance(error.original_error, HTTPError):
        error = error.original_error
    if isinstance(error, SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FetchError(
                f"the certificate of {host}{via} is not trusted: {_reason(error)}",
                hint="if a company proxy inspects TLS, set SSL_CERT_FILE to its CA bundle (PEM)",
            ) from error
        return RetryableError(f"the encrypted connection to {host}{via} broke: {_reason(error)}")
    if isinstance(error, NameResolutionError):
        return RetryableError(f"the name {proxy or host} cannot be resolved", is_unreachable=True)
    if isinstance(error, (ConnectTimeoutError, ProxyError)):
        return RetryableError(f"cannot connect to {host}{via}: {_reason(error)}", is_unreachable=True)
    return RetryableError(f"the connection to {host}{via} broke: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Return the innermost cause without urllib3's object addresses."""
    cause: BaseException | None = error
    while cause is not None:
        error, cause = cause, cause.__cause__ or cause.__context__
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
    text = str(error)
    return text.rsplit(": ", 1)[-1] if " object at 0x" in text else text
