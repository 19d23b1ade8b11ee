"""``trtbuild demo`` with a model that answers, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command_line import left_running

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytestmark = pytest.mark.integration


def demo(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo on ``smollm2`` where pip finds nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRTBUILD_", "PIP_"))}
    command = [sys.executable, "-m", "trtbuild", "demo", "--model", "smollm2", "--store", str(store), *options]
    env = clean | {"PIP_NO_INDEX": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


@pytest.fixture(scope="module")
def store(smollm2_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store in which the package's model is already: how it gets there has tests of its own."""
    root = tmp_path_factory.mktemp("demo") / "store"
    shutil.copytree(smollm2_directory, root / "models" / smollm2_directory.name, copy_function=link_or_copy)
    yield root
    shutil.rmtree(root, ignore_errors=True)  # half a gigabyte


def test_a_newcomer_gets_answers_and_a_command_to_go_on(store: Path) -> None:
    done = demo(store)
    assert "> What is the capital of France?\nThe capital of France is Paris.\n" in done.stdout
    assert done.stdout.count("\n> ") == 3
    assert "0 requests in flight" in done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.search(r"kept running: +\S*trtbuild demo --model smollm2 --keep$", last)
    assert not left_running(str(store))


def test_a_kept_demo_ends_with_commands_that_work(store: Path) -> None:
    done = demo(store, "--keep", "--chat", "What is the capital of France?", "--max-tokens", "8")
    pid = int(re.findall(r"Still serving \(PID (\d+)\)", done.stdout)[0])
    try:
        assert "in the store" in done.stderr
        steps = dict(re.findall(r"^  ([A-Za-z' ]+): +(.*)$", done.stdout, re.MULTILINE))
        assert list(steps)[-1] == "chat page"
        assert steps["stop it"] == f"kill {pid}"
        url = steps["chat with it"].split()[-2]
        body = {"text_input": "One, two, three, four,", "max_tokens": 3}
        request = urllib.request.Request(f"{url}/v2/models/smollm2/generate", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["text_output"].startswith(" five")
        streamed = subprocess.run(steps["stream text"], shell=True, capture_output=True, text=True, timeout=60)
        assert "text_output" in streamed.stdout
        metrics = subprocess.run(steps["its metrics"], shell=True, capture_output=True, text=True, timeout=60)
        assert "trtbuild_requests_running" in metrics.stdout
        answered = subprocess.run(steps["OpenAI's API"], shell=True, capture_output=True, text=True, timeout=60)
        assert json.loads(answered.stdout)["choices"][0]["message"]["content"]
        with urllib.request.urlopen(steps["chat page"].rstrip("/") + "/v1/models", timeout=60) as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["smollm2"]
    finally:
        os.kill(pid, signal.SIGTERM)
    assert not left_running(str(store))
