"""Static files of a page, read once, and the headers that keep it from loading anything from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from trtbuild_http.exchange import Exchange

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
"""Files with other endings are not served."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class _Page:
    body: bytes
    content_type: str
    tag: str


class Pages:
    """The files of a directory by path; ``index.html`` is at ``/``."""

    def __init__(self, directory: Path) -> None:
        self._pages: dict[str, _Page] = {}
        for file in sorted(directory.rglob("*")):
            kind = _TYPES.get(file.suffix)
            parts = file.relative_to(directory).parts
            if kind is None or not file.is_file() or any(part.startswith((".", "_")) for part in parts):
                continue
            body = file.read_bytes()
            page = _Page(body, kind, f'"{hashlib.sha256(body).hexdigest()[:20]}"')
            self._pages["/" + "/".join(parts)] = page
        if "/index.html" in self._pages:
            self._pages["/"] = self._pages["/index.html"]

    def __contains__(self, path: str) -> bool:
        return path in self._pages

    def answer(self, exchange: Exchange) -> None:
        """Send the file at the request's path, or 304 to a browser that has it."""
        page = self._pages[exchange.request.path]
        headers = {
            "etag": page.tag,
            "cache-control": "no-cache",  # the browser asks each time, and gets 304
            "content-security-policy": POLICY,
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
        }
        known = {tag.strip().removeprefix("W/") for tag in exchange.request.headers.get("if-none-match", "").split(",")}
        if known & {page.tag, "*"}:
            exchange.respond(304, b"", page.content_type, headers)
        else:
            exchange.respond(200, page.body, page.content_type, headers)
