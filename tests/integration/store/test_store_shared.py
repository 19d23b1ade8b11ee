"""The shared tier against a directory and against a real S3 implementation, well and ill."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.actors import until
from tests.unit.store.store_helpers import FILES, build, contents, fill, make_key
from trtbuild.errors import HostError, StoreError
from trtbuild.process import Command, start, stop
from trtbuild.store import Entry, Miss, Shared, Store, Tier, open_tier
from trtbuild.store.shared import TierError, bucket, parts, transfer
from trtbuild.store.shared.directory import DirectoryTier

pytestmark = pytest.mark.integration
BIG = {**FILES, "rank0.engine": os.urandom(300_000), "rank1.engine": os.urandom(200_000), "empty.json": b""}
BIG["twin.json"] = BIG["config.json"]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 64 << 10)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real S3 implementation (moto) in a process of its own; yields its port."""
    pytest.importorskip("moto", reason="moto is not installed")
    directory = tmp_path_factory.mktemp("s3")
    code = """
import sys, time
from pathlib import Path
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
Path(sys.argv[1]).write_text(str(server.get_host_and_port()[1]))
while True:
    time.sleep(60)
"""
    port_file = directory / "port"
    child = start(Command(argv=(sys.executable, "-c", code, str(port_file))), log_path=directory / "server.log")
    try:
        until(lambda: (port_file.exists() and port_file.read_text()) or child.poll() is not None)
        assert child.poll() is None, (directory / "server.log").read_text()
        yield int(port_file.read_text())
    finally:
        stop(child)


_TRICKLE = -1


