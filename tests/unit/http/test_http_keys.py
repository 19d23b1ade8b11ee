"""Keys: which requests need one, which are right, and what happens while the file changes or cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from trtbuild_http.keys import KeyFile

from tests.unit.http.kit import CHAT, Running, request

KEYED = [("GET", "/v1/models"), ("GET", "/v1/models/chat"), ("GET", "/metrics"), ("POST", CHAT), ("GET", "/nothing")]
OPEN = [("GET", "/health"), ("GET", "/health/ready"), ("GET", "/version"), ("GET", "/openapi.json"), ("OPTIONS", CHAT)]

WRONG = [
    *("", "Bearer", "Bearer ", "Bearer sk-third", "Bearer sk-firs", "Basic sk-first", "sk-first"),
    *("Bearer # of the tests", "Bearer #sk-old", "Bearer sk-first,sk-second", "Bearer caf\xe9"),
]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("# of the tests\n\n  sk-first  \r\nsk-second\n#sk-old\n")
    return file


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_these_need_a_key(start: Callable[..., Running], key_file: Path, method: str, path: str) -> None:
    running = start(api_key_file=str(key_file))
    document = {} if method == "POST" else None
    for wrong in WRONG:
        answer = running.ask(path, document, method=method, authorization=wrong)
        assert answer.status == 401, wrong
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"
        assert "sk-" not in answer.body.decode()
    for right in ("Bearer sk-first", "bearer sk-second", "BEARER  sk-second"):
        assert running.ask(path, document, method=method, authorization=right).status in {200, 404}
    assert not running.model.exchanges or method == "POST"


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_these_need_none(start: Callable[..., Running], key_file: Path, method: str, path: str) -> None:
    assert start(api_key_file=str(key_file)).ask(path, method=method).status in {200, 204}


def test_two_authorizations_are_refused(start: Callable[..., Running], key_file: Path) -> None:
    running = start(api_key_file=str(key_file))
    data = request("GET", "/v1/models", authorization="Bearer sk-first")
    assert running.raw(data.replace(b"host", b"authorization: Bearer x\r\nhost")).status == 400


def test_without_a_key_a_body_is_not_read(start: Callable[..., Running], key_file: Path) -> None:
    running = start(api_key_file=str(key_file))
    assert running.raw(request("POST", CHAT, b"", content_length="5000000")).status == 401


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _allows(keys: KeyFile, clock: Clock, key: str) -> int:
    clock.now += 1.5
    error = keys.check(f"Bearer {key}")
    return 200 if error is None else error.status


def test_a_changed_file_is_read_again(key_file: Path) -> None:
    log: list[str] = []
    clock = Clock()
    keys = KeyFile(str(key_file), log.append, clock)
    assert _allows(keys, clock, "sk-first") == 200
    key_file.write_text("sk-other1\n")
    assert _allows(keys, clock, "sk-first") == 401
    assert _allows(keys, clock, "sk-other1") == 200
    status = key_file.stat()
    key_file.write_text("sk-other2\n")  # as long as before, and as old
    os.utime(key_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _allows(keys, clock, "sk-other1") == 401
    assert _allows(keys, clock, "sk-other2") == 200
    assert log == []


def test_it_is_looked_at_once_a_second(key_file: Path) -> None:
    clock = Clock()
    keys = KeyFile(str(key_file), print, clock)
    key_file.write_text("sk-other\n")
    clock.now += 0.9
    assert keys.check("Bearer sk-first") is None
    clock.now += 0.2
    assert keys.check("Bearer sk-first") is not None


def test_a_mounted_secret_that_is_swapped_is_read_again(tmp_path: Path) -> None:
    """Kubernetes writes a new directory and renames a link to it.

    Source: kubernetes, pkg/volume/util/atomic_writer.go.
    """
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "keys").write_text(f"sk-{version}\n")
        os.utime(tmp_path / f"..{version}" / "keys", (1_000_000_000, 1_000_000_000))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    clock = Clock()
    keys = KeyFile(str(tmp_path / "keys"), print, clock)
    assert _allows(keys, clock, "sk-1") == 200
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert _allows(keys, clock, "sk-1") == 401
    assert _allows(keys, clock, "sk-2") == 200


@pytest.mark.parametrize(
    "way", ["missing", "empty", "comments", "directory", "fifo", "huge", "dangling", "space", "binary"]
)
def test_a_file_that_cannot_be_used_opens_nothing_until_it_can(key_file: Path, way: str) -> None:
    log: list[str] = []
    clock = Clock()
    keys = KeyFile(str(key_file), log.append, clock)
    assert _allows(keys, clock, "sk-first") == 200
    key_file.unlink()
    if way in {"empty", "comments"}:
        key_file.write_text("" if way == "empty" else "# nothing\n   \n")
    elif way == "directory":
        key_file.mkdir()
    elif way == "fifo":
        os.mkfifo(key_file)
    elif way == "huge":
        key_file.write_bytes(b"sk-first\n" * 200_000)
    elif way in {"space", "binary"}:
        key_file.write_bytes(b"sk-first\nsk-sec" + (b" ret\n" if way == "space" else b"\xff\n"))
    elif way == "dangling":
        key_file.symlink_to("nowhere")
    for key in ("sk-first", ""):
        assert _allows(keys, clock, key) == 503
    assert len(log) == 1
    assert str(key_file) in log[0]
    assert "every request is refused" in log[0]
    assert "sk-" not in log[0]
    assert ("line 2 is no key" in log[0]) == (way in {"space", "binary"})
    if way == "directory":
        key_file.rmdir()
    else:
        key_file.unlink(missing_ok=True)
    key_file.write_text("sk-new\n")
    assert _allows(keys, clock, "sk-new") == 200
    assert _allows(keys, clock, "sk-first") == 401
    assert "in order again" in log[1]


def test_without_readable_keys_it_is_closed_and_not_ready(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(api_key_file=str(tmp_path / "none"))
    answer = running.ask("/v1/models", authorization="Bearer ")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert running.ask("/health").status == 200
    ready = running.ask("/health/ready")
    assert (ready.status, list(ready.json()["reasons"])) == (503, ["api_keys"])
    assert any("every request is refused" in line for line in running.log)
