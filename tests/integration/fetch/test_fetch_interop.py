"""One cache, two tools: the real huggingface_hub finds what we downloaded, and we find what it downloaded."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.fetch.fetch_helpers import MIB, NEEDED, Client, contents, small_model
from trtbuild.process import Command, run, start

pytestmark = pytest.mark.integration


def their_tool(hub: HubStub, cache: Path, script: str) -> Command:
    """Return a Python program that uses huggingface_hub with this hub and cache."""
    source = "from huggingface_hub import *\n" + textwrap.dedent(script)
    env = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(cache.with_name("hf-home")),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return Command(argv=(sys.executable, "-c", source), env=env)


def last_line(command: Command) -> str:
    done = run(command)
    assert done.exit_code == 0, "\n".join(done.tail)
    return done.tail[-1]


def test_they_find_ours(hub: HubStub, client: Client) -> None:
    """Offline by name, online without downloading a byte again, and listed by their cache scan."""
    files = small_model()
    commit = hub.add_repo("org/model", files)
    ours = client.fetch()
    had = {*NEEDED, *(path.resolve().name for path in ours.iterdir())}
    before = len(hub.requests)
    script = """
        patterns = ["config.json", "tokenizer.json", "*.safetensors"]
        print(hf_hub_download("org/model", "model.safetensors", local_files_only=True))
        print(snapshot_download("org/model", local_files_only=True, allow_patterns=patterns))
        info = scan_cache_dir()
        (repo,) = info.repos
        (revision,) = repo.revisions
        print(repo.repo_id, revision.commit_hash, sorted(revision.refs), sorted(f.file_name for f in revision.files))
        print(len(info.warnings))
    """
    done = run(their_tool(hub, client.cache, script))
    assert done.exit_code == 0, "\n".join(done.tail)
    assert list(done.tail) == [
        str(ours / "model.safetensors"),
        str(ours),
        f"org/model {commit} ['main'] {sorted(NEEDED)}",
        "0",
    ]
    assert [r.path for r in hub.requests[before:] if "org/model" in r.path] == []  # it asks for other things, too
    assert last_line(their_tool(hub, client.cache, "print(snapshot_download('org/model'))")) == str(ours)
    downloaded = {request.path.rpartition("/")[2] for request in hub.requests[before:] if request.body_bytes}
    assert downloaded & had == set()
    assert contents(ours) == files


def test_we_find_theirs(hub: HubStub, client: Client) -> None:
    files = small_model()
    commit = hub.add_repo("org/model", files)
    theirs = last_line(their_tool(hub, client.cache, "print(snapshot_download('org/model'))"))
    before = len(hub.requests)
    assert client.fetch() == Path(theirs)
    assert [r.path for r in hub.requests[before:]] == ["/api/models/org/model/revision/main"]
    assert client.fetch(revision=commit) == client.offline().fetch() == Path(theirs)
    assert len(hub.requests) == before + 1


def test_we_find_theirs_of_older_versions_that_kept_no_listing(hub: HubStub, client: Client) -> None:
    commit = hub.add_repo("org/model", small_model())
    theirs = last_line(their_tool(hub, client.cache, "print(snapshot_download('org/model'))"))
    shutil.rmtree(client.cache / "models--org--model" / "trees")
    before = len(hub.requests)
    assert client.offline().fetch() == client.fetch(revision=commit) == Path(theirs)
    assert len(hub.requests) == before
    (Path(theirs) / "tokenizer.json").unlink()  # now it cannot be known to be complete without asking
    assert client.fetch(revision=commit) == Path(theirs)
    assert (Path(theirs) / "tokenizer.json").is_file()
    assert hub.bytes_sent("/storage/") <= 3 * MIB + 1000 + len(b"a pickle")


def test_we_complete_what_they_began(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    last_line(their_tool(hub, client.cache, "print(hf_hub_download('org/model', 'model.safetensors'))"))
    sent = hub.bytes_sent("/storage/")
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert hub.bytes_sent("/storage/") == sent


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_at_the_same_time_every_byte_is_downloaded_once(
    hub: HubStub, client: Client, tmp_path: Path, first: str
) -> None:
    """Both tools take the same lock around the same blob."""
    files = small_model()
    hub.add_repo("org/model", files)
    hub.bytes_per_s = MIB
    script = """
        import os
        from trtbuild import fetch

        hub, cache = fetch.Hub.from_env(os.environ), fetch.cache_directory(os.environ)
        found = fetch.resolve("org/model", "main", hub=hub, cache=cache)
        print(fetch.snapshot(found, cache=cache, hub=hub))
    """
    ours = Command(
        argv=(sys.executable, "-c", textwrap.dedent(script)),
        env={"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(client.cache)},
    )
    theirs = their_tool(hub, client.cache, "print(hf_hub_download('org/model', 'model.safetensors'))")
    order = [ours, theirs] if first == "ours" else [theirs, ours]
    one = start(order[0], log_path=tmp_path / "one")
    hub.wait_until(lambda: hub.bytes_sent("/storage/") > MIB // 8)
    two = start(order[1], log_path=tmp_path / "two")
    assert (one.wait(timeout=120), two.wait(timeout=120)) == (0, 0), (tmp_path / "two").read_text()
    assert hub.bytes_sent("/storage/") == len(files["model.safetensors"])
    assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
    assert client.leftovers() == []
