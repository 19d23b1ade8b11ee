"""Downloads that go well, and downloads that do not: every fault of the network and the hub, against real sockets."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub_stub import HubStub, git_oid
from tests.integration.fetch.fetch_helpers import MIB, NEEDED, Client, contents, safetensors, small_model
from trtbuild.errors import FetchError
from trtbuild.fetch import Resolved, read_config, snapshot
from trtbuild.fetch.cache import BlobLock, RepoCache

pytestmark = pytest.mark.integration


def test_only_needed_files_arrive_in_the_standard_layout(hub: HubStub, client: Client) -> None:
    files = small_model(**{"original/consolidated.00.pth": b"x", "onnx/model.onnx": b"x", "m.Q4.gguf": b"x"})
    commit = hub.add_repo("org/model", files)
    path = client.fetch()
    assert path == client.cache / "models--org--model" / "snapshots" / commit
    assert contents(path) == {name: files[name] for name in NEEDED}
    blobs = client.cache / "models--org--model" / "blobs"
    for name in NEEDED:
        assert not (path / name).readlink().is_absolute()
        assert (path / name).resolve().parent == blobs
    assert (path / "config.json").resolve().name == git_oid(files["config.json"])
    assert (client.cache / "models--org--model/refs/main").read_text() == commit
    assert (client.cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert client.leftovers() == []


def test_a_second_time_costs_one_request_and_a_commit_none(hub: HubStub, client: Client) -> None:
    commit = hub.add_repo("org/model", small_model())
    path = client.fetch()
    before = len(hub.requests)
    assert client.fetch() == path
    assert [r.path for r in hub.requests[before:]] == ["/api/models/org/model/revision/main"]
    assert client.fetch(revision=commit) == path
    assert len(hub.requests) == before + 1


def test_sharded_weights_follow_the_index(hub: HubStub, client: Client) -> None:
    names = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"metadata": {}, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    files = small_model(**{name: safetensors(MIB // 2, name) for name in names})
    del files["model.safetensors"]
    files |= {"model.safetensors.index.json": json.dumps(index).encode(), "model-extra.safetensors": b"not named"}
    hub.add_repo("org/model", files)
    expected = {"config.json", "tokenizer.json", "model.safetensors.index.json", *names}
    assert contents(client.fetch()) == {name: files[name] for name in expected}


def test_large_files_come_in_ranges_over_several_connections(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    barrier = threading.Barrier(4)  # passes only when four requests for the weights are open at the same time

    def meet(request: object) -> None:
        if getattr(request, "server", "") == "storage":
            barrier.wait(timeout=60)

    hub.on_request = meet
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]
    ranges = {r.headers.get("range", "") for r in hub.requests if r.server == "storage"}
    assert len(ranges) == 4
    assert hub.bytes_sent("/storage/") == len(files["model.safetensors"])


def test_a_long_file_list_is_read_to_its_end(make_client: Callable[..., Client]) -> None:
    with HubStub(page_size=2) as hub:
        hub.add_repo("org/model", small_model())
        client = make_client(hub)
        assert {path.name for path in client.fetch().iterdir()} == NEEDED


@pytest.mark.parametrize("has_links", [True, False])
def test_files_with_equal_content(
    hub: HubStub, client: Client, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """They share a blob; on a file system without symbolic links each is a file of its own."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as SMB mounts answer

    if not has_links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    files = small_model(**{"vocab.json": b"{}", "added_tokens.json": b"{}", "merges.txt": b""})
    hub.add_repo("org/model", files)
    found = client.fetch()
    expected = NEEDED | {"vocab.json", "added_tokens.json", "merges.txt"}
    assert contents(found) == {name: files[name] for name in expected}
    assert (found / "vocab.json").is_symlink() is has_links
    before = len(hub.requests)
    assert client.offline().fetch() == found
    assert len(hub.requests) == before


def test_a_model_that_was_renamed_is_found_by_its_old_name(hub: HubStub, client: Client) -> None:
    files = small_model()
    commit = hub.add_repo("openai-community/gpt2", files)
    hub.renamed["gpt2"] = "openai-community/gpt2"
    path = client.fetch("gpt2")
    assert path == client.cache / "models--gpt2" / "snapshots" / commit
    assert contents(path) == {name: files[name] for name in NEEDED}


