"""Processes that die, processes that meet, and disks that are full: with real processes, signals and file systems."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.fetch.fetch_helpers import MIB, NEEDED, Client, contents, safetensors, small_model
from trtbuild.errors import FetchError
from trtbuild.fetch import partial
from trtbuild.process import Command, run, start

pytestmark = pytest.mark.integration

CONNECTIONS, JOURNAL_BYTES, READ_BYTES = 4, 1 << 17, 1 << 16
MakeClient = Callable[..., Client]

FETCH = textwrap.dedent(
    f"""
    import sys
    from pathlib import Path
    from trtbuild.fetch import Hub, resolve, snapshot
    from trtbuild.fetch.limits import Tuning

    endpoint, cache, range_bytes, sync_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    hub = Hub(endpoint=endpoint)
    tuning = Tuning(connections={CONNECTIONS}, range_bytes=range_bytes, sync_bytes=sync_bytes,
                    journal_bytes={JOURNAL_BYTES}, read_bytes={READ_BYTES})
    resolved = resolve("org/model", "main", hub=hub, cache=cache, tuning=tuning)
    print(snapshot(resolved, cache=cache, hub=hub, tuning=tuning), flush=True)
    """
)


def fetch_command(
    hub: HubStub, cache: Path, *, range_bytes: int = MIB, sync_bytes: int = MIB, before: str = ""
) -> Command:
    arguments = (hub.endpoint, str(cache), str(range_bytes), str(sync_bytes))
    return Command(argv=(sys.executable, "-c", before + FETCH, *arguments))


@pytest.fixture
def slow_hub(hub: HubStub) -> HubStub:
    hub.bytes_per_s = 3 * MIB
    return hub


def test_kill_9_at_any_moment_repeats_little_and_leaves_nothing(
    slow_hub: HubStub, client: Client, tmp_path: Path
) -> None:
    files = small_model(**{"model.safetensors": safetensors(12 * MIB, "weights")})
    slow_hub.add_repo("org/model", files)
    size = len(files["model.safetensors"])
    rng = random.Random(20240817)
    kills = 0
    client.tuning = replace(client.tuning, range_bytes=4 * MIB)
    command = fetch_command(slow_hub, client.cache, range_bytes=4 * MIB, sync_bytes=64 * MIB)  # no sync helps out
    for _ in range(5):
        child = start(command, log_path=tmp_path / "log")
        sent_before = slow_hub.bytes_sent("/storage/")
        moment = sent_before + rng.randrange(1, 3 * MIB)
        while child.poll() is None and slow_hub.bytes_sent("/storage/") < moment:
            time.sleep(0.005)
        child.kill()
        kills += child.wait() == -signal.SIGKILL
        for path in client.cache.glob("*/snapshots/*/*"):  # nothing half-done is ever visible under its name
            assert path.read_bytes() == files[path.name]
    assert kills == 5
    slow_hub.bytes_per_s = None
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    repeated = slow_hub.bytes_sent("/storage/") - size
    in_flight = JOURNAL_BYTES + READ_BYTES + (1 << 16)  # not journaled yet, being read, sent by the stub
    assert 0 < repeated <= kills * CONNECTIONS * in_flight
    assert client.leftovers() == []


def test_power_loss_costs_what_was_not_synced(slow_hub: HubStub, client: Client, tmp_path: Path) -> None:
    """A journal of another kernel is believed only as far as data was synced before it was written."""
    files = small_model(**{"model.safetensors": safetensors(8 * MIB, "weights")})
    slow_hub.add_repo("org/model", files)
    child = start(fetch_command(slow_hub, client.cache), log_path=tmp_path / "log")
    slow_hub.wait_until(lambda: slow_hub.bytes_sent("/storage/") > 5 * MIB)
    child.kill()
    child.wait()
    (journal,) = client.cache.glob("*/blobs/*.journal")
    (data,) = client.cache.glob("*/blobs/*.trtbuild-incomplete")
    text = journal.read_text().replace(partial.kernel_id(), "another-boot")
    synced: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        kind, index, count = line.split()
        if kind == "s":
            synced[index] = max(synced.get(index, 0), int(count))
    assert 0 < sum(synced.values()) < 6 * MIB
    journal.write_text(text)
    os.utime(journal, (0, 0))
    with data.open("r+b") as stream:  # what the journal does not call synced is lost
        for index in range(9):
            first = index * MIB + synced.get(str(index), 0)
            stream.seek(first)
            stream.write(bytes(max(0, min((index + 1) * MIB, data.stat().st_size) - first)))
    slow_hub.bytes_per_s = None
    since = len(slow_hub.requests)
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]
    sent = slow_hub.bytes_sent("/storage/", since=since)
    assert sent == len(files["model.safetensors"]) - sum(synced.values())


def test_two_processes_download_every_byte_once(slow_hub: HubStub, client: Client, tmp_path: Path) -> None:
    names = [f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    files = small_model(**{name: safetensors(MIB, name) for name in names})
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {name: name for name in names}}).encode()
    slow_hub.add_repo("org/model", files)
    children = [start(fetch_command(slow_hub, client.cache), log_path=tmp_path / f"log{n}") for n in range(2)]
    assert [child.wait(timeout=120) for child in children] == [0, 0], (tmp_path / "log0").read_text()
    assert slow_hub.bytes_sent("/storage/") == sum(len(files[name]) for name in names)
    assert contents(client.fetch()) == {n: c for n, c in files.items() if n not in {"README.md", "pytorch_model.bin"}}
    assert client.leftovers() == []


def test_a_waiter_is_logged_and_takes_over_when_the_owner_dies(
    slow_hub: HubStub, client: Client, tmp_path: Path
) -> None:
    files = small_model(**{"model.safetensors": safetensors(4 * MIB, "weights")})
    slow_hub.add_repo("org/model", files)
    slow_hub.bytes_per_s = MIB // 2
    first = start(fetch_command(slow_hub, client.cache), log_path=tmp_path / "first")
    slow_hub.wait_until(lambda: slow_hub.bytes_sent("/storage/") > MIB)
    second = start(fetch_command(slow_hub, client.cache), log_path=tmp_path / "second")
    slow_hub.wait_until(lambda: "another process is downloading model.safetensors" in (tmp_path / "second").read_text())
    first.kill()
    first.wait()
    since = len(slow_hub.requests)
    slow_hub.bytes_per_s = None
    assert second.wait(timeout=120) == 0
    assert "resuming model.safetensors" in (tmp_path / "second").read_text()
    assert slow_hub.bytes_sent("/storage/", since=since) < 3 * MIB + CONNECTIONS * (
        JOURNAL_BYTES + READ_BYTES + (1 << 16)
    )
    assert client.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_download_stops_soon_and_keeps_what_it_has(
    hub: HubStub, client: Client, tmp_path: Path, number: int
) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    stall = hub.add_fault("GET /storage/", "stall", after_bytes=500_000, times=None)
    before = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(143))\n"
    child = start(fetch_command(hub, client.cache, before=before), log_path=tmp_path / "log")
    hub.wait_until(lambda: hub.bytes_sent("/storage/") >= 1_500_000 or child.poll() is not None)
    time.sleep(0.3)  # lets the last bytes reach the client; nothing depends on it but the size of the partial file
    child.send_signal(number)
    code = child.wait(timeout=20)  # the connections are silent, and their own timeout would be 30 s
    assert code in {-signal.SIGINT, 143}, (tmp_path / "log").read_text()
    hub.faults.remove(stall)
    since = len(hub.requests)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert hub.bytes_sent("/storage/", since=since) < len(files["model.safetensors"]) - MIB
    assert client.leftovers() == []


def test_a_model_larger_than_any_disk_is_refused_before_the_first_byte(hub: HubStub, client: Client) -> None:
    commit = hub.add_repo("org/model", small_model())
    tree = hub.repos["org/model"].commits[commit]
    tree["model.safetensors"] = replace(tree["model.safetensors"], size=1 << 60)
    with pytest.raises(FetchError, match=r"does not fit: 1048576\.0 TiB in 3 files .* too little") as caught:
        client.fetch()
    assert "HF_HUB_CACHE" in caught.value.hint
    assert hub.bytes_sent("/resolve/") == hub.bytes_sent("/storage/") == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    target = tmp_path / "disk"
    target.mkdir()
    command = Command(argv=("mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(target)))
    try:
        done = run(command)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.exit_code:
        pytest.skip(f"this user cannot mount a file system: {' '.join(done.tail)}")
    yield target
    run(Command(argv=("umount", "-l", str(target))))


def test_a_full_disk_is_noticed_before_the_first_byte(hub: HubStub, client: Client, small_disk: Path) -> None:
    hub.add_repo("org/model", small_model(**{"model.safetensors": safetensors(20 * MIB)}))
    client.cache = small_disk / "cache"
    message = (
        r"org/model does not fit: 20\.0 MiB in 3 files \+ 64\.0 MiB reserve = 84\.0 MiB, "
        r"but (79\.\d|80\.0) MiB are free at \S+; 4\.\d MiB too little"
    )
    with pytest.raises(FetchError, match=message) as caught:
        client.fetch()
    assert "HF_HUB_CACHE" in caught.value.hint
    assert hub.bytes_sent("/resolve/") == hub.bytes_sent("/storage/") == 0


def test_a_disk_that_fills_up_meanwhile_stops_the_download_and_can_be_continued(
    hub: HubStub, client: Client, small_disk: Path
) -> None:
    files = small_model(**{"model.safetensors": safetensors(8 * MIB)})
    hub.add_repo("org/model", files)
    client.cache = small_disk / "cache"
    other = small_disk / "other"

    guard = threading.Lock()

    def fill(request: object) -> None:
        with guard:
            if getattr(request, "server", "") == "storage" and not other.exists():
                with other.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                    while stream.write(bytes(MIB)):
                        pass
                os.truncate(other, other.stat().st_size - 2 * MIB)

    hub.on_request = fill
    with pytest.raises(FetchError, match="is full: .*: something else filled it") as caught:
        client.fetch()
    assert "kept" in caught.value.hint
    other.unlink()
    hub.on_request = None
    since = len(hub.requests)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert hub.bytes_sent("/storage/", since=since) < len(files["model.safetensors"])
    assert client.leftovers() == []


def test_a_cache_mounted_read_only_is_a_hit(hub: HubStub, client: Client, small_disk: Path) -> None:
    commit = hub.add_repo("org/model", small_model())
    hub.repos["org/model"].refs["stable"] = commit
    client.cache = small_disk / "cache"
    path = client.fetch()
    assert run(Command(argv=("mount", "-o", "remount,ro", str(small_disk)))).exit_code == 0
    assert client.fetch(revision="stable") == path
    assert client.fetch(revision=commit) == path
    hub.add_repo("org/model", small_model(**{"config.json": b"{}"}))
    with pytest.raises(FetchError, match="cannot be written: Read-only file system"):
        client.fetch()


def test_a_file_system_without_locks(hub: HubStub, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtbuild.fetch import cache

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    files = small_model()
    hub.add_repo("org/model", files)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}


def test_locks_without_effect_cost_time_only(
    hub: HubStub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that grants every flock, another's fresh journal is respected until it is a minute old."""
    files = small_model()
    hub.add_repo("org/model", files)
    stall = hub.add_fault("GET /storage/", "stall", after_bytes=500_000, times=None)
    child = start(fetch_command(hub, client.cache), log_path=tmp_path / "log")
    hub.wait_until(lambda: hub.bytes_sent("/storage/") >= 1_500_000)
    hub.faults.remove(stall)
    from trtbuild.fetch import cache, download

    monkeypatch.setattr(cache.fcntl, "flock", lambda *_: None)
    waited: list[float] = []

    def wait(self: download.Transfer) -> None:
        waited.append(1.0)
        if len(waited) == 3:  # the other one dies, and its journal grows old
            child.kill()
            child.wait()
            (journal,) = client.cache.glob("*/blobs/*.journal")
            os.utime(journal, (time.time() - 61, time.time() - 61))

    monkeypatch.setattr(download.Transfer, "_wait_for_others", wait)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert len(waited) == 3
    assert client.leftovers() == []
