"""The command dies, is told to stop, meets itself or finds a full disk: the next run is always right."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import EXAMPLE, MODEL, Machine, add_example, processes_with, wait_until
from tests.integration.reach import open_paths
from trtbuild.store import Store

pytestmark = pytest.mark.integration
BUILD = (MODEL, "--backend", "cpu", "--log-format", "text", "--min-free", "0")
SEED = 20240817


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        add_example(stub)
        yield stub


@pytest.fixture
def machine(tmp_path: Path, hub: HubStub) -> Machine:
    return Machine(tmp_path, hub)


def staged(machine: Machine) -> list[Path]:
    """Return the files of builds that are under way or were left behind."""
    return [path for path in (machine.directory / "store" / ".staging").rglob("*") if path.is_file()]


def building(machine: Machine) -> list[Path]:
    """Return the files that a build has begun to write."""
    with contextlib.suppress(FileNotFoundError):  # a directory that was swept while it was looked at
        return list((machine.directory / "store" / ".staging").glob("*/*/*"))
    return []


def assert_whole_or_absent(machine: Machine) -> None:
    """Whatever a crash left: what can be found is complete, and no snapshot names a file that is not."""
    store = Store(machine.directory / "store")
    for entry in store.ls():
        assert not store.verify(entry, "full")
    root = machine.directory / "store" / "repositories" / "pydoc-llama"
    if root.exists():
        for model in ("pydoc-llama", "tensorrt_llm"):
            assert (root / model / "config.pbtxt").stat().st_size > 0
            assert (root / model / "1" / "model.py").stat().st_size > 0
    for path in (machine.directory / "hf").rglob("snapshots/*/*"):
        assert path.read_bytes() == (EXAMPLE / path.name).read_bytes()


def assert_clean(machine: Machine) -> None:
    """Nothing of a run that did not end well is left, and nothing runs."""
    left = [
        p
        for p in machine.directory.rglob("*")
        if "incomplete" in p.name or ".staging-" in p.name or p.suffix == ".owner"
    ]
    assert left + staged(machine) == []
    assert not processes_with(str(machine.directory))


def test_kill_9_in_every_phase_then_the_next_run_is_right(machine: Machine, hub: HubStub) -> None:
    """One story: each run gets a little further before it is killed, at a moment of chance within its phase."""
    rng = random.Random(SEED)
    hub.bytes_per_s = 4 << 20
    store = machine.directory / "store"
    some_bytes = rng.randrange(1, 2 << 20)
    phases: dict[str, tuple[Callable[[], object], float]] = {
        "start": (lambda: True, 0.8),
        "download": (lambda: hub.bytes_sent("/storage/") > some_bytes, 0.2),
        "build": (lambda: building(machine), 0.5),
        "publish": (lambda: list(store.glob("engines/*/*/*")), 0.0),
        "repository": (lambda: list(store.glob("repositories/.*.versions/*")), 0.01),
    }
    killed = []
    for phase, (is_there, at_most_s) in phases.items():
        child = machine.start(*BUILD)
        if wait_until(is_there, child, pause_s=0.001):
            time.sleep(rng.uniform(0.0, at_most_s))
            child.kill()
        child.communicate(timeout=60)
        if child.returncode == -signal.SIGKILL:
            killed.append(phase)
        assert_whole_or_absent(machine)
    assert {"start", "download", "build"} <= set(killed)
    done = machine.run(*BUILD)
    root = Path(done.stdout.strip())
    assert (root / "pydoc-llama" / "1" / "model.py").is_file()
    assert machine.run("store", "verify").stdout.endswith("ok\n")
    assert machine.json(*BUILD)["hit"] is True
    assert_whole_or_absent(machine)
    assert_clean(machine)
    assert not processes_with(str(machine.directory))


def test_four_at_once_build_once(machine: Machine, hub: HubStub) -> None:
    children = [machine.start(*BUILD, "--format", "json") for _ in range(4)]
    answers = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0] * 4, answers
    results = [json.loads(out) for out, _ in answers]
    assert sorted(result["hit"] for result in results) == [False, True, True, True]
    assert len({(result["key"], result["repository"]) for result in results}) == 1
    assert sum("built in" in errors for _, errors in answers) == 1
    weights = (EXAMPLE / "model.safetensors").stat().st_size
    assert hub.bytes_sent("/storage/") == weights, "the weights were downloaded once"
    assert_whole_or_absent(machine)
    assert_clean(machine)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_told_to_stop_while_downloading_and_while_waiting(
    machine: Machine, hub: HubStub, number: signal.Signals
) -> None:
    hub.bytes_per_s = 256 << 10
    first = machine.start(*BUILD)
    assert wait_until(lambda: hub.bytes_sent("/storage/") > 1 << 16, first)
    waiting = machine.start(*BUILD, "--log-format", "json")
    assert waiting.stderr is not None
    lines = []
    for line in waiting.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "store-wait":
            break
    assert lines[-1]["holder_pid"] == first.pid
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    waiting.send_signal(number)
    _, rest = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + number
    last = json.loads(rest.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == (word, 128 + number)
    assert first.poll() is None, "the one that builds is none of its business"
    first.send_signal(number)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 128 + number
    assert errors.splitlines()[-1] == word
    assert "Traceback" not in errors
    assert not staged(machine)
    assert not processes_with(str(machine.directory))
    hub.bytes_per_s = None
    machine.run(*BUILD)
    assert_clean(machine)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_told_to_stop_while_building(machine: Machine, number: signal.Signals) -> None:
    child = machine.start(str(EXAMPLE), *BUILD[1:])
    assert wait_until(lambda: building(machine), child, pause_s=0.001)
    child.send_signal(number)
    out, errors = child.communicate(timeout=120)
    assert child.returncode == 128 + number, errors
    assert out == ""
    assert "Traceback" not in errors
    assert_whole_or_absent(machine)
    assert_clean(machine)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_small_disk_is_refused_with_the_arithmetic(machine: Machine, hub: HubStub) -> None:
    with small_disk(machine.directory / "small", "2m"):
        store = ["--store", str(machine.directory / "small" / "store")]
        refused = machine.run(*BUILD, *store, code=7)
        assert "needed: " in refused.stderr
        assert "free" in refused.stderr
        assert "hint: " in refused.stderr
        assert not hub.bytes_sent("/storage/"), "nothing was downloaded"
        cache = ["--hf-cache", str(machine.directory / "small" / "hub")]
        refused = machine.run(*BUILD, *cache, code=4)
        assert "error: " in refused.stderr
        assert "free" in refused.stderr
        assert_clean(machine)


def test_a_disk_that_fills_during_the_build_is_told_and_forgotten(machine: Machine) -> None:
    with small_disk(machine.directory / "small", "12m"):
        root = machine.directory / "small" / "store"
        arguments = (str(EXAMPLE), *BUILD[1:], "--store", str(root))
        junk = root.parent / "junk"

        def fill() -> None:
            while not list(root.glob(".staging/*/*")):
                time.sleep(0.001)
            with contextlib.suppress(OSError), junk.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 12))

        filler = threading.Thread(target=fill)
        filler.start()
        child = machine.start(*arguments)
        _, errors = child.communicate(timeout=120)
        filler.join(timeout=60)
        assert child.returncode in {6, 7}, errors
        assert "are free, this build writes engine" in errors
        assert "Traceback" not in errors
        junk.unlink()
        assert machine.run(*arguments).returncode == 0
        with contextlib.suppress(OSError), junk.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        assert "hit:" in machine.run(*arguments).stderr, "a hit needs no room"


def test_another_user_may_use_what_it_may_not_write(hub: HubStub) -> None:
    """The server of a pod runs as another user than its init container, with no home and a read-only store."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which keeps its own to the user that runs it
        Path(name).chmod(0o755)
        _use_as_another_user(Machine(Path(name), hub))