def test_pickles_only_when_allowed_and_nothing_better_is_there(hub: HubStub, client: Client) -> None:
    files = small_model()
    del files["model.safetensors"]
    hub.add_repo("org/model", files)
    with pytest.raises(FetchError, match="only pickled weights") as caught:
        client.fetch()
    assert "--allow-pickle" in caught.value.hint
    assert hub.bytes_sent("/storage/") == 0
    assert contents(client.fetch(allow_pickle=True))["pytorch_model.bin"] == b"a pickle"


def test_a_tokenizer_larger_than_any_is_not_downloaded(
    hub: HubStub, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtbuild.untrusted.METADATA_LIMIT_BYTES", 1000)
    hub.add_repo("org/model", small_model(**{"tokenizer.json": b"{}" + b" " * 1000}))
    with pytest.raises(FetchError, match=r"tokenizer\.json of org/model has 1002 B, expected at most 1000 B"):
        client.fetch()
    assert hub.bytes_sent("/storage/") == 0


def test_a_file_that_the_front_model_cannot_read_ends_the_fetch(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model(**{"tokenizer_config.json": b'{"a":' * 99999}))
    with pytest.raises(FetchError, match=r"tokenizer_config\.json cannot be read: it is nested too deeply"):
        client.fetch()


def test_config_alone_without_weights(hub: HubStub, client: Client) -> None:
    quantization = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    hub.add_repo("org/model", small_model(**{"hf_quant_config.json": json.dumps(quantization).encode()}))
    resolved = client.resolve()
    config = read_config(resolved, cache=client.cache, hub=client.hub)
    assert config == {"model_type": "llama", "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    assert hub.bytes_sent("/storage/") == 0
    before = len(hub.requests)
    assert read_config(resolved, cache=client.cache, hub=replace(client.hub, is_offline=True)) == config
    assert read_config(resolved, cache=client.cache, hub=client.hub) == config
    assert len(hub.requests) == before


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_dropped_connections_continue_where_they_broke(hub: HubStub, client: Client, kind: str) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", kind, times=6, after_bytes=600_000)
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]
    # What arrived before a hard reset may be lost in socket buffers; nothing else is asked for twice.
    repeated = hub.bytes_sent("/storage/") - len(files["model.safetensors"])
    assert repeated <= (6 * client.tuning.read_bytes if kind == "cut" else 6 * 600_000)
    assert client.leftovers() == []


def test_a_silent_connection_is_given_up(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", "stall", after_bytes=300_000)
    client.tuning = replace(client.tuning, timeout_s=0.5)
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "headers", "expected_s"),
    [
        pytest.param(429, {"Retry-After": "7"}, 7.0, id="429-seconds"),
        pytest.param(503, {"Retry-After": "3"}, 3.0, id="503-seconds"),
        pytest.param(429, {"RateLimit": '"api";r=0;t=11'}, 11.0, id="429-ratelimit-header"),
    ],
)
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/", "/storage/"])
def test_a_busy_server_is_given_the_time_it_asks_for(
    hub: HubStub, client: Client, status: int, headers: dict[str, str], expected_s: float, where: str
) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault(f"GET .*{where}", "status", status=status, headers=headers, times=2)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert client.pauses == [expected_s, expected_s]


