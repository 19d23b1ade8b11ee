"""A Hugging Face hub on this machine: the parts of its HTTP interface that downloads use, with faults on demand.

Large files are served through a redirect to a second server with another host name, as the real hub does with its
storage; every request is recorded, and every byte of a body counted. Run as a program it serves a directory:
``python -m tests.hub_stub DIRECTORY`` (each ``owner/name`` below it is a model).

Source: huggingface_hub 2.4 (hf_api.py, file_download.py, utils/_http.py) for paths, headers and error codes.
"""

from __future__ import annotations

import base64
import contextlib
import email
import hashlib
import json
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

PIECE_BYTES = 1 << 16
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".h5", ".msgpack", ".pt", ".pth", ".model")


@dataclass(kw_only=True)
class Fault:
    """Something that goes wrong with requests whose ``METHOD path`` matches.

    Attributes:
        match: Regular expression, searched in e.g. ``GET /org/name/resolve/<commit>/model.safetensors`` or, at the
            storage, ``GET /storage/<sha256>``.
        kind: ``status`` (answer ``status``), ``reset`` (close hard after ``after_bytes``), ``cut`` (close politely
            after ``after_bytes``), ``short`` (announce and send only ``after_bytes``), ``corrupt`` (flip the byte at
            ``after_bytes`` of the answer), ``stall`` (send ``after_bytes``, then nothing), ``trickle`` (then a byte
            every 0.1 s), ``no_range`` (ignore Range), ``body`` (answer 200 with ``body``).
        times: How often, or None for always.
    """

    match: str
    kind: Literal["status", "reset", "cut", "short", "corrupt", "stall", "trickle", "no_range", "body"]
    times: int | None = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    body: bytes = b""


@dataclass(kw_only=True)
class Request:
    """A request as it came, and what was sent for it."""

    server: Literal["hub", "storage"]
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    body_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A stored content, in memory or in a file."""

    content: bytes | Path
    size: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def read(self, start: int, count: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start : start + count]
        with self.content.open("rb") as stream:
            stream.seek(start)
            return stream.read(count)


@dataclass(kw_only=True)
class Repo:
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_blob(path: str, content: bytes | Path) -> Blob:
    if isinstance(content, Path):
        size = content.stat().st_size
        with content.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    else:
        size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    if path.endswith(LFS_SUFFIXES) or size > 10 << 20:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return Blob(content=content, size=size, oid=git_oid(pointer.encode()), sha256=sha256)
    raw = content if isinstance(content, bytes) else content.read_bytes()
    return Blob(content=raw, size=size, oid=git_oid(raw), sha256=None)


class HubStub:
    """A running hub; a context manager. ``endpoint`` is what HF_ENDPOINT would be.

    Args:
        token: The one valid access token, or None if every token is refused.
        login: The one valid ``user:password`` (basic authentication), or None.
        granted: Gated models that the token's account may read.
        page_size: Entries of a file list per answer.
        bytes_per_s: Speed of each connection, or None for full speed.
        tls: Serve https with this certificate chain and key.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        login: str | None = None,
        granted: tuple[str, ...] = (),
        page_size: int = 1000,
        bytes_per_s: float | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.login = login
        self.token, self.granted, self.page_size, self.bytes_per_s = token, set(granted), page_size, bytes_per_s
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.storage: dict[str, Blob] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.on_request: Callable[[Request], None] | None = None
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self._servers = [_Server(self, "hub"), _Server(self, "storage")]
        scheme = "http"
        if tls:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            for server in self._servers:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.endpoint = f"{scheme}://127.0.0.1:{self._servers[0].server_port}"
        self.storage_endpoint = f"{scheme}://localhost:{self._servers[1].server_port}"

    def __enter__(self) -> HubStub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), name=server.role, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.close_connections()
            server.server_close()

    def add_repo(
        self,
        model_id: str,
        files: Mapping[str, bytes | Path] | Path,
        *,
        ref: str = "main",
        is_gated: bool = False,
        is_private: bool = False,
    ) -> str:
        """Commit ``files`` (a mapping, or a directory) to a model, making it if needed; return the commit."""
        if isinstance(files, Path):
            root = files
            files = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
        repo = self.repos.setdefault(model_id, Repo())
        repo.is_gated, repo.is_private = is_gated, is_private
        tree = {path: make_blob(path, content) for path, content in files.items()}
        self.storage |= {blob.sha256: blob for blob in tree.values() if blob.sha256}
        text = json.dumps([model_id, len(repo.commits), {path: blob.etag for path, blob in tree.items()}])
        commit = hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()
        repo.commits[commit] = tree
        repo.refs[ref] = commit
        return commit

    def add_fault(self, match: str, kind: Any, **options: Any) -> Fault:
        fault = Fault(match=match, kind=kind, **options)
        self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._changed:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.match, f"{method} {path}"):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def count(self, request: Request, sent: int) -> None:
        with self._changed:
            request.body_bytes += sent
            self._changed.notify_all()

    def bytes_sent(self, match: str = "", *, since: int = 0) -> int:
        """Return the body bytes sent so far for GET requests, from number ``since`` on, whose path matches."""
        with self._changed:
            return sum(r.body_bytes for r in self.requests[since:] if r.method == "GET" and re.search(match, r.path))

    def paths(self, method: str = "GET") -> list[str]:
        return [request.path for request in list(self.requests) if request.method == method]

    def wait_until(self, is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something holds, looking whenever bytes were sent."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not is_true():
                if time.monotonic() > end:
                    raise TimeoutError("the stub waited in vain")
                self._changed.wait(0.05)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, stub: HubStub, role: Literal["hub", "storage"]) -> None:
        self.stub, self.role = stub, role
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, _ClosedError)):  # clients that hang up are part of the tests
            super().handle_error(request, client_address)


