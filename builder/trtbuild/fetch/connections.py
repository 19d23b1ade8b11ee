"""Connections to a hub and to wherever it redirects: pools, proxies and certificates.

It decides which way a request takes, and whose certificates are trusted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

import urllib3

from trtbuild.errors import FetchError
from trtbuild.fetch.hub import Hub
from trtbuild.fetch.limits import Tuning

CONNECT_TIMEOUT_S = 10.0


class Connections:
    """One pool of connections for each proxy, and one for all that needs none. Thread-safe.

    Args:
        hub: Names the proxies and the trusted certificates.
        tuning: How many connections, and how long they may be silent.

    Raises:
        FetchError: The certificates cannot be used.
    """

    def __init__(self, hub: Hub, tuning: Tuning) -> None:
        self._hub, self._tuning = hub, tuning
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._ssl_context = _ssl_context(hub)

    def to(self, url: str) -> urllib3.PoolManager:
        """Return the pool of connections that leads to an address."""
        proxy = self.proxy_for(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

    def proxy_for(self, url: str) -> str:
        """Return the proxy for an address, or an empty string."""
        if bypasses_proxy(url, self._hub.proxies.get("no", "")):
            return ""
        return self._hub.proxies.get(urlsplit(url).scheme, "")

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def _make_pool(self, proxy: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": self._tuning.connections,
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=self._tuning.timeout_s),
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


def bypasses_proxy(url: str, no_proxy: str) -> bool:
    """Say whether ``NO_PROXY`` covers an address: ``*``, host names with all their subdomains, addresses, networks.

    Source: curl 8 and Go's net/http; a port, if given, must match.
    """
    _, host, port = origin(url)
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


def host(url: str) -> str:
    """Return host and port of an address, without a login."""
    return urlsplit(url).netloc.rpartition("@")[2]


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; a port that is not said is the scheme's."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port
