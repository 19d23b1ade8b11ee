"""The installed command with a store, a cache and a hub of its own, and what is left running of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub_stub import HubStub

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pydoc-llama"
MODEL = "example/pydoc-llama"


def add_example(hub: HubStub) -> None:
    """Let ``hub`` serve the example checkpoint as :data:`MODEL`."""
    hub.add_repo(MODEL, {p.name: p.read_bytes() for p in EXAMPLE.iterdir() if p.is_file()})


@dataclass
class Machine:
    """A command line with a store, a cache and a hub of its own."""

    directory: Path
    hub: HubStub
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trtbuild", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRTBUILD_", "HF_", "XDG_"))}
        own = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.directory / "hf"),
            "TRTBUILD_STORE": str(self.directory / "store"),
        }
        return kept | own | self.env

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return done

    def json(self, *arguments: str) -> dict[str, Any]:
        document = json.loads(self.run(*arguments, "--format", "json").stdout)
        assert isinstance(document, dict)
        return document

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in the background; its output is read with ``communicate``."""
        return subprocess.Popen(
            self.command(*arguments), env=self.environment(), cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def wait_until(is_true: Callable[[], object], child: subprocess.Popen[str], *, pause_s: float = 0.005) -> bool:
    """Wait until something is so while a process runs; return False when the process ended first."""
    deadline = time.monotonic() + 120
    while not is_true():
        if child.poll() is not None:
            return False
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(pause_s)
    return True


def processes_with(text: str) -> list[str]:
    """Return the command lines of running processes that mention ``text``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if text in line and state != "Z" and int(process.name) != os.getpid():
            found.append(line)
    return found


def left_running(text: str, *, within_s: float = 60.0) -> list[str]:
    """Return the processes that mention ``text`` and do not end by themselves; an engine's worker takes a moment."""
    deadline = time.monotonic() + within_s
    while (found := processes_with(text)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
