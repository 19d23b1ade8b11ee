"""One process that renders conversations: started, asked, and killed when its time is up.

It decides how a process is started, spoken to and ended. Which conversation gets which process is ``rendering.py``'s.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jinja2
import markupsafe

from trtbuild_front.limits import QUICK_RENDER_S, RENDER_CPU_S, RENDER_S, RENDERER_START_S

_KEPT_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")


class BrokenTemplateError(Exception):
    """The template itself cannot be used."""


def _python() -> str:
    """Return an interpreter: the one that `trtbuild serve` names; in a server's model process, the one on PATH."""
    own = sys.executable if Path(sys.executable or "").name.startswith("python") else None
    return os.environ.get("TRTBUILD_PYTHON") or own or shutil.which("python3") or "python3"


def renderer_command() -> list[str]:
    """Return the command line of a renderer. It needs no site-packages: it is told where Jinja is."""
    here = Path(__file__).resolve().parent
    directories = [
        here.parents[1],
        *(Path(module.__file__ or "").resolve().parents[1] for module in (jinja2, markupsafe)),
    ]
    return [_python(), "-I", "-S", "-B", str(here / "renderer.py"), *dict.fromkeys(map(str, directories))]


class RendererProcess:
    """One process."""

    def __init__(self, setup: bytes) -> None:
        """Start it and let it compile the template.

        Raises:
            OSError: It cannot be started.
            BrokenTemplateError: The template does not compile.
        """
        self.was_starved = False
        """Whether it was killed without having had the time that an ordinary conversation takes."""
        self._connection, theirs = socket.socketpair()
        env = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name)) is not None}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    renderer_command(),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=env,
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            self._connection.close()
            raise
        answer = self.ask(setup, RENDERER_START_S)
        if answer is None:
            ended = self._process.returncode
            self.close()
            if ended == -signal.SIGXCPU:
                raise BrokenTemplateError(f"compiling the chat template takes more than {RENDER_CPU_S} s")
            raise OSError(f"the renderer ({_python()}) {_how(ended)}")
        if not answer.startswith(b"+"):
            self.close()
            raise BrokenTemplateError(answer[1:].decode(errors="replace"))

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(
        self,
        message: bytes,
        timeout_s: float,
        may_be_slow: Callable[[], bool] = lambda: True,
        quick_s: float = QUICK_RENDER_S,
    ) -> bytes | None:
        """Return the answer; None when there is none in time, or the process has ended. It is dead then.

        Args:
            message: What to send.
            timeout_s: How long it may take.
            may_be_slow: Asked when it is not quick; an answer that is not awaited any longer is none.
            quick_s: How long a quick one may take.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._connection.settimeout(timeout_s)
            self._connection.sendall(len(message).to_bytes(4, "big") + message, socket.MSG_NOSIGNAL)
            if not self._is_answering_within(quick_s) and not may_be_slow():
                self.kill()
            head = self._receive(4, deadline)
            return bytes(self._receive(int.from_bytes(head, "big"), deadline))
        except (OSError, EOFError):
            self._end()
            return None

    def _is_answering_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _receive(self, size: int, deadline: float) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._connection.recv(min(size - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return data

    def _end(self) -> None:
        """Let a process that has ended be seen as such; kill one that goes on."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        if self.is_alive:
            self.was_starved = _processor_s(self._process.pid) < QUICK_RENDER_S
        self.kill()
        self._process.wait()

    def how_it_ended(self) -> str:
        """Return what became of the process, for the client."""
        return _how(self._process.returncode)

    def kill(self) -> None:
        """End the process whatever it does; from any thread."""
        self._process.kill()

    def close(self) -> None:
        """End the process and the connection to it."""
        self.kill()
        self._process.wait()
        self._connection.close()


def _processor_s(number: int) -> float:
    """Return the seconds of processor time that a process has used; infinity where that cannot be told."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _how(returncode: int | None) -> str:
    if returncode == -signal.SIGXCPU:
        return f"took more than {RENDER_CPU_S} s of processor time"
    if returncode == -signal.SIGKILL:
        return f"took more than {RENDER_S:g} s"
    if returncode is not None and returncode < 0:
        return f"was ended by signal {-returncode}"
    return "ended without an answer"
