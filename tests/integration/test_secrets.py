"""Secrets that a machine was given are nowhere in what it writes: output, logs, manifests, the store, argv."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import MODEL, Machine, add_example

pytestmark = pytest.mark.integration

PLANTED = {
    "login": "pla:nt@ed-login",
    "proxy": "planted-proxy-pw",
    "token": "hf_PlantedToken0123456789abcdefghi",
    "aws": "PlantedAws/Secret+Key0123456789",
    "session": "PlantedSessionToken0123456789",
    "signature": "PlantedSignature0123456789abcdef",
    "tier": "PlantedTier/Secret0123",
}
QUOTED = {"login": "pla%3Ant%40ed-login"}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubStub(login=f"user:{PLANTED['login']}") as hub:
        add_example(hub)
        address = hub.endpoint.removeprefix("http://")
        env = {
            "HF_ENDPOINT": f"http://user:{QUOTED['login']}@{address}",
            "HF_TOKEN": PLANTED["token"],
            "HTTP_PROXY": f"http://user:{PLANTED['proxy']}@127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED00",
            "AWS_SECRET_ACCESS_KEY": PLANTED["aws"],
            "AWS_SESSION_TOKEN": PLANTED["session"],
        }
        yield Machine(directory=tmp_path, hub=hub, env=env)


def _leaks(data: bytes) -> list[str]:
    spelled = [*PLANTED.values(), *QUOTED.values(), "AKIAPLANTEDPLANTED00"]
    spelled += [base64.b64encode(f"user:{PLANTED['login']}".encode()).decode()]
    return [secret for secret in spelled if secret.encode() in data]


def _check(machine: Machine, *texts: str) -> None:
    """Look at texts and at every file that the machine has written."""
    for text in texts:
        assert not _leaks(text.encode()), text
    for path in machine.directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not _leaks(path.read_bytes()), path
    assert not [path for path in machine.directory.rglob("*") if _leaks(str(path).encode())]


def test_a_build_and_every_look_at_it_show_no_secret(machine: Machine) -> None:
    seen, stop = set(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.update(_leaks(path.read_bytes()))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        outputs = []
        for arguments in (
            ("build", MODEL, "--backend", "cpu", "--log-level", "debug", "--log-format", "json"),
            ("init", MODEL, "--backend", "cpu"),
            ("plan", MODEL, "--backend", "cpu", "--format", "json"),
            ("explain", MODEL, "--backend", "cpu"),
            ("doctor",),
            ("store", "ls"),
            ("store", "verify"),
            ("store", "gc"),
        ):
            done = machine.run(*arguments)
            outputs += [done.stdout, done.stderr]
    finally:
        stop.set()
        watcher.join()
    assert not seen
    (entry,) = machine.directory.glob("store/engines/*/*/*")
    outputs += [machine.run("store", "inspect", str(entry)).stdout]
    machine.run("store", "export", str(entry), "-o", "engine.tar")
    assert (machine.directory / "engine.tar").is_file()
    _check(machine, *outputs)
    sent = {(request.server, request.headers.get("authorization")) for request in machine.hub.requests}
    login = base64.b64encode(f"user:{PLANTED['login']}".encode()).decode()
    assert sent == {("hub", f"Basic {login}"), ("storage", None)}


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    ("env", "arguments", "code", "says"),
    [
        pytest.param({}, ("build", "org/unknown"), 4, "has no model", id="unknown-model"),
        pytest.param(
            {"HF_ENDPOINT": f"http://user:{QUOTED['login']}@127.0.0.1:9"}, ("build", MODEL), 4,
            "check the network", id="no-hub",
        ),
        pytest.param({"NO_PROXY": ""}, ("build", MODEL), 4, "through the proxy 127.0.0.1:9", id="dead-proxy"),
        pytest.param(
            {"HTTP_PROXY": f"socks5://user:{PLANTED['proxy']}@127.0.0.1:9", "NO_PROXY": ""}, ("build", MODEL), 4,
            "is of a kind that is not supported", id="odd-proxy",
        ),
        pytest.param(
            {"HF_ENDPOINT": f"ftp://user:{QUOTED['login']}@host"}, ("build", MODEL), 4,
            "HF_ENDPOINT: expected an address", id="odd-endpoint",
        ),
        pytest.param(
            {"HF_ENDPOINT": f"http://user:{PLANTED['tier']}@host"}, ("build", MODEL), 4,
            "HF_ENDPOINT: expected an address", id="raw-slash-in-endpoint",
        ),
        pytest.param(
            {"HF_ENDPOINT": f"http://host/?X-Amz-Signature={PLANTED['signature']}"}, ("build", MODEL), 4,
            "HF_ENDPOINT: expected an address", id="signed-endpoint",
        ),
        pytest.param({"HF_TOKEN": PLANTED["token"] + "\xe9"}, ("build", MODEL), 4, "access token", id="odd-token"),
        pytest.param(
            {"TRTBUILD_SHARED_TIER": f"s3://AKIAPLANTEDPLANTED00:{PLANTED['tier']}@bucket/x"},
            ("build", MODEL, "--backend", "cpu"), 7, "credentials do not belong", id="tier-with-login",
        ),
        pytest.param(
            {"TRTBUILD_SHARED_TIER": f"odd://user:{PLANTED['tier']}@bucket/x"}, ("build", MODEL, "--backend", "cpu"), 7,
            "shared tier: expected", id="odd-tier",
        ),
        pytest.param({}, ("build", f"http://user:{PLANTED['login']}@host/model"), 2, "no catalog", id="url-for-model"),
        pytest.param({}, ("build", MODEL, f"--http://u:{PLANTED['tier']}@h"), 2, "No such option", id="usage"),
        pytest.param(
            {"TRTBUILD_MAX_BATCH_SIZE": f"http://u:{PLANTED['tier']}@h"}, ("build", MODEL), 2, "max", id="odd-value"
        ),
    ],
)  # fmt: skip
def test_a_failure_shows_no_secret(
    machine: Machine, env: dict[str, str], arguments: tuple[str, ...], code: int, says: str, log_format: str
) -> None:
    machine.env |= env
    done = machine.run(*arguments, "--log-format", log_format, code=code)
    assert says in done.stderr
    _check(machine, done.stdout, done.stderr)


def test_a_refusal_of_the_hub_shows_no_secret(machine: Machine) -> None:
    machine.hub.login = None
    done = machine.run("build", MODEL, code=4)
    assert "does not accept the login" in done.stderr
    _check(machine, done.stdout, done.stderr)


BUG = """
import sys, types, click
from {name}.cli import main
from {name}.cli.app import app
@click.command()
def work():
    print("result http://u:%s@h" % {secret!r})
    print("note http://u:%s@h" % {secret!r}, file=sys.stderr)
    secret = {secret!r}
    raise RuntimeError("https://u:%s@h?X-Amz-Signature=%s Authorization: Bearer %s" % (secret, secret, secret))
module = types.ModuleType("commands")
module.work = work
sys.modules["commands"] = module
app.table["work"] = ("commands:work", "Fail.")
main(["work"])
"""


@pytest.mark.parametrize("name", ["trtbuild", "trtclient"])
def test_a_bug_shows_its_traceback_without_secrets(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BUG.format(name=name, secret=PLANTED["signature"]))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: https://***@h?X-Amz-Signature=***" in done.stderr
    assert "note http://***@h" in done.stderr
    assert PLANTED["signature"] not in done.stderr.replace(script.read_text(), "")
    if name == "trtbuild":  # what a model wrote is not ours to change, so trtclient's own output stays as it is
        assert done.stdout == "result http://***@h\n"


def test_the_settings_of_a_load_report_hold_no_login() -> None:
    from trtclient.cli.load import _settings

    found = _settings({"url": f"http://user:{PLANTED['tier']}@host/v1", "trace": Path("/x"), "rate": None})
    assert found == {"url": "http://***@host/v1", "trace": "/x"}
