"""What is checked before a server opens its OpenAI port, what its models are given, and where they meet."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from trtbuild.errors import HostError, LaunchError, SpecError
from trtbuild.serve import openai
from trtbuild.serve.ports import Ports
from trtbuild.spec import ServerSpec, parse_spec

KEY = "k" * openai.MIN_KEY_LENGTH
PORTS = Ports(http=1, grpc=2, metrics=3, openai=4)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# clients\n\n{KEY}\n  {KEY}2  \n")
    path.chmod(0o600)
    return path


def warnings(**settings: object) -> str:
    python = settings.pop("python", Path(sys.executable))
    return "\n".join(openai.check_start(ServerSpec(**settings), python))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin", ["*", "https://a.example", "http://localhost:3000", "http://[::1]:8080", "https://a.b-c.example:65535"]
)
def test_an_origin_is_scheme_host_and_port(origin: str) -> None:
    openai.refuse_bad_settings(ServerSpec(openai_allowed_origin=("https://first.example", origin)))


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://a.example/x", "null", "ftp://a", "https://", "https://*.a.b"]
)
def test_what_no_browser_sends_as_its_origin_is_refused(origin: str) -> None:
    with pytest.raises(SpecError, match="--openai-allowed-origin: expected https://HOST"):
        openai.refuse_bad_settings(ServerSpec(openai_allowed_origin=("https://a.example", origin)))


def test_a_limit_below_every_request_is_refused() -> None:
    with pytest.raises(SpecError, match="--openai-max-body: expected at least 1024 bytes, got 0"):
        openai.refuse_bad_settings(ServerSpec(openai_max_body=0))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (("https://a", "https://b", "https://a"), ("https://a", "https://b")),
        ("https://b, https://a", ("https://b", "https://a")),
        (["https://a"], ("https://a",)),
        ("", ()),
    ],
)
def test_origins_are_a_list_everywhere(value: object, found: tuple[str, ...]) -> None:
    assert parse_spec({"model": "m", "openai_allowed_origin": value}).server.openai_allowed_origin == found


def test_a_mapping_of_origins_is_refused() -> None:
    with pytest.raises(SpecError, match="expected one value"):
        parse_spec({"model": "m", "openai_allowed_origin": {"a": "b"}})


def test_a_start_without_the_parser_is_refused_and_names_the_interpreter(tmp_path: Path) -> None:
    bare = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare.parent.parent], check=True)
    with pytest.raises(HostError, match=f"needs the package httptools, which {bare} cannot import") as caught:
        warnings(python=bare)
    assert f"{bare} -m pip install httptools uvloop orjson" in caught.value.hint
    assert warnings(python=bare, openai_port=0) == ""


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no JSON\n", "#!/bin/sh\necho 3\n", ""])
def test_an_interpreter_that_does_not_run_has_no_packages(content: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(content)
    python.chmod(0o755)
    assert openai.installed_packages(python) == {}


def test_the_packages_here_are_found_with_their_versions() -> None:
    assert openai.installed_packages(Path(sys.executable))["httptools"] == metadata.version("httptools")


def test_usable_keys_are_accepted_in_silence(keys: Path) -> None:
    assert warnings(api_key_file=keys) == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"", "holds no key", id="empty"),
        pytest.param(b"\n# only this\n  \n", "holds no key", id="comments"),
        pytest.param(b"a key\n", "line 1: expected printable ASCII without spaces", id="space"),
        pytest.param(f"{KEY}\nschlüssel\n".encode(), "line 2: expected printable ASCII", id="umlaut"),
        pytest.param(b"\x00\x01\x02", "line 1: expected printable ASCII", id="binary"),
        pytest.param(b"k" * ((1 << 20) + 1), "is larger than 1048576 bytes", id="huge"),
    ],
)
def test_a_file_without_a_usable_key_is_refused_and_not_shown(content: bytes, text: str, keys: Path) -> None:
    keys.write_bytes(content)
    with pytest.raises(SpecError, match=f"--api-key-file: {keys} {text}") as caught:
        warnings(api_key_file=keys)
    assert "umask 077" in caught.value.hint
    assert "schl" not in caught.value.message


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(lambda path: None, "No such file", id="missing"),
        pytest.param(lambda path: path.mkdir(), "not a regular file", id="directory"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="loop"),
        pytest.param(os.mkfifo, "not a regular file", id="pipe"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(make: object, text: str, tmp_path: Path) -> None:
    make(tmp_path / "keys")  # type: ignore[operator]
    with pytest.raises(SpecError, match=f"cannot read {tmp_path / 'keys'}: .*{text}"):
        warnings(api_key_file=tmp_path / "keys")


def test_short_keys_and_files_of_everybody_are_warned_of(keys: Path) -> None:
    keys.write_text(f"{KEY}\npa55!\n")
    keys.chmod(0o644)
    said = warnings(api_key_file=keys)
    assert f"{keys} line 2: a key of 5 characters is easy to guess" in said
    assert f"chmod 600 {keys}" in said
    assert "pa55!" not in said
    keys.chmod(0o440)  # as Kubernetes mounts a Secret for a pod with fsGroup
    assert "chmod" not in warnings(api_key_file=keys)


@pytest.mark.parametrize(
    ("settings", "has_keys", "text"),
    [
        pytest.param({}, False, "", id="loopback"),
        pytest.param({"host": "0.0.0.0"}, False, "listens on 0.0.0.0 and asks for no key", id="open"),
        pytest.param({"openai_host": "::"}, False, "listens on :: and asks for no key", id="open-alone"),
        pytest.param({"host": "0.0.0.0", "openai_host": "127.0.0.1"}, False, "", id="only-triton-is-open"),
        pytest.param({"host": "0.0.0.0"}, True, "Triton's own ports listen on 0.0.0.0", id="keys-guard-one"),
        pytest.param({"openai_host": "0.0.0.0"}, True, "", id="keys-guard-all"),
        pytest.param({"openai_port": 0}, True, "has no effect with --openai-port 0", id="keys-for-nothing"),
        pytest.param({"openai_port": 0, "host": "0.0.0.0"}, False, "", id="off"),
    ],
)
def test_who_can_use_the_model_is_said(settings: dict[str, object], has_keys: bool, text: str, keys: Path) -> None:
    said = warnings(**settings, **({"api_key_file": keys} if has_keys else {}))
    assert text in said
    assert bool(said) == bool(text)


def test_models_get_the_settings_and_no_key(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(keys.parent)
    spec = ServerSpec(
        host="10.0.0.1", api_key_file=Path(keys.name), openai_allowed_origin=("https://a",), openai_max_body=2048
    )
    text = openai.environment(spec, PORTS, Path("/tmp/x"))["TRTBUILD_OPENAI"]
    assert json.loads(text) == {
        "host": "10.0.0.1", "port": 4, "runtime_dir": "/tmp/x", "api_key_file": str(keys),
        "allowed_origins": ["https://a"], "max_body_bytes": 2048,
    }  # fmt: skip
    assert KEY not in text
    alone = openai.environment(ServerSpec(openai_host="::1"), PORTS, Path("/tmp/x"))
    assert json.loads(alone["TRTBUILD_OPENAI"])["host"] == "::1"


def test_a_server_without_the_port_does_not_inherit_that_of_another() -> None:
    """The variable of a surrounding server would open its port twice."""
    off = Ports(http=1, grpc=2, metrics=3)
    assert openai.environment(ServerSpec(openai_port=0), off, Path("/tmp/x")) == {"TRTBUILD_OPENAI": ""}


def test_the_directory_is_private_short_and_goes_with_its_server(tmp_path: Path) -> None:
    made = openai.make_runtime_directory({})
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(made.path)) <= 48
    assert made.path not in openai.remove_stale_directories(made.path.parent)
    (made.path / "m@1.5.sock").touch()
    made.remove()
    assert not made.path.exists()


def test_tmpdir_is_used_when_a_socket_fits_there(tmp_path: Path) -> None:
    short = Path("/tmp") / f"t{os.getpid()}"
    short.mkdir()
    try:
        made = openai.make_runtime_directory({"TMPDIR": str(short)})
        assert made.path.parent == short
        made.remove()
    finally:
        short.rmdir()
    made = openai.make_runtime_directory({"TMPDIR": f"/tmp/{'long' * 20}"})
    assert made.path.parent == Path("/tmp")
    made.remove()


def test_a_missing_tmpdir_is_passed_over_and_none_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = openai.make_runtime_directory({"TMPDIR": "/nonexistent"})
    assert made.path.parent == Path("/tmp")
    made.remove()
    monkeypatch.setattr(openai, "_parents", lambda _: [Path("/nonexistent")])
    with pytest.raises(LaunchError, match="/nonexistent: No such file") as caught:
        openai.make_runtime_directory({})
    assert "--openai-port 0" in caught.value.hint


def test_only_unlocked_directories_of_this_user_are_removed(tmp_path: Path) -> None:
    for name in ("trtbuild-openai-dead", "trtbuild-openai-alive", "somebody-elses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m@1.5.sock").touch()
    (tmp_path / "trtbuild-openai-file").touch()
    (tmp_path / "trtbuild-openai-link").symlink_to(tmp_path / "somebody-elses")
    alive = os.open(tmp_path / "trtbuild-openai-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_SH)
    assert openai.remove_stale_directories(tmp_path) == [tmp_path / "trtbuild-openai-dead"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "somebody-elses", "trtbuild-openai-alive", "trtbuild-openai-file", "trtbuild-openai-link",
    ]  # fmt: skip
    assert (tmp_path / "somebody-elses" / "m@1.5.sock").exists()
    os.close(alive)
    assert openai.remove_stale_directories(tmp_path) == [tmp_path / "trtbuild-openai-alive"]


def _make_many(parent: Path, count: int) -> None:
    for _ in range(count):
        openai.remove_stale_directories(parent)
        made = openai._make_locked(parent)
        assert made.path.is_dir()
        made.remove()


def test_starts_at_the_same_time_do_not_remove_each_others_directories(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    starts = [context.Process(target=_make_many, args=(tmp_path, 300)) for _ in range(3)]
    for start in starts:
        start.start()
    for start in starts:
        start.join(60)
    assert [start.exitcode for start in starts] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_shown_command_names_the_same_directory_each_time() -> None:
    shown = openai.shown_runtime_directory({}, 8080)
    assert shown == openai.shown_runtime_directory({}, 8080) == Path(f"/tmp/trtbuild-openai-{os.geteuid()}-8080")
    assert not shown.exists()
