"""Servers that crawl, refuse a part, or compress what must not be compressed."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.fetch.fetch_helpers import NEEDED, Client, contents, small_model
from trtbuild.errors import FetchError

pytestmark = pytest.mark.integration


def test_a_connection_that_crawls_is_replaced(hub: HubStub, client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault("GET /storage/", "trickle", after_bytes=300_000)
    client.tuning = replace(client.tuning, slow_s=1.0)
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert "the connection brought less than 64.0 KiB in 1 s; trying again" in capfd.readouterr().err
    repeated = hub.bytes_sent("/storage/") - len(files["model.safetensors"])
    assert repeated < 200_000, "what a slow connection brought is kept"
    assert client.leftovers() == []


def test_a_server_that_only_crawls_is_given_up_with_what_was_expected(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault("GET /storage/", "trickle", times=None, after_bytes=0)
    client.tuning = replace(client.tuning, slow_s=0.5, attempts=3)
    with pytest.raises(FetchError, match=r"after 3 attempts: the connection brought less than .* in 0.5 s") as caught:
        client.fetch()
    assert "what was downloaded is kept" in caught.value.hint


def test_a_connection_that_is_slow_but_works_is_left_alone(make_client: Callable[..., Client]) -> None:
    with HubStub(bytes_per_s=600_000) as hub:
        hub.add_repo("org/model", files := small_model())
        client = make_client(hub)
        client.tuning = replace(client.tuning, slow_s=2.0, connections=1)
        assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
        assert client.pauses == []


@pytest.mark.parametrize("where", ["/storage/", "/resolve/.*/config.json"])
def test_a_part_that_is_refused_once_is_asked_for_again(hub: HubStub, client: Client, where: str) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    hub.add_fault(f"GET .*{where}", "status", status=416, headers={"Content-Range": "bytes */5"})
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert len(client.pauses) == 1


def test_a_part_that_is_refused_again_ends_the_download_with_both_sizes(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", files := small_model())
    hub.add_fault("GET /storage/", "status", status=416, headers={"Content-Range": "bytes */5"}, times=None)
    with pytest.raises(FetchError, match=r"refuses bytes \d+ to \d+, twice: .* 416 .*bytes \*/5") as caught:
        client.fetch()
    assert f"the hub lists {len(files['model.safetensors'])} bytes" in caught.value.message
    assert "new listing" in caught.value.hint


@pytest.mark.parametrize("where", ["/storage/", "/resolve/.*/config.json"])
def test_a_compressed_file_is_refused_at_once(hub: HubStub, client: Client, where: str) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault(
        f"GET .*{where}", "body", body=gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"}, times=None
    )
    with pytest.raises(FetchError, match="comes with Content-Encoding 'gzip'; expected its") as caught:
        client.fetch()
    assert "compresses downloads" in caught.value.hint
    assert client.pauses == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full: .* are free: something else filled it during the download"),
        (errno.EDQUOT, "the disk quota of uid .* is used up: something else filled it"),
        (errno.EFBIG, "takes no file as large as that"),
        (errno.EIO, "cannot be written: Input/output error"),
    ],
)
def test_a_disk_that_fails_in_the_middle_is_named_and_nothing_stays_open(
    hub: HubStub, client: Client, number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/model", files := small_model())
    writes = itertools.count()
    write = os.pwrite

    def fail(fd: int, data: bytes, offset: int) -> int:
        if next(writes) > 3:
            raise OSError(number, os.strerror(number))
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(FetchError, match=words) as caught:
        client.fetch()
    assert "--hf-cache" in caught.value.hint
    held = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [path for path in held if path.startswith(str(client.cache))]
    monkeypatch.undo()
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
