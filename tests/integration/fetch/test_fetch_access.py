"""Who may read what, where the token goes, and what is said when the hub refuses or cannot be reached."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub_stub import HubStub, ProxyStub
from tests.integration.command_line import EXAMPLE, Machine
from tests.integration.fetch.fetch_helpers import NEEDED, Client, contents, safetensors, small_model
from trtbuild.errors import FetchError
from trtbuild.fetch import Hub, Resolved, find_cached, http, missing_bytes, read_config
from trtbuild.process import Command, run

pytestmark = pytest.mark.integration

TOKEN = "hf_test_0123456789"
MakeClient = Callable[..., Client]


@pytest.fixture
def closed() -> Iterator[HubStub]:
    """A hub with a gated, a private and a public model; the token has been let in to org/granted only."""
    with HubStub(token=TOKEN, granted=("org/granted",)) as hub:
        hub.add_repo("org/gated", small_model(), is_gated=True)
        hub.add_repo("org/granted", small_model(), is_gated=True)
        hub.add_repo("org/private", small_model(), is_private=True)
        hub.add_repo("org/model", small_model())
        yield hub


REFUSALS = [
    pytest.param("org/gated", "main", None, "is gated.*no access token was sent", "HF_TOKEN", id="gated-no-token"),
    pytest.param("org/gated", "main", TOKEN, "is gated.*has not been let in", "ask for access", id="gated-not-granted"),
    pytest.param("org/private", "main", None, "has no model 'org/private' without", "HF_TOKEN", id="private-no-token"),
    pytest.param("org/nothing", "main", None, "has no model 'org/nothing' without", "spelling", id="missing-no-token"),
    pytest.param("org/nothing", "main", TOKEN, "has no model 'org/nothing' for your", "spelling", id="missing-token"),
    pytest.param("org/model", "v9", None, "no branch, tag or commit 'v9'", "--revision", id="bad-revision"),
    pytest.param("org/model", "a" * 40, TOKEN, "no branch, tag or commit 'aaaa", "--revision", id="bad-commit"),
    pytest.param(
        "org/model", "main", "hf_wrong", "does not accept the access token", "settings/tokens", id="bad-token"
    ),
]


@pytest.mark.parametrize(("model_id", "revision", "token", "message", "hint"), REFUSALS)
def test_each_refusal_has_its_own_message(
    closed: HubStub, make_client: MakeClient, model_id: str, revision: str, token: str | None, message: str, hint: str
) -> None:
    client = make_client(closed, token=token)
    with pytest.raises(FetchError, match=message) as caught:
        client.fetch(model_id, revision)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 4
    assert client.pauses == []  # trying again would not help
    assert not token or token not in f"{caught.value}{caught.value.hint}"
    assert closed.bytes_sent("/storage/") == 0


def test_refusals_differ_from_each_other() -> None:
    messages = [case.values[3] for case in REFUSALS]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("model_id", ["org/granted", "org/private", "org/model"])
def test_the_token_opens_and_goes_to_the_hub_only(closed: HubStub, make_client: MakeClient, model_id: str) -> None:
    client = make_client(closed, token=TOKEN)
    assert {path.name for path in client.fetch(model_id).iterdir()} == NEEDED
    at_hub = [r for r in closed.requests if r.server == "hub"]
    at_storage = [r for r in closed.requests if r.server == "storage"]
    assert at_storage
    assert {r.headers.get("authorization") for r in at_hub} == {f"Bearer {TOKEN}"}
    assert not any(TOKEN in str(value) for r in at_storage for value in r.headers.values())
    assert not [path for path in client.cache.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_the_token_does_not_follow_a_redirect_to_another_port(closed: HubStub, make_client: MakeClient) -> None:
    """The same host name with another port is another origin."""
    storage = closed.storage_endpoint
    closed.storage_endpoint = storage.replace("localhost", "127.0.0.1")
    make_client(closed, token=TOKEN).fetch()
    at_storage = [r for r in closed.requests if r.server == "storage"]
    assert at_storage
    assert not any("authorization" in r.headers for r in at_storage)


def test_no_network_is_said_at_once(make_client: MakeClient, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    with HubStub() as hub:
        client = make_client(hub)
    client.hub = Hub(endpoint=endpoint)
    with pytest.raises(FetchError, match="no connection to the hub for org/model: .*Connection refused") as caught:
        client.resolve()
    assert "HF_HUB_OFFLINE" in caught.value.hint
    assert len(client.pauses) == 2


def test_a_name_that_does_not_resolve(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")  # this machine's resolver may be slow to say so

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    client.hub = Hub(endpoint="https://hub.example")
    with pytest.raises(FetchError, match=r"the name hub\.example cannot be resolved"):
        client.resolve()


def test_when_the_hub_is_down_the_cache_serves_with_a_warning(
    hub: HubStub, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.add_repo("org/model", small_model())
    path = client.fetch()
    hub.add_fault(".", "status", status=502, times=None)
    assert client.fetch() == path
    assert f"using commit {commit[:12]}, which 'main' was" in capsys.readouterr().err
    with pytest.raises(FetchError, match="502"):
        client.resolve(revision="never-seen")


def test_a_refusal_is_not_papered_over_by_the_cache(closed: HubStub, make_client: MakeClient) -> None:
    client = make_client(closed, token=TOKEN)
    client.fetch("org/private")
    client.hub = replace(client.hub, token=None)
    with pytest.raises(FetchError, match="has no model"):
        client.fetch("org/private")


def test_offline_uses_the_cache_and_nothing_else(hub: HubStub, client: Client) -> None:
    commit = hub.add_repo("org/model", small_model())
    path = client.fetch()
    before = len(hub.requests)
    offline = client.offline()
    for revision in ("main", commit):
        assert offline.fetch(revision=revision) == path
        assert read_config(offline.resolve(revision=revision), cache=client.cache, hub=offline.hub)
    for model_id, revision in (("org/other", "main"), ("org/model", "v2"), ("org/model", "b" * 40)):
        with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids") as caught:
            offline.fetch(model_id, revision)
        assert "hf download" in caught.value.hint
    (path / "tokenizer.json").unlink()
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids"):
        offline.fetch()
    assert len(hub.requests) == before


def test_find_cached_knows_branches_that_were_looked_up(hub: HubStub, client: Client) -> None:
    commit = hub.add_repo("org/model", small_model())
    assert find_cached("org/model", "main", client.cache) is None
    client.fetch()
    found = find_cached("org/model", "main", client.cache)
    assert found is not None
    assert (found.commit, {file.path for file in found.files or ()}) == (commit, set(small_model()))


def test_requests_go_through_the_proxy_unless_excepted(hub: HubStub, client: Client) -> None:
    files = small_model()
    hub.add_repo("org/model", files)
    with ProxyStub() as proxy:
        address = proxy.url.replace("http://", "http://user:secret@")
        client.hub = Hub.from_env({"HF_ENDPOINT": hub.endpoint, "HTTP_PROXY": address, "HOME": "/nonexistent"})
        assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
        assert {(method, login) for method, _, login in proxy.asked} == {("GET", "Basic dXNlcjpzZWNyZXQ=")}
        assert len(proxy.asked) == len(hub.requests)
        assert "secret" not in repr(client.hub)
        proxy.asked.clear()
        client.hub = replace(client.hub, proxies={**client.hub.proxies, "no": "127.0.0.1"})
        client.fetch()
        assert proxy.asked == []


def test_a_dead_proxy_is_named_without_its_password(hub: HubStub, client: Client) -> None:
    with ProxyStub() as proxy:
        address = proxy.url
    client.hub = replace(client.hub, proxies={"http": address.replace("http://", "http://user:secret@")})
    with pytest.raises(FetchError, match=f"through the proxy {address.removeprefix('http://')}") as caught:
        client.resolve()
    assert "secret" not in f"{caught.value}{caught.value.hint}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed, so no certificate can be made")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", "/CN=stub", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    argv += ["-out", str(chain), "-keyout", str(key)]
    assert run(Command(argv=tuple(argv))).exit_code == 0
    return chain, key


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "connect"])
def test_tls_with_a_ca_bundle(
    certificate: tuple[Path, Path], make_client: MakeClient, variable: str, is_proxied: bool
) -> None:
    files = small_model()
    with HubStub(tls=certificate) as hub, ProxyStub() as proxy:
        hub.add_repo("org/model", files)
        client = make_client(hub)
        environ = {"HF_ENDPOINT": hub.endpoint, variable: str(certificate[0]), "HOME": "/nonexistent"}
        client.hub = Hub.from_env(environ | ({"HTTPS_PROXY": proxy.url} if is_proxied else {}))
        assert contents(client.fetch()) == {name: files[name] for name in NEEDED}
        assert {method for method, _, _ in proxy.asked} == ({"CONNECT"} if is_proxied else set())


def test_an_untrusted_certificate_is_refused_with_the_remedy(
    certificate: tuple[Path, Path], make_client: MakeClient
) -> None:
    with HubStub(tls=certificate) as hub:
        client = make_client(hub)
        with pytest.raises(FetchError, match=r"certificate of 127\.0\.0\.1.* is not trusted.*self-signed") as caught:
            client.resolve()
    assert "SSL_CERT_FILE" in caught.value.hint
    assert client.pauses == []


def test_a_ca_bundle_that_is_not_there(hub: HubStub, client: Client, tmp_path: Path) -> None:
    client.hub = replace(client.hub, ca_bundle=tmp_path / "no.pem")
    with pytest.raises(FetchError, match=r"CA bundle .*no\.pem cannot be used: No such file") as caught:
        client.resolve()
    assert "SSL_CERT_FILE" in caught.value.hint


def test_something_else_than_a_hub_is_recognized(hub: HubStub, client: Client) -> None:
    hub.add_repo("org/model", small_model())
    hub.add_fault("/revision/", "body", body=b"<html>Welcome to Hotel WiFi</html>")
    with pytest.raises(FetchError, match="not JSON") as caught:
        client.resolve()
    assert "HF_ENDPOINT" in caught.value.hint
    hub.add_fault("/revision/", "body", body=b'{"sha": "../../etc"}')
    with pytest.raises(FetchError, match="gave no commit"):
        client.resolve()
    hub.add_fault("/tree/", "body", body=b'[{"type": "file", "path": "config.json", "size": 1, "oid": "../x"}]')
    with pytest.raises(FetchError, match="id that is no hash"):
        client.fetch()


def _listed(path: str, **fields: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": 1, "oid": "a" * 40, **fields}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"[" * 100_000, "not JSON", id="nested"),
        pytest.param(b" " * (1 << 17) + b"[]", "not JSON", id="huge"),
        pytest.param([_listed("x", size=float("inf"))], "without path, size or id", id="endless-size"),
        pytest.param([_listed("x"), _listed("x", oid="b" * 40)], "lists 'x' of org/model twice", id="two-contents"),
        pytest.param([_listed("x"), _listed("x", size=2)], "lists 'x' of org/model twice", id="two-sizes"),
        pytest.param([_listed("a\nb")], r"unsafe name: 'a\\nb'", id="newline"),
        pytest.param([_listed("a\x9b2J")], r"unsafe name: 'a\\x9b2J'", id="terminal-command"),
        pytest.param([_listed("/etc/passwd")], "unsafe name: '/etc/passwd'", id="absolute"),
        pytest.param([_listed("a/../../b")], "unsafe name", id="upwards"),
    ],
)
def test_a_listing_that_no_hub_would_send_is_refused(
    hub: HubStub, client: Client, monkeypatch: pytest.MonkeyPatch, body: bytes | list[object], message: str
) -> None:
    monkeypatch.setattr(http, "MAX_JSON_BYTES", 1 << 16)
    hub.add_repo("org/model", small_model())
    hub.add_fault("/tree/", "body", body=body if isinstance(body, bytes) else json.dumps(body).encode())
    with pytest.raises(FetchError, match=message) as caught:
        client.fetch()
    assert caught.value.hint
    assert not list(client.cache.glob("*/snapshots/*"))


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("caf\u00e9", "cafe\u0301")], ids=["case", "unicode"])
def test_files_that_are_one_on_some_disks_are_refused(hub: HubStub, client: Client, one: str, other: str) -> None:
    shards = {f"{one}.safetensors": safetensors(10, "1"), f"{other}.safetensors": safetensors(10, "2")}
    index = {"weight_map": {str(number): name for number, name in enumerate(shards)}}
    files = small_model(**shards, **{"model.safetensors.index.json": json.dumps(index).encode()})
    del files["model.safetensors"]
    hub.add_repo("org/model", files)
    with pytest.raises(FetchError, match="which are one where case or Unicode form is ignored"):
        client.fetch()
    assert not hub.bytes_sent("/storage/")
    hub.add_repo("org/model", small_model(**{"readme.md": b"", "Config.json": b"{}"}))
    assert contents(client.fetch()).keys() == NEEDED, "what is not taken cannot be mixed up"


def test_what_is_missing_is_what_is_not_on_the_disk(hub: HubStub, client: Client) -> None:
    weights = {f"model-{n}.safetensors": safetensors(1000, str(n)) for n in range(3)}
    index = {"weight_map": {str(n): name for n, name in enumerate(weights)}}
    files = small_model(**weights, **{"model.safetensors.index.json": json.dumps(index).encode()})
    del files["model.safetensors"]
    commit = hub.add_repo("org/model", files)
    unknown = Resolved(model_id="org/model", revision=commit, commit=commit)
    assert missing_bytes(unknown, cache=client.cache) is None, "the hub was not queried yet"
    read_config(unknown, cache=client.cache, hub=client.hub, tuning=client.tuning)
    listed = find_cached("org/model", commit, client.cache)
    assert listed is not None
    assert listed.files is not None, "a listing is there, the files are not"
    assert missing_bytes(listed, cache=client.cache) is None, "the index says which weights are used"
    path = client.fetch()
    before = contents(path)
    assert missing_bytes(listed, cache=client.cache) == 0
    for name in ("model-1.safetensors", "tokenizer.json"):
        (path / name).resolve().unlink()
        (path / name).unlink()
    sent = len(before["model-1.safetensors"]) + len(before["tokenizer.json"])
    assert missing_bytes(listed, cache=client.cache) == sent
    (path / "model-2.safetensors").unlink()
    assert missing_bytes(listed, cache=client.cache) == sent, "a blob without its link is not downloaded again"
    client.fetch()
    assert contents(path) == before


def test_an_unreadable_token_matters_only_when_the_hub_is_asked(closed: HubStub, make_client: MakeClient) -> None:
    client = make_client(closed)
    token = client.cache.parent / "token"
    token.mkdir()  # what root cannot read either
    hub = Hub.from_env({"HF_ENDPOINT": closed.endpoint, "HF_TOKEN_PATH": str(token)})
    commit = client.resolve().commit
    there = client.fetch()
    client.hub = hub
    asked = len(closed.paths())
    with pytest.raises(FetchError, match=rf"is to be asked, and the .* token file {token} cannot be read") as caught:
        client.fetch()
    assert "HF_TOKEN=" in caught.value.hint
    assert client.fetch(revision=commit) == there, "a commit that is complete needs no hub"
    assert client.offline().fetch() == there
    assert len(closed.paths()) == asked
    with pytest.raises(FetchError, match="cannot be read"):
        client.fetch("org/granted")


def test_a_local_model_needs_no_token(tmp_path: Path, hub: HubStub) -> None:
    machine = Machine(tmp_path, hub, env={"HF_TOKEN_PATH": str(tmp_path)})
    assert machine.json("plan", str(EXAMPLE), "--backend", "cpu")
    assert "token file" in machine.run("plan", "org/model", "--backend", "cpu", code=4).stderr
    assert not hub.paths()
