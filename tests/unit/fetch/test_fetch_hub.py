"""What the environment means, and which names from a hub are let near the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.errors import FetchError
from trtbuild.fetch import Hub, RemoteFile, cache_directory, http, is_commit
from trtbuild.fetch.cache import RepoCache
from trtbuild.fetch.hub import check_model_id, check_revision
from trtbuild.fetch.limits import Tuning
from trtbuild.model.remote import check_path

OID = "a" * 40


def from_env(home: Path, **environ: str) -> Hub:
    return Hub.from_env({"HOME": str(home), **environ})


def test_an_empty_environment_is_the_public_hub(tmp_path: Path) -> None:
    assert from_env(tmp_path) == Hub(endpoint="https://huggingface.co")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HF_ENDPOINT": "https://hub.example/hf/"}, Hub(endpoint="https://hub.example/hf"), id="endpoint"),
        pytest.param(
            {"HF_ENDPOINT": "https://u:p%40w@hub.example:1/hf/"},
            Hub(endpoint="https://hub.example:1/hf", login="u:p@w"),
            id="login",
        ),
        pytest.param({"HF_TOKEN": " hf_abc\n"}, Hub(token="hf_abc"), id="token"),
        pytest.param({"HUGGING_FACE_HUB_TOKEN": "hf_old"}, Hub(token="hf_old"), id="old-token-name"),
        pytest.param({"HF_TOKEN": "hf_new", "HUGGING_FACE_HUB_TOKEN": "hf_old"}, Hub(token="hf_new"), id="both-tokens"),
        pytest.param({"HF_TOKEN": ""}, Hub(), id="empty-token"),
        pytest.param({"HF_HUB_OFFLINE": "1"}, Hub(is_offline=True), id="offline-1"),
        pytest.param({"HF_HUB_OFFLINE": "YES"}, Hub(is_offline=True), id="offline-yes"),
        pytest.param({"TRANSFORMERS_OFFLINE": "true"}, Hub(is_offline=True), id="offline-transformers"),
        pytest.param({"HF_HUB_OFFLINE": "0"}, Hub(), id="online"),
        pytest.param({"SSL_CERT_FILE": "/ca.pem"}, Hub(ca_bundle=Path("/ca.pem")), id="ssl-cert-file"),
        pytest.param({"REQUESTS_CA_BUNDLE": "/r.pem"}, Hub(ca_bundle=Path("/r.pem")), id="requests-ca-bundle"),
        pytest.param({"CURL_CA_BUNDLE": "/c.pem"}, Hub(ca_bundle=Path("/c.pem")), id="curl-ca-bundle"),
        pytest.param(
            {"HTTPS_PROXY": "http://p:1", "no_proxy": "x"}, Hub(proxies={"https": "http://p:1", "no": "x"}), id="proxy"
        ),
        pytest.param(
            {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, Hub(proxies={"https": "http://a:1"}), id="lower"
        ),
        pytest.param(
            {"ALL_PROXY": "http://p:1"}, Hub(proxies={"http": "http://p:1", "https": "http://p:1"}), id="all-proxy"
        ),
    ],
)
def test_environment(tmp_path: Path, environ: dict[str, str], expected: Hub) -> None:
    assert from_env(tmp_path, **environ) == expected


def test_the_token_file_is_read_where_their_tools_keep_it(tmp_path: Path) -> None:
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_file\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("hf_elsewhere")
    assert from_env(tmp_path).token == "hf_file"
    assert from_env(tmp_path, HF_HOME=str(token.parent)).token == "hf_file"
    assert from_env(tmp_path, XDG_CACHE_HOME=str(tmp_path / ".cache")).token == "hf_file"
    assert from_env(tmp_path, HF_TOKEN_PATH=str(elsewhere)).token == "hf_elsewhere"
    assert from_env(tmp_path, HF_TOKEN="hf_env").token == "hf_env"
    assert from_env(tmp_path, HF_HOME=str(tmp_path / "empty")).token is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        pytest.param({"HF_ENDPOINT": "hub.example"}, "HF_ENDPOINT: expected an address", id="no-scheme"),
        pytest.param({"HF_ENDPOINT": "ftp://hub.example"}, "HF_ENDPOINT: expected an address", id="ftp"),
        pytest.param({"HF_TOKEN": "hf_secret two"}, "HF_TOKEN holds characters", id="blank-in-token"),
        pytest.param({"HF_TOKEN": "hf_secret\u00e9"}, "HF_TOKEN holds characters", id="accent-in-token"),
    ],
)
def test_unusable_variables_are_named_and_secrets_are_not_shown(
    tmp_path: Path, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        http.Client(from_env(tmp_path, **environ), Tuning())
    assert caught.value.hint
    assert "secret" not in f"{caught.value}{caught.value.hint}"


def test_a_token_that_cannot_be_used_is_no_fault_before_the_hub_is_asked(tmp_path: Path) -> None:
    hub = from_env(tmp_path, HF_TOKEN="hf_secret two")
    assert hub.token is None
    assert "holds characters" in str(hub.token_error)
    assert "secret" not in repr(hub)


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    """As in a pod whose user has no entry in /etc/passwd."""
    unknown_user = {"HF_HOME": "~no-such-user-here/hf"}
    with pytest.raises(FetchError, match="no home directory") as caught:
        cache_directory(unknown_user)
    assert "export HF_HOME=" in caught.value.hint
    assert Hub.from_env(unknown_user).token_error is not None
    assert cache_directory({**unknown_user, "HF_HUB_CACHE": "/cache"}) == Path("/cache")


def test_secrets_are_not_in_the_repr() -> None:
    hub = Hub(token="hf_secret", proxies={"https": "http://user:secret@proxy"})
    assert "secret" not in repr(hub)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HF_HUB_CACHE": "/a"}, "/a", id="hub-cache"),
        pytest.param({"HUGGINGFACE_HUB_CACHE": "/b"}, "/b", id="old-name"),
        pytest.param({"HF_HUB_CACHE": "/a", "HF_HOME": "/c"}, "/a", id="cache-before-home"),
        pytest.param({"HF_HOME": "/c"}, "/c/hub", id="home"),
        pytest.param({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub", id="xdg"),
        pytest.param({}, "/home/me/.cache/huggingface/hub", id="default"),
    ],
)
def test_cache_directory(environ: dict[str, str], expected: str) -> None:
    assert cache_directory({"HOME": "/home/me", **environ}) == Path(expected)


def test_addresses_are_quoted() -> None:
    hub = Hub(endpoint="https://h/prefix")
    assert (
        hub.url("org", "m", "resolve", "refs/pr/1", "a b#?.json")
        == "https://h/prefix/org/m/resolve/refs%2Fpr%2F1/a%20b%23%3F.json"
    )


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "a/b.c_d-e"])
def test_model_ids(name: str) -> None:
    assert check_model_id(name) == name


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a/..", "/a", "a/", "a b", ".a/b", "a--b/c", "a/b\n", "a/b?x"])
def test_model_ids_that_are_none(name: str) -> None:
    with pytest.raises(FetchError, match="expected a Hugging Face id"):
        check_model_id(name)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/12", "feature/x_y", "a" * 40])
def test_revisions(revision: str) -> None:
    assert check_revision(revision) == revision


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "/a", "a//b", "-x", "a b", "a\\b", "a\0b", "x" * 300])
def test_revisions_that_are_none(revision: str) -> None:
    with pytest.raises(FetchError, match="expected a branch, tag or commit"):
        check_revision(revision)


def test_is_commit() -> None:
    assert is_commit("0123456789abcdef0123456789abcdef01234567")
    assert not any(is_commit(text) for text in ("main", "A" * 40, "a" * 39, "a" * 41, "a" * 40 + "\n"))


parts = st.sampled_from(
    ["..", ".", "", "a", "config.json", "~", "\0", "x" * 300, "\\..\\..", "\ud800", "C:", "\n", " "]
)
hostile = st.one_of(st.text(), st.lists(parts, min_size=1, max_size=6).map("/".join))


@given(hostile)
def test_no_name_leaves_the_snapshot(name: str) -> None:
    """Whatever a hub calls a file: it is refused, or its place is inside the snapshot and the system takes the name."""
    repo = RepoCache(Path("/cache"), "org/model")
    try:
        pointer = repo.pointer(OID, check_path(name))
    except FetchError as error:
        assert "unsafe name" in error.message
        return
    root = repo.snapshot(OID)
    assert pointer.is_relative_to(root)
    assert pointer != root
    assert ".." not in pointer.parts
    assert str(pointer) == f"{root}/{name}"
    assert all(len(part) <= 255 and b"\0" not in part for part in str(pointer).encode().split(b"/"))


@given(hostile, st.text(), st.integers())
def test_records_of_a_hub_are_checked(path: str, oid: str, size: int) -> None:
    try:
        file = RemoteFile(path=path, size=size, oid=oid)
    except FetchError as error:
        assert error.hint
        return
    assert RepoCache(Path("/cache"), "org/model").blob(file).parent == Path("/cache/models--org--model/blobs")


def test_a_damaged_listing_in_the_cache_is_ignored(tmp_path: Path) -> None:
    repo = RepoCache(tmp_path, "org/model")
    file = RemoteFile(path="a/b.json", size=3, oid=OID, sha256="b" * 64, xet_hash="c" * 64)
    repo.write_tree(OID, [file])
    assert repo.read_tree(OID) == (file,)
    path = repo.directory / "trees" / f"{OID}.json"
    good = json.loads(path.read_text())
    bad_name = {**good, "files": {"../../x": good["files"]["a/b.json"]}}
    for text in ("{", "[]", "null", '{"format_version": 99, "files": {}}', json.dumps(bad_name), "[" * 5000):
        path.write_text(text)
        assert repo.read_tree(OID) is None
    path.unlink()
    os.mkfifo(path)
    assert repo.read_tree(OID) is None, "a named pipe is not waited for"


@pytest.mark.parametrize("text", ["", "main", "../../etc/passwd", "A" * 40, "\udcff"])
def test_a_damaged_ref_is_ignored(tmp_path: Path, text: str) -> None:
    repo = RepoCache(tmp_path, "org/model")
    repo.write_ref("main", OID)
    assert repo.read_ref("main") == OID
    (repo.directory / "refs" / "main").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert repo.read_ref("main") is None