class Proxy:
    """A TCP proxy before the S3 server that can be told to misbehave."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.mode = "pass"
        self.hits = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        mode = self.mode
        try:
            if mode == "503":
                client.recv(65536)
                self.hits += 1
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()
                return
            if mode == "hang":
                self.hits += 1
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
                limit = int(mode.partition(":")[2]) if mode.startswith("cut:") else None
                limit = _TRICKLE if mode == "trickle" else limit
                self._pump(server, client, limit)
        except OSError:
            pass
        finally:
            if mode != "hang":
                client.close()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        sent = 0
        try:
            while data := source.recv(1 if limit == _TRICKLE else 16384):
                if limit == _TRICKLE:
                    self.hits += 1
                    time.sleep(0.2)
                    target.sendall(data)
                    continue
                if limit is not None and sent + len(data) > limit:
                    target.sendall(data[: limit - sent])
                    self.hits += 1
                    if self.hits >= 3:
                        self.mode = "pass"
                    target.close()
                    return
                target.sendall(data)
                sent += len(data)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()
        for client in self._open:
            client.close()


@pytest.fixture
def proxy(s3_server: int) -> Iterator[Proxy]:
    made = Proxy(s3_server)
    yield made
    made.close()


_buckets = iter(range(1000))


@pytest.fixture
def s3(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Tier:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "AWS_ACCESS_KEY_ID": "planted-id",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket, "REQUEST_TIMEOUT_S", 2)
    monkeypatch.setattr(bucket, "_RETRY_FOR_S", 2)
    name = f"bucket{next(_buckets)}"
    request = f"PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
        raw.sendall(request.encode())
        assert b" 200 " in raw.recv(4096)
    return open_tier(f"s3://{name}/some/prefix")


@pytest.fixture
def directory(tmp_path: Path) -> Tier:
    (tmp_path / "tier").mkdir()
    return open_tier(str(tmp_path / "tier"))


@pytest.fixture(params=["directory", "s3"])
def any_tier(request: pytest.FixtureRequest) -> Tier:
    found: Tier = request.getfixturevalue(request.param)
    return found


def node(tmp_path: Path, name: str, where: Tier) -> tuple[Store, Shared]:
    store = Store(tmp_path / name, label=name)
    return store, Shared(store, where)


def overwrite(where: Tier, key: Any, digest: str, data: bytes) -> None:
    where.replace(f"engines/{key.relative_path.as_posix()}/files/{digest}", data)


def pull(store: Store, pair: Shared, key: Any) -> Entry | Miss:
    with store.lock(key):
        return pair.pull(key)


def test_a_second_node_takes_what_the_first_built(tmp_path: Path, any_tier: Tier) -> None:
    key = make_key()
    (first, first_shared), (second, second_shared) = node(tmp_path, "a", any_tier), node(tmp_path, "b", any_tier)
    missed = pull(second, second_shared, key)
    assert isinstance(missed, Miss)
    assert "does not have it" in missed.reason
    assert second_shared.describe(key).startswith("miss: ")
    entry = build(first, key, BIG, durations={"build": 1800})
    assert first_shared.push(entry)
    assert second_shared.describe(key).startswith("hit: ")
    taken = pull(second, second_shared, key)
    assert isinstance(taken, Entry), taken
    assert contents(taken.path) == BIG
    assert taken.manifest == entry.manifest
    assert second.verify(taken) == ()
    assert second.estimate(make_key(1)) == 1800
    assert first_shared.push(entry), "a second push of the same is fine"
    assert list(second.layout.downloads.iterdir()) == []


def test_two_builds_of_one_key_never_mix(tmp_path: Path, any_tier: Tier) -> None:
    key = make_key()
    (first, first_shared), (second, second_shared) = node(tmp_path, "a", any_tier), node(tmp_path, "b", any_tier)
    one = build(first, key, {"rank0.engine": b"1" * 1000, "rank1.engine": b"1" * 1000})
    two = build(second, key, {"rank0.engine": b"2" * 1000, "rank1.engine": b"2" * 1000})
    pushers = [
        threading.Thread(target=pair.push, args=(entry,)) for pair, entry in ((first_shared, one), (second_shared, two))
    ]
    for thread in pushers:
        thread.start()
    for thread in pushers:
        thread.join()
    third, third_shared = node(tmp_path, "c", any_tier)
    taken = pull(third, third_shared, key)
    assert isinstance(taken, Entry)
    assert contents(taken.path) in (contents(one.path), contents(two.path))


@pytest.mark.parametrize("damage", ["wrong-bytes", "half-written", "missing", "manifest", "manifest-half"])
def test_what_is_bad_there_is_a_miss_with_a_reason_and_is_repaired(tmp_path: Path, any_tier: Tier, damage: str) -> None:
    key = make_key()
    (first, first_shared), (second, second_shared) = node(tmp_path, "a", any_tier), node(tmp_path, "b", any_tier)
    entry = build(first, key, BIG)
    assert first_shared.push(entry)
    record = entry.manifest.files["rank0.engine"]
    base = f"engines/{key.relative_path.as_posix()}"
    if damage == "wrong-bytes":
        overwrite(any_tier, key, record.sha256, BIG["rank0.engine"][:-1] + b"\x00")
    elif damage == "half-written":
        overwrite(any_tier, key, record.sha256, BIG["rank0.engine"][:100_000])
    elif damage == "missing":
        files = dict(entry.manifest.files)
        assert isinstance(any_tier.size(f"{base}/files/{record.sha256}"), int)
        path = tmp_path / "empty"
        path.write_bytes(b"")
        any_tier.write_file(f"{base}/files/{record.sha256}", path)
        assert files
    else:
        data = entry.manifest.to_bytes()
        any_tier.replace(
            f"{base}/manifest.json", data[:50] if damage == "manifest-half" else data.replace(b"600", b"601")
        )
        if damage == "manifest":
            any_tier.replace(f"{base}/manifest.json", data.replace(b"rank1", b"rank7"))
    missed = pull(second, second_shared, key)
    assert isinstance(missed, Miss), "bad bytes were used"
    assert isinstance(second.get(key), Miss)
    assert list(second.layout.staging.iterdir() if second.layout.staging.exists() else []) == []
    again = build(second, key, BIG)
    assert second_shared.push(again)
    third, third_shared = node(tmp_path, "c", any_tier)
    taken = pull(third, third_shared, key)
    assert isinstance(taken, Entry), taken
    assert contents(taken.path) == BIG


class Flaky:
    """A tier whose reads of files fail after some pieces."""

    def __init__(self, inner: Tier, good_reads: int) -> None:
        self._inner = inner
        self.left = good_reads
        self.read_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        self.left -= 1
        if self.left < 0:
            raise TierError("connection reset")
        self.read_bytes += length
        return self._inner.read_range(name, start, length)


def _pushed(tmp_path: Path, where: Tier) -> Entry:
    store, pair = node(tmp_path, "origin", where)
    entry = build(store, make_key(), BIG)
    assert pair.push(entry)
    return entry


def test_an_interrupted_download_is_continued(tmp_path: Path, directory: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_WORKERS", 1)  # several would lose the pieces that were under way
    entry = _pushed(tmp_path, directory)
    flaky = Flaky(directory, good_reads=5)
    store, pair = node(tmp_path, "b", flaky)  # type: ignore[arg-type]
    missed = pull(store, pair, make_key())
    assert isinstance(missed, Miss)
    assert "connection reset" in missed.reason
    first = flaky.read_bytes
    assert first > 0
    flaky.left = 10_000
    taken = pull(store, pair, make_key())
    assert isinstance(taken, Entry)
    unique = {record.sha256: record.size for record in entry.manifest.files.values()}
    assert flaky.read_bytes == sum(unique.values()), "a piece was fetched twice"
    assert contents(taken.path) == BIG


class Counting:
    """A tier that counts whole files written and fails after some."""

    def __init__(self, inner: Tier, good_writes: int) -> None:
        self._inner = inner
        self.left = good_writes
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_file(self, name: str, source: Path) -> None:
        if self.left <= 0:
            raise TierError("connection reset")
        self.left -= 1
        self._inner.write_file(name, source)
        self.written.append(name)


def test_an_interrupted_upload_is_continued_and_is_no_hit_before(
    tmp_path: Path, directory: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WORKERS", 1)
    counting = Counting(directory, good_writes=2)
    store, pair = node(tmp_path, "a", counting)  # type: ignore[arg-type]
    entry = build(store, make_key(), BIG)
    assert not pair.push(entry)
    other, other_pair = node(tmp_path, "b", directory)
    assert isinstance(pull(other, other_pair, make_key()), Miss)
    counting.left = 100
    assert pair.push(entry)
    assert len(counting.written) == len(set(counting.written)) == 5
    assert isinstance(pull(other, other_pair, make_key()), Entry)


def test_pieces_lost_in_a_power_cut_are_fetched_again(tmp_path: Path, directory: Tier) -> None:
    _pushed(tmp_path, directory)
    flaky = Flaky(directory, good_reads=6)
    store, pair = node(tmp_path, "b", flaky)  # type: ignore[arg-type]
    assert isinstance(pull(store, pair, make_key()), Miss)
    parts = sorted(store.layout.downloads.glob("*/*.part"), key=lambda path: path.stat().st_size)
    for part in parts:
        part.write_bytes(b"\0" * part.stat().st_size)
    parts[0].unlink()  # one file starts afresh, the others are believed to be there
    flaky.left = 10_000
    taken = pull(store, pair, make_key())
    assert isinstance(taken, Entry), taken
    assert contents(taken.path) == BIG


def test_a_local_disk_that_fails_is_the_local_stores_error(tmp_path: Path, directory: Tier) -> None:
    _pushed(tmp_path, directory)
    store, pair = node(tmp_path, "b", directory)
    build(store, make_key(5))
    (store.root / ".downloads").write_text("a file in the way")
    with pytest.raises(StoreError, match="cannot download an engine"):
        pull(store, pair, make_key())


def test_room_is_made_for_what_will_be_written(tmp_path: Path, directory: Tier) -> None:
    entry = _pushed(tmp_path, directory)
    asked: list[int] = []
    store, pair = node(tmp_path, "b", directory)
    with store.lock(make_key()):
        assert isinstance(pair.pull(make_key(), make_room=asked.append), Entry)
    assert asked == [entry.size_bytes]


def test_what_does_not_fit_is_a_miss_not_a_failure(tmp_path: Path, directory: Tier) -> None:
    _pushed(tmp_path, directory)
    store, pair = node(tmp_path, "b", directory)

    def refuse(size_bytes: int) -> None:
        raise StoreError("there is not enough room", hint="none")

    with store.lock(make_key()):
        missed = pair.pull(make_key(), make_room=refuse)
    assert isinstance(missed, Miss)
    assert "does not fit: there is not enough room" in missed.reason


class Slow:
    """A tier that answers after a while, or never."""

    def __init__(self, inner: Tier, delay_s: float) -> None:
        self._inner = inner
        self._delay_s = delay_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        time.sleep(self._delay_s)
        return self._inner.read_range(name, start, length)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("STALL_S", 0.5, "nothing arrived for"), ("GRACE_S", 0.5, "slower than")],
    ids=["stalled", "slow"],
)
def test_a_tier_that_hangs_is_given_up(
    tmp_path: Path, directory: Tier, monkeypatch: pytest.MonkeyPatch, name: str, value: float, said: str
) -> None:
    _pushed(tmp_path, directory)
    slow = Slow(directory, 30.0 if name == "STALL_S" else 2.0)
    monkeypatch.setattr(transfer, name, value)
    store, pair = node(tmp_path, "b", slow)  # type: ignore[arg-type]
    missed = pull(store, pair, make_key())
    assert isinstance(missed, Miss)
    assert said in missed.reason
    assert isinstance(build(store, make_key(), BIG), Entry)


def test_a_directory_that_is_not_mounted_is_never_created(tmp_path: Path) -> None:
    where = DirectoryTier(tmp_path / "not-mounted")
    store, pair = node(tmp_path, "a", where)
    entry = build(store, make_key())
    assert not pair.push(entry)
    assert isinstance(pull(store, pair, make_key(1)), Miss)
    assert not (tmp_path / "not-mounted").exists()


def test_connections_that_are_cut_are_retried(tmp_path: Path, s3: Tier, proxy: Proxy) -> None:
    _pushed(tmp_path, s3)
    s3_again = open_tier(s3.name)  # new connections, so that the proxy's mode holds for them
    store, pair = node(tmp_path, "c", s3_again)
    proxy.mode = "cut:30000"
    taken = pull(store, pair, make_key())
    assert proxy.hits >= 3, "no connection was cut: the test proves nothing"
    assert isinstance(taken, Entry), taken
    assert contents(taken.path) == BIG


@pytest.mark.parametrize("mode", ["503", "hang", "trickle"])
def test_a_failing_server_costs_a_bounded_time_and_a_warning(
    tmp_path: Path,
    s3: Tier,
    proxy: Proxy,
    mode: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "GRACE_S", 3.0)
    proxy.mode = mode
    store, pair = node(tmp_path, "b", open_tier(s3.name))
    missed = pull(store, pair, make_key())
    assert isinstance(missed, Miss)
    assert "the shared tier failed" in missed.reason
    assert proxy.hits > 0
    entry = build(store, make_key())
    assert not pair.push(entry)
    said = capfd.readouterr().err
    assert "going on without it" in said
    assert "stays on this node only" in said
    assert "planted" not in said


def test_a_server_that_is_gone_is_a_miss(tmp_path: Path, s3: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(transfer, "GRACE_S", 5.0)
    store, pair = node(tmp_path, "b", open_tier(s3.name))
    assert isinstance(pull(store, pair, make_key()), Miss)


def test_no_secret_is_in_the_bucket(tmp_path: Path, s3: Tier) -> None:
    store, pair = node(tmp_path, "a", s3)
    token = "hf_" + "Z9" * 16
    entry = build(
        store, make_key(), command=f"--token={token}", environment={"AWS_SECRET_ACCESS_KEY": "planted-secret"}
    )
    assert pair.push(entry)
    data = s3.read(f"engines/{make_key().relative_path.as_posix()}/manifest.json", limit_bytes=1 << 20)
    assert data
    assert token.encode() not in data
    assert b"planted" not in data
    assert json.loads(data)["digest"] == entry.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relative/path", "expected an absolute path"),
        ("ftp://host/x", "expected a directory, s3://"),
        ("s3://", "expected a directory, s3://"),
        ("s3://id:secret@bucket/x", "credentials do not belong"),
    ],
)
def test_what_is_no_tier_is_refused(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        open_tier(text)
    assert "secret" not in caught.value.message.replace("credentials", "")


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(HostError, match="obstore") as caught:
        open_tier("s3://bucket/x")
    assert "trtbuild[shared]" in caught.value.hint


def test_a_tier_directory_that_cannot_be_written_keeps_the_engine_local(tmp_path: Path) -> None:
    root = tmp_path / "tier"
    root.mkdir()
    (root / "engines").write_text("a file in the way")
    store, pair = node(tmp_path, "a", DirectoryTier(root))
    assert not pair.push(build(store, make_key()))
    shutil.rmtree(root)
    fill(root / "engines", {"x": b""})
    assert pair.push(build(store, make_key()))