class _ClosedError(Exception):
    """A fault closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    seen: Request

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end_headers(self) -> None:
        if self.close_connection:  # said as real servers say it, or clients would use the connection again
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded, not printed."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        stub = self.server.stub
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen = Request(server=self.server.role, method=self.command, path=path, headers=headers)
        stub.requests.append(self.seen)
        if stub.on_request:
            stub.on_request(self.seen)
        fault = stub.take_fault(self.command, path)
        if fault and fault.kind == "status":
            self.reply(fault.status, b"", dict(fault.headers))
        elif fault and fault.kind == "body":
            self.reply(200, fault.body, {"Content-Type": "text/html", **fault.headers})
        elif self.server.role == "storage":
            blob = stub.storage.get(path.removeprefix("/storage/"))
            if blob is None or query != "signature=ok":
                self.reply(403, b"AccessDenied")
            else:  # like S3, it has entity tags of its own
                self.send_blob(blob, {"ETag": f'"{hashlib.md5(blob.etag.encode()).hexdigest()}"'}, fault)
        else:
            self.answer_hub(path, query, fault)

    def answer_hub(self, path: str, query: str, fault: Fault | None) -> None:
        for old, new in self.server.stub.renamed.items():
            if match := re.fullmatch(rf"(/api/models)?/{re.escape(old)}(/(?:revision|tree|resolve)/.*)", path):
                location = f"{match[1] or ''}/{new}{match[2]}" + (f"?{query}" if query else "")
                return self.reply(307, b"", {"Location": location})
        if match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+))?", path):
            model_id, kind, revision = match[1], match[2] or "revision", unquote(match[3] or "main")
            if found := self.find(model_id, revision):
                (self.send_info if kind == "revision" else self.send_tree)(model_id, *found, query)
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            model_id, revision, name = match[1], unquote(match[2]), unquote(match[3])
            if found := self.find(model_id, revision, for_file=True):
                self.send_file(*found, name, fault)
        else:
            self.refuse(404, "", "Not found")
        return None

    def find(self, model_id: str, revision: str, *, for_file: bool = False) -> tuple[str, dict[str, Blob]] | None:
        stub = self.server.stub
        repo = stub.repos.get(model_id)
        sent = self.seen.headers.get("authorization")
        basic = f"Basic {base64.b64encode((stub.login or '').encode()).decode()}" if stub.login else None
        if sent is not None and sent not in {f"Bearer {stub.token}", basic}:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.is_private and not sent):
            return self.refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
        if for_file and repo.is_gated and model_id not in (stub.granted if sent else ()):
            return self.refuse(403 if sent else 401, "GatedRepo", f"Access to model {model_id} is restricted")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, json.dumps({"error": message}).encode(), headers)

    def send_info(self, model_id: str, commit: str, tree: dict[str, Blob], query: str) -> None:
        repo = self.server.stub.repos[model_id]
        info = {
            "_id": commit[:24],
            "id": model_id,
            "modelId": model_id,
            "sha": commit,
            "private": repo.is_private,
            "gated": "auto" if repo.is_gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in tree],
        }
        self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def send_tree(self, model_id: str, commit: str, tree: dict[str, Blob], query: str) -> None:
        start = int(match[1]) if (match := re.search(r"cursor=(\d+)", query)) else 0
        end = start + self.server.stub.page_size
        entries: list[dict[str, Any]] = []
        for path, blob in list(tree.items())[start:end]:
            entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
            if blob.sha256:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
            entries.append(entry)
        headers = {"Content-Type": "application/json"}
        if end < len(tree):
            base = f"{self.server.stub.endpoint}/api/models/{model_id}/tree/{commit}"
            headers["Link"] = f'<{base}?recursive=true&cursor={end}>; rel="next"'
        self.reply(200, json.dumps(entries).encode(), headers)

    def send_file(self, commit: str, tree: dict[str, Blob], name: str, fault: Fault | None) -> None:
        blob = tree.get(name)
        if blob is None:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"', **(fault.headers if fault else {})}
        if not blob.sha256:
            return self.send_blob(blob, headers, fault)
        headers |= {
            "X-Linked-ETag": f'"{blob.sha256}"',
            "X-Linked-Size": str(blob.size),
            "Location": f"{self.server.stub.storage_endpoint}/storage/{quote(blob.sha256)}?signature=ok",
            **(fault.headers if fault else {}),
        }
        return self.reply(302, b"Found", headers)

    def send_blob(self, blob: Blob, headers: dict[str, str], fault: Fault | None) -> None:
        start, end, status = 0, blob.size, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.seen.headers.get("range", ""))
        unchanged = self.seen.headers.get("if-range", headers["ETag"]) == headers["ETag"]
        if wanted and unchanged and not (fault and fault.kind == "no_range"):
            start, end, status = int(wanted[1]), min(blob.size, int(wanted[2] or blob.size) + bool(wanted[2])), 206
            if start >= end:
                return self.reply(416, b"", {"Content-Range": f"bytes */{blob.size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        if fault and fault.kind == "short":
            end = start + min(fault.after_bytes, end - start)
        self.seen.status = status
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault is None and self.server.stub.bytes_per_s is None and isinstance(blob.content, Path):
            return self.send_from_disk(blob.content, start, end)
        return self.send_pieces(blob, start, end, fault)

    def send_from_disk(self, path: Path, start: int, end: int) -> None:
        """Send with the kernel's help: for benchmarks, where the stub must not be what is measured."""
        with path.open("rb") as stream:
            while start < end:
                count = min(PIECE_BYTES * 16, end - start)
                sent = self.connection.sendfile(stream, start, count)
                if not sent:
                    raise _ClosedError
                self.server.stub.count(self.seen, sent)
                start += sent

    def send_pieces(self, blob: Blob, start: int, end: int, fault: Fault | None) -> None:
        stub, first = self.server.stub, start
        limit = first + fault.after_bytes if fault else -1
        began = time.monotonic()
        while start < end:
            data = blob.read(start, min(PIECE_BYTES, end - start))
            if fault and fault.kind == "corrupt" and start <= limit < start + len(data):
                at = limit - start
                data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
            if fault and fault.kind in {"reset", "cut", "stall", "trickle"} and start + len(data) > limit:
                data = data[: max(0, limit - start)]
            if data:
                self.wfile.write(data)
                stub.count(self.seen, len(data))
                start += len(data)
            if fault and fault.kind in {"reset", "cut", "stall"} and start >= limit:
                return self.break_off(fault)
            if fault and fault.kind == "trickle" and start >= limit:
                stub.closing.wait(0.1)
                limit = start + 1
            if stub.bytes_per_s:
                time.sleep(max(0.0, (start - first) / stub.bytes_per_s - (time.monotonic() - began)))
        return None

    def break_off(self, fault: Fault) -> None:
        if fault.kind == "stall":
            self.server.stub.closing.wait()
        self.close_connection = True
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise _ClosedError

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class ProxyStub:
    """A forward proxy (CONNECT and absolute addresses) that records what it was asked for; a context manager."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> ProxyStub:
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(4096)
                if not piece:
                    return
                head += piece
            first, _, rest = head.partition(b"\r\n")
            method, target, _ = first.decode("latin-1").split(" ")
            fields = email.message_from_bytes(rest)
            self.asked.append((method, target, fields.get("Proxy-Authorization", "")))
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                upstream = socket.create_connection((host, int(port)))
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(target)
                upstream = socket.create_connection((parts.hostname or "", parts.port or 80))
                path = target[target.index("/", len(parts.scheme) + 3) :]
                lines = [
                    line for line in rest.split(b"\r\n") if not line.lower().startswith((b"proxy-", b"connection"))
                ]
                head = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode("latin-1") + b"\r\n".join(lines)
                upstream.sendall(head)
            with upstream:
                _relay(client, upstream)


def _relay(one: socket.socket, other: socket.socket) -> None:
    pairs = {one: other, other: one}
    while True:
        ready, _, _ = select.select(list(pairs), [], [], 30)
        for source in ready:
            data = source.recv(PIECE_BYTES)
            if not data:
                return
            pairs[source].sendall(data)
        if not ready:
            return


def main() -> None:
    """Serve a directory of models until standard input closes; print the endpoint, then counts for each line read."""
    root = Path(sys.argv[1])
    with HubStub() as stub:
        for config in sorted(root.glob("*/*/config.json")):
            stub.add_repo(str(config.parent.relative_to(root)), config.parent)
        print(stub.endpoint, flush=True)
        for _ in sys.stdin:
            print(json.dumps({"body_bytes": stub.bytes_sent(), "requests": len(stub.requests)}), flush=True)


if __name__ == "__main__":
    main()