def test_a_server_that_stays_busy_is_reported_with_what_it_asked(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault("GET /storage/", "status", status=429, headers={"Retry-After": "3600"}, times=None)
    with pytest.raises(FetchError, match="too busy .*429.*3600 s") as caught:
        client.fetch()
    assert "HF_TOKEN" in caught.value.hint
    assert client.pauses == []


def test_errors_without_advice_wait_longer_each_time_and_end(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault("GET /api/", "status", status=500, times=None)
    with pytest.raises(FetchError, match="after 8 attempts: .* answers 500"):
        client.resolve()
    assert len(client.pauses) == 7
    assert client.pauses == sorted(client.pauses)
    assert len(hub.requests) == 8


def test_a_branch_that_moves_meanwhile_changes_nothing(hub: HubStub, client: Client) -> None:
    old = small_model()
    hub.add_repo("org/model", old)
    resolved = client.resolve()
    hub.add_repo("org/model", small_model(**{"model.safetensors": safetensors(MIB, "new"), "config.json": b"{}"}))
    path = snapshot(resolved, cache=client.cache, hub=client.hub, tuning=client.tuning)
    assert contents(path) == {name: old[name] for name in NEEDED}


def test_a_file_that_changes_under_its_commit_is_refused(hub: HubStub, client: Client) -> None:
    """A mirror that serves the branch whatever the commit: seen at the first answer, before gigabytes are wasted."""
    commit = hub.add_repo("org/model", small_model())
    resolved = client.resolve()
    read_config(resolved, cache=client.cache, hub=client.hub)  # lists the files
    changed = hub.add_repo("org/model", small_model(**{"model.safetensors": safetensors(3 * MIB, "other")}))
    hub.repos["org/model"].commits[commit] = hub.repos["org/model"].commits[changed]
    with pytest.raises(FetchError, match="changed on the hub") as caught:
        snapshot(resolved, cache=client.cache, hub=client.hub, tuning=client.tuning)
    assert "again" in caught.value.hint
    assert hub.bytes_sent("/storage/") == 0
    fresh = contents(client.fetch())  # the listing was forgotten, so the same command now works
    assert fresh["model.safetensors"] == safetensors(3 * MIB, "other")


WRONG = [
    pytest.param("model.safetensors", "GET /storage/", "corrupt", {"after_bytes": 1000}, id="flipped-byte"),
    pytest.param("config.json", "GET .*config.json", "corrupt", {"after_bytes": 3}, id="flipped-byte-small-file"),
    pytest.param("config.json", "GET .*config.json", "body", {"body": b'{"model_type": "LLAMA"}'}, id="same-length"),
]


@pytest.mark.parametrize(("name", "match", "kind", "options"), WRONG)
def test_wrong_content_is_never_accepted(
    hub: HubStub, client: Client, name: str, match: str, kind: str, options: dict[str, object]
) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault(match, kind, times=None, **options)
    with pytest.raises(FetchError, match=f"{name} .* is not what the hub's record says: expected sha") as caught:
        client.fetch()
    assert "mirror" in caught.value.hint
    snapshots = client.cache / "models--org--model" / "snapshots"
    assert not list(snapshots.glob(f"*/{name}"))
    assert not [blob for blob in client.leftovers() if git_oid(files["config.json"]) in blob]


@pytest.mark.parametrize(("name", "match", "kind", "options"), WRONG)
def test_wrong_content_once_is_mended(
    hub: HubStub, client: Client, name: str, match: str, kind: str, options: dict[str, object]
) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault(match, kind, times=1, **options)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert client.leftovers() == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("short", {"after_bytes": 10}, id="announced-too-short"),
        pytest.param("body", {"body": b"<html>log in first</html>"}, id="login-page"),
        pytest.param("cut", {"after_bytes": 0}, id="nothing-arrives"),
    ],
)
def test_a_truncated_small_file_is_never_accepted(
    hub: HubStub, client: Client, kind: str, options: dict[str, object]
) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault("GET .*tokenizer.json", kind, times=None, **options)
    client.tuning = replace(client.tuning, attempts=3)
    with pytest.raises(FetchError, match="tokenizer.json"):
        client.fetch()
    assert not list(client.cache.rglob("tokenizer.json"))


def test_a_server_without_ranges_is_served_whole(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", "no_range", times=None)
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]
    assert client.leftovers() == []


def test_an_expired_address_is_asked_for_anew(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", "status", status=403, times=3)
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]


