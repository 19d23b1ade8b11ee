"""One GET at a time to a hub: the token, redirects, size limits, and the answers that come too slowly.

The token goes to the endpoint's own origin and nowhere else. It knows nothing about files on disk.

urllib3 is the client because it is small, typed, thread-safe, speaks CONNECT to proxies, leaves redirects to us (the
token rule depends on it) and is among our dependencies already, through tritonclient.
"""

from __future__ import annotations

import base64
import contextlib
import json
import platform
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError

from trtbuild import __version__
from trtbuild.errors import FetchError
from trtbuild.fetch.connections import Connections, host, origin
from trtbuild.fetch.hub import Hub
from trtbuild.fetch.limits import Tuning
from trtbuild.fetch.refusals import RangeRefusedError, RetryableError, StoppedError, Subject, explain_transport, refusal
from trtbuild.fetch.retry import Failures, retry_after_s

MAX_REDIRECTS = 5
MAX_JSON_BYTES = 64 << 20
"""Most that is read of one answer: a page of a listing has a thousand files and some hundred kilobytes."""
_JSON_TIMEOUT_S = 120.0
"""Longest time for one answer of the hub's API."""
_REDIRECTS = {301, 302, 303, 307, 308}
_RETRYABLE = {408, 425, 429, 500, 502, 503, 504}


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
        self._open: dict[urllib3.BaseHTTPResponse, float] = {}
        self._slow: weakref.WeakSet[urllib3.BaseHTTPResponse] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._has_worked = False
        self._connections = Connections(hub, tuning)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

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
                failures.add(self.explain(error, url))
            except (ValueError, RecursionError) as error:
                raise FetchError(
                    f"{host(url)} answered with something that is not JSON, so it is no Hugging Face hub",
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

    def explain(self, error: HTTPError, url: str) -> RetryableError:
        """Return a failed connection in words.

        Raises:
            FetchError: It is a matter of trust, so another try is of no use.
        """
        return explain_transport(error, host=host(url), proxy=self._connections.proxy_for(url))

    def is_hub(self, url: str) -> bool:
        """Say whether an address is of the endpoint's own origin: scheme, host and port."""
        return origin(url) == origin(self.hub.endpoint)

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
            return self._connections.to(url).request(
                "GET", url, headers={**own, **headers}, redirect=False, retries=False, preload_content=False
            )
        except LocationValueError as error:
            raise FetchError(f"{url!r} is not an address: {error}", hint="check HF_ENDPOINT") from error
        except HTTPError as error:
            raise self.explain(error, url) from error

    def _refuse(self, response: urllib3.BaseHTTPResponse, url: str, subject: Subject) -> None:
        if response.status in _RETRYABLE:
            reason = f"{host(url)} answers {response.status} {response.reason or ''}".rstrip()
            raise RetryableError(reason, after_s=retry_after_s(response.headers, time.time()))
        if response.status == 416:
            said = response.headers.get("Content-Range", "")
            raise RangeRefusedError(f"{host(url)} answers 416 {response.reason or ''} {said}".rstrip())
        if not self.is_hub(url):  # an expired signature: asking the hub again gives a new one
            raise RetryableError(f"{host(url)} answers {response.status} {response.reason or ''}".rstrip())
        raise refusal(response.status, response.headers, self.hub, subject)


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