def _use_as_another_user(machine: Machine) -> None:
    built = machine.json(str(EXAMPLE), *BUILD[1:])
    (machine.directory / "run").mkdir()
    (machine.directory / "run").chmod(0o777)
    reach = "\n".join(["set -e", *open_paths(machine.directory / "open"), 'exec "$@"'])
    other = ["unshare", "--mount", "sh", "-c", reach, "sh"]
    other += ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups"]
    env = {**machine.environment(), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    store = machine.environment()["TRTBUILD_STORE"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*other, *machine.command(*arguments)]
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False, timeout=120)

    refused = run(str(EXAMPLE), *BUILD[1:], "--name", "theirs")
    assert refused.returncode == 8
    assert f"{store}/repositories/theirs: permission denied on {store}/repositories" in refused.stderr
    own = run(str(EXAMPLE), *BUILD[1:], "--repository", str(machine.directory / "run" / "models"), "--format", "json")
    assert own.returncode == 0, own.stderr
    theirs = json.loads(own.stdout)
    assert (theirs["hit"], theirs["key"], theirs["engine"]) == (True, built["key"], built["engine"])
    changed = run(str(EXAMPLE), *BUILD[1:], "--max-batch-size", "3")
    assert changed.returncode == 7
    assert "permission denied" in changed.stderr.lower()
    assert "uid 10001" in changed.stderr