def test_a_blob_of_wrong_length_is_replaced(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    path = client.fetch()
    (path / "model.safetensors").resolve().write_bytes(b"cut by a full disk")
    assert contents(client.fetch())["model.safetensors"] == files["model.safetensors"]


def test_a_new_commit_downloads_only_what_changed(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    client.fetch()
    before = hub.bytes_sent()
    commit = hub.add_repo("org/model", small_model(**{"config.json": b'{"model_type": "llama", "x": 1}'}))
    assert client.fetch().name == commit
    assert hub.bytes_sent("/storage/") <= before
    assert len([r for r in hub.requests if r.server == "storage"]) == 4


def test_leftovers_of_a_file_that_changed_are_removed_after_a_day(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    blobs = client.fetch().parent.parent / "blobs"
    for name, age_s in (("a" * 64, 25 * 3600), ("b" * 64, 3600)):
        data = blobs / f"{name}.trtbuild-incomplete"
        data.write_bytes(b"")
        (blobs / f"{name}.trtbuild-incomplete.journal").write_text("")
        os.utime(data, (0, time.time() - age_s))
    temporary = blobs.parent / "refs" / ".0123.trtbuild-tmp"
    temporary.write_text("")
    os.utime(temporary, (0, 0))
    hub.add_repo("org/model", small_model(**{"config.json": b"{}"}))
    client.fetch()
    assert client.leftovers() == ["b" * 64 + s for s in (".trtbuild-incomplete", ".trtbuild-incomplete.journal")]


def test_a_clock_that_jumps_and_a_lock_that_is_held_keep_unfinished_downloads(
    hub: HubStub, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes to them."""
    hub.add_repo("org/model", small_model())
    repo = RepoCache(client.cache, "org/model")
    client.fetch()
    young, held = (repo.blobs / f"{letter * 64}.trtbuild-incomplete" for letter in "ab")
    for path in (young, held):
        path.write_bytes(b"x")
    os.utime(held, (0, 0))
    lock = BlobLock(repo.locks / f"{'b' * 64}.lock")
    assert lock.acquire()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 30 * 86400)
    hub.add_repo("org/model", small_model(**{"config.json": b"{}"}))
    client.fetch()
    assert young.exists()
    assert held.exists()
    lock.release()
    hub.add_repo("org/model", small_model(**{"config.json": b"{ }"}))
    client.fetch()
    assert young.exists()
    assert not held.exists()


def test_progress_counts_every_byte_once(
    hub: HubStub, client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trtbuild.console import log

    done: list[int] = []
    advance = log.Progress.advance

    def record(self: log.Progress, count: int) -> None:
        done.append(count)
        advance(self, count)

    monkeypatch.setattr(log.Progress, "advance", record)
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", "reset", times=2, after_bytes=400_000)
    hub.add_fault("GET .*config.json", "corrupt", times=1, after_bytes=1)
    client.fetch()
    assert sum(done) == sum(len(files[name]) for name in NEEDED)
    assert "downloading org/model: 3 files, 3.0 MiB" in capsys.readouterr().err


def test_hostile_names_are_refused(hub: HubStub, client: Client, tmp_path: Path) -> None:
    hub.add_repo("org/model", small_model(**{"../../../outside.json": b"{}"}))
    with pytest.raises(FetchError, match=r"unsafe name: '\.\./\.\./\.\./outside.json'"):
        client.fetch()
    assert not list(tmp_path.rglob("outside*"))


def test_an_index_cannot_name_files_elsewhere(hub: HubStub, client: Client) -> None:
    files = small_model(**{"model.safetensors.index.json": b'{"weight_map": {"a": "../../x.safetensors"}}'})
    del files["model.safetensors"]
    hub.add_repo("org/model", files)
    with pytest.raises(FetchError, match=r"index.json of org/model: weight_map: .* got '../../x.safetensors'"):
        client.fetch()


def test_an_unknown_snapshot_is_not_invented(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    ghost = Resolved(model_id="org/model", revision="f" * 40, commit="f" * 40)
    with pytest.raises(FetchError, match="has no branch, tag or commit 'ffff"):
        snapshot(ghost, cache=client.cache, hub=client.hub, tuning=client.tuning)


def test_what_the_caller_minds_is_known_before_the_weights_are_downloaded(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())

    def mind(directory: Path) -> None:
        assert (directory / "tokenizer.json").is_file()
        assert not (directory / "model.safetensors").exists()
        raise FetchError("minded", hint="none")

    with pytest.raises(FetchError, match="minded"):
        snapshot(client.resolve(), hub=client.hub, cache=client.cache, check=mind)
    assert not [request for request in hub.requests if "safetensors" in request.path]
