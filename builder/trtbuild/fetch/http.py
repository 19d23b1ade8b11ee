"""Talking to a hub: connections, proxies, certificates, redirects, retries, and what every refusal means.

Decides when to try again and what to tell the user when that is hopeless. The token goes to the endpoint's own origin
and nowhere else. It knows nothing about files on disk.

urllib3 is the client because it is small, typed, thread-safe, speaks CONNECT to proxies, leaves redirects to us (the
token rule depends on it) and is among our dependencies already, through tritonclient.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import platform
import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    ProxyError,
    SSLError,
)

from trtbuild import __version__
from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.hub import Hub

CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5
MAX_PAUSE_S = 300.0
MAX_JSON_BYTES = 64 << 20
"""Most that is read of one answer: a page of a listing has a thousand files and some hundred kilobytes."""

LEAST_BYTES = 64 << 10
"""What a connection must bring in ``Tuning.slow_s``. With one byte a second a model takes centuries."""

_JSON_TIMEOUT_S = 120.0
"""Longest time for one answer of the hub's API."""

_REDIRECTS = {301, 302, 303, 307, 308}
_RETRYABLE = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How hard to pull. The defaults suit a model of gigabytes over a wide network.

    Attributes:
        connections: Requests at a time, over all files.
        range_bytes: Larger files are fetched in ranges of this length, several at once.
        sync_bytes: Bytes of a file that a power failure may cost.
        journal_bytes: Bytes of a range that the death of the process may cost.
        read_bytes: Bytes per read of a connection.
        timeout_s: Longest silence on a connection.
        slow_s: A connection must bring :data:`LEAST_BYTES` in this time, or it is replaced by another one.
        attempts: Failures in a row, without a byte in between, before giving up.
        pause: Waits some seconds; None waits for real, and stops waiting when the transfer is called off.
    """

    connections: int = 8
    range_bytes: int = 64 << 20
    sync_bytes: int = 64 << 20
    journal_bytes: int = 1 << 18
    read_bytes: int = 1 << 19
    timeout_s: float = 30.0
    slow_s: float = 60.0
    attempts: int = 8
    pause: Callable[[float], None] | None = None


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


class Client:
    """Connections to one hub and to wherever it redirects. Thread-safe.

    Raises:
        FetchError: The access token or the certificates cannot be used.
    """

    def __init__(self, hub: Hub, tuning: Tuning) -> None:
        if hub.token_error is not None:
            raise FetchError(f"{hub.host} is to be asked, and {hub.token_error.message}", hint=hub.token_error.hint)
        self.hub, self.tuning = hub, tuning
        self.stopped = threading.Event()
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._open: dict[urllib3.BaseHTTPResponse, float] = {}
        self._slow: weakref.WeakSet[urllib3.BaseHTTPResponse] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._has_worked = False
        self._ssl_context = _ssl_context(hub)

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def get_json(self, url: str, subject: Subject) -> tuple[Any, Mapping[str, str]]:
        """Return a JSON answer of the hub and the headers it came with.

        Raises:
            FetchError: The hub refuses, is not reachable, or is no hub.
        """
        failures = Failures(self, subject)
        while True:
            try:
                response, _ = self.get(url, {"Accept": "application/json"}, subject)
                timer = threading.Timer(_JSON_TIMEOUT_S, _cut_off, (response,))
                timer.start()
                try:
                    data = response.read(MAX_JSON_BYTES + 1)
                    if len(data) > MAX_JSON_BYTES:
                        response.close()
                        raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
                    return json.loads(data), response.headers
                finally:
                    timer.cancel()
                    response.release_conn()
            except RetryableError as error:
                failures.add(error)
            except HTTPError as error:
                failures.add(explain_transport(error, url, self))
            except (ValueError, RecursionError) as error:
                raise FetchError(
                    f"{_host(url)} answered with something that is not JSON, so it is no Hugging Face hub",
                    hint="check HF_ENDPOINT, or whether a proxy or a login page answers in its place",
                ) from error

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        subject: Subject,
        *,
        on_redirect: Callable[[Mapping[str, str]], None] | None = None,
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Send one GET, follow redirects, and return the open answer (status 200 or 206) and its final address.

        Args:
            url: Absolute address.
            headers: Sent along every redirect; the token is added where it belongs.
            subject: For messages.
            on_redirect: Sees the headers of every redirect answer.

        Raises:
            RetryableError: It may work later.
            FetchError: It will not.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(url, headers)
            if response.status in {200, 206}:
                self._has_worked = True
                return response, url
            response.drain_conn()
            response.release_conn()
            if response.status not in _REDIRECTS:
                self._refuse(response, url, subject)
            if on_redirect:
                on_redirect(response.headers)
            url = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(url).scheme not in {"http", "https"}:
                raise FetchError(f"{self.hub.host} redirected to {url!r}", hint="check HF_ENDPOINT")
        raise FetchError(
            f"{self.hub.host} redirected more than {MAX_REDIRECTS} times for {subject.path or subject.model_id}",
            hint="check HF_ENDPOINT and the proxy settings",
        )

    def is_hub(self, url: str) -> bool:
        """Say whether an address is of the endpoint's own origin: scheme, host and port."""
        return _origin(url) == _origin(self.hub.endpoint)

    def pause(self, seconds: float) -> None:
        """Wait, or stop waiting when the transfer is called off.

        Raises:
            StoppedError: It was called off.
        """
        if self.tuning.pause:
            self.tuning.pause(seconds)
        else:
            self.stopped.wait(seconds)
        if self.stopped.is_set():
            raise StoppedError

    def watch(self, response: urllib3.BaseHTTPResponse) -> None:
        """Let :meth:`stop` and :meth:`end_slow` cut off this answer while another thread reads it.

        Called again for every :data:`LEAST_BYTES` or more that came.
        """
        with self._lock:
            self._open[response] = time.monotonic()

    def unwatch(self, response: urllib3.BaseHTTPResponse) -> None:
        """Leave an answer alone from now on."""
        with self._lock:
            self._open.pop(response, None)

    def end_slow(self) -> None:
        """Cut off the answers that bring less than is worth waiting for; their readers try again."""
        now = time.monotonic()
        with self._lock:
            for response, since in self._open.items():
                if now - since > self.tuning.slow_s and response not in self._slow:
                    self._slow.add(response)
                    _cut_off(response)

    def is_slow(self, response: urllib3.BaseHTTPResponse) -> bool:
        """Say whether :meth:`end_slow` cut an answer off."""
        return response in self._slow

    def stop(self) -> None:
        """Call the transfer off: pauses end, and readers find their connection closed instead of waiting for data."""
        self.stopped.set()
        with self._lock:
            for response in self._open:
                _cut_off(response)

    @property
    def has_worked(self) -> bool:
        """Some request got its answer."""
        return self._has_worked

    def _request(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        own = {
            "User-Agent": f"trtbuild/{__version__}; python/{platform.python_version()}",
            "Accept-Encoding": "identity",  # lengths and ranges are those of the file
        }
        if self.is_hub(url) and (authorization := _authorization(self.hub)):
            own["Authorization"] = authorization
        try:
            return self._pool(url).request(
                "GET", url, headers={**own, **headers}, redirect=False, retries=False, preload_content=False
            )
        except LocationValueError as error:
            raise FetchError(f"{url!r} is not an address: {error}", hint="check HF_ENDPOINT") from error
        except HTTPError as error:
            raise explain_transport(error, url, self) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = self.proxy_for(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

    def proxy_for(self, url: str) -> str:
        """Return the proxy for an address, or an empty string."""
        if bypasses_proxy(url, self.hub.proxies.get("no", "")):
            return ""
        return self.hub.proxies.get(urlsplit(url).scheme, "")

    def _make_pool(self, proxy: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": self.tuning.connections,
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=self.tuning.timeout_s),
            "ssl_context": self._ssl_context,
        }
        if not proxy:
            return urllib3.PoolManager(**options)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise FetchError(
                f"the proxy {parts.scheme}://{parts.hostname} is of a kind that is not supported",
                hint="set HTTPS_PROXY and HTTP_PROXY to an http:// or https:// proxy, or name the hub in NO_PROXY",
            )
        login = (
            urllib3.util.make_headers(proxy_basic_auth=f"{parts.username}:{parts.password}") if parts.username else {}
        )
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return urllib3.ProxyManager(address, proxy_headers=login, proxy_ssl_context=self._ssl_context, **options)

    def _refuse(self, response: urllib3.BaseHTTPResponse, url: str, subject: Subject) -> None:
        if response.status in _RETRYABLE:
            reason = f"{_host(url)} answers {response.status} {response.reason or ''}".rstrip()
            raise RetryableError(reason, after_s=retry_after_s(response.headers, time.time()))
        if response.status == 416:
            said = response.headers.get("Content-Range", "")
            raise RangeRefusedError(f"{_host(url)} answers 416 {response.reason or ''} {said}".rstrip())
        if not self.is_hub(url):  # an expired signature: asking the hub again gives a new one
            raise RetryableError(f"{_host(url)} answers {response.status} {response.reason or ''}".rstrip())
        raise refusal(response.status, response.headers, self.hub, subject)


class Failures:
    """Counts failures in a row, waits between them, and gives up in words."""

    def __init__(self, client: Client, subject: Subject) -> None:
        self._client, self._subject = client, subject
        self._count = 0

    def reset(self) -> None:
        """Start counting anew: something arrived."""
        self._count = 0

    def add(self, error: RetryableError) -> None:
        """Wait as long as the server asked, or longer each time.

        Raises:
            FetchError: There is no point in trying again.
        """
        self._count += 1
        # Somebody whose network never worked wants to know now; a download at 80% is worth waiting for.
        limit = 3 if error.is_unreachable and not self._client.has_worked else self._client.tuning.attempts
        if self._count >= limit or (error.after_s or 0.0) > MAX_PAUSE_S:
            raise self._final(error) from error
        wait_s = error.after_s if error.after_s is not None else min(30.0, 0.5 * 2 ** (self._count - 1))
        wait_s *= 1.0 if error.after_s is not None else random.uniform(0.75, 1.25)  # noqa: S311 - spreads load only
        what = self._subject.path or self._subject.model_id
        message = f"{what}: {error}; trying again in {wait_s:.0f} s ({self._count} of {limit - 1})"
        log.get().warning("download-retry", message, wait_s=round(wait_s, 1))
        self._client.pause(wait_s)

    def _final(self, error: RetryableError) -> FetchError:
        hub, subject = self._client.hub, self._subject
        what = f"{subject.path} of {subject.model_id}" if subject.path else subject.model_id
        if error.is_unreachable:
            return UnreachableError(
                f"no connection to the hub for {what}: {error}",
                hint=f"check the network, HTTPS_PROXY/NO_PROXY and HF_ENDPOINT ({hub.endpoint}); "
                "with HF_HUB_OFFLINE=1 only the cache is used",
            )
        if error.after_s is not None:
            return UnreachableError(
                f"the hub is too busy for {what}: {error}, and asks to wait {error.after_s:.0f} s",
                hint="run the same command later; what was downloaded is kept"
                + ("" if hub.token else ". With an access token (HF_TOKEN) the limits are higher"),
            )
        return UnreachableError(
            f"{what} could not be downloaded after {self._count} attempts: {error}",
            hint="run the same command again; what was downloaded is kept",
        )


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


def explain_transport(error: HTTPError, url: str, client: Client) -> RetryableError:
    """Return a failed connection in words.

    Raises:
        FetchError: It is a matter of trust, which trying again does not mend.
    """
    host = _host(url)
    proxy = urlsplit(client.proxy_for(url)).netloc.rpartition("@")[2]
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


def bypasses_proxy(url: str, no_proxy: str) -> bool:
    """Say whether ``NO_PROXY`` covers an address: ``*``, host names with all their subdomains, addresses, networks.

    Source: curl 8 and Go's net/http; a port, if given, must match.
    """
    _, host, port = _origin(url)
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if entry == "*":
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        name, _, wanted_port = entry.partition(":")
        name = name.removeprefix("*").removeprefix(".")
        if name and (host == name or host.endswith(f".{name}")) and wanted_port in {"", str(port)}:
            return True
    return False


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds a server asks to wait, given as a number or a date, or None.

    Source: RFC 9110 section 10.2.3; the hub's own ``RateLimit: "api";r=0;t=55`` header.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        fields = dict(part.strip().partition("=")[::2] for part in headers.get("RateLimit", "").split(";"))
        text = fields.get("t", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return None


def _cut_off(response: urllib3.BaseHTTPResponse) -> None:
    """End an answer that another thread reads: it finds the end of the data instead of waiting."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        response.shutdown()


def _authorization(hub: Hub) -> str:
    """Return the header that shows who we are; a login in the endpoint comes before a token.

    Source: httpx 0.28, Client._build_request_auth, which Hugging Face's own tools use.
    """
    if hub.login is not None:
        return f"Basic {base64.b64encode(hub.login.encode()).decode()}"
    return f"Bearer {hub.token}" if hub.token else ""


def _reason(error: BaseException) -> str:
    """Return the innermost cause without urllib3's object addresses."""
    cause: BaseException | None = error
    while cause is not None:
        error, cause = cause, cause.__cause__ or cause.__context__
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
    text = str(error)
    return text.rsplit(": ", 1)[-1] if " object at 0x" in text else text


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def _ssl_context(hub: Hub) -> ssl.SSLContext:
    try:
        bundle = hub.ca_bundle
        if bundle is None:
            context = ssl.create_default_context()
        elif bundle.is_dir():
            context = ssl.create_default_context(capath=str(bundle))
        else:
            context = ssl.create_default_context(cafile=str(bundle))
    except OSError as error:  # ssl.SSLError is one, too
        raise FetchError(
            f"the CA bundle {hub.ca_bundle} cannot be used: {error.strerror or error}",
            hint="set SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) to a readable PEM file, or unset it",
        ) from error
    return context
