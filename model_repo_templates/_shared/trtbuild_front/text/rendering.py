"""Conversations to prompts, in processes that are killed when a template takes too long.

It decides when a process is started, given up and replaced. What is rendered how is decided in ``chat.py``, which runs
there. Nothing of a conversation is parsed in this process.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import jinja2
import markupsafe

from trtbuild_front.faults import BusyError, OverloadError, RequestError
from trtbuild_front.limits import (
    HURRIED_RENDER_S,
    HURRY_S,
    MAX_RENDERERS,
    MAX_SLOW_RENDERERS,
    MAX_TEMPLATE_BYTES,
    QUICK_RENDER_S,
    RENDER_CPU_S,
    RENDER_S,
    RENDERER_START_S,
    SLOW_BEFORE_HURRY,
)

_KEPT_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")


class _BrokenTemplateError(Exception):
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


class _Renderer:
    """One process."""

    def __init__(self, setup: bytes) -> None:
        """Start it and let it compile the template.

        Raises:
            OSError: It cannot be started.
            _BrokenTemplateError: The template does not compile.
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
                raise _BrokenTemplateError(f"compiling the chat template takes more than {RENDER_CPU_S} s")
            raise OSError(f"the renderer ({_python()}) {_how(ended)}")
        if not answer.startswith(b"+"):
            self.close()
            raise _BrokenTemplateError(answer[1:].decode(errors="replace"))

    @property
    def is_alive(self) -> bool:
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
        return _how(self._process.returncode)

    def kill(self) -> None:
        """End the process whatever it does; from any thread."""
        self._process.kill()

    def close(self) -> None:
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


class Renderers:
    """Renders conversations, several at once. Thread-safe."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Start nothing yet: a process is started when it is needed."""
        self._setup = json.dumps({"source": source, "special_tokens": dict(special_tokens)}).encode()
        self._free = threading.Semaphore(MAX_RENDERERS)
        self._slow = threading.Semaphore(MAX_SLOW_RENDERERS)
        self._slow_at: deque[float] = deque(maxlen=SLOW_BEFORE_HURRY)
        self._lock = threading.Lock()
        self._idle: list[_Renderer] = []
        self._busy: set[_Renderer] = set()
        self._is_closed = False
        self.fault = ""
        """Why this template can never be used, or ""."""
        self.start_fault = ""
        """Why no process could be started the last time, or ""."""
        if len(source) > MAX_TEMPLATE_BYTES:
            self.fault = f"the chat template has {len(source)} characters; expected at most {MAX_TEMPLATE_BYTES}"

    def start(self) -> str:
        """Start the first process; return why conversations cannot be rendered, or ""."""
        if not self.fault:
            with suppress(OverloadError, RequestError):
                self._give_back(self._take())
        return self.fault or self.start_fault

    def render(self, messages: str, limit_bytes: int) -> str:
        """Return the prompt of a conversation.

        Args:
            messages: JSON text.
            limit_bytes: Longest prompt wanted.

        Raises:
            RequestError: No conversation, or the template refuses it, takes too long or writes too much.
            OverloadError: No process could be started.
            BusyError: It is slow and others are, too, or the machine is too busy to tell.
        """
        with self._free, ExitStack() as slow_place:
            renderer = self._take()
            refusals = []
            quick_s = self._quick_s()

            def may_be_slow() -> bool:
                self._slow_at.append(time.monotonic())
                if self._slow.acquire(blocking=False):
                    slow_place.callback(self._slow.release)
                    return True
                refusals.append(f"it took more than {quick_s:g} s while {MAX_SLOW_RENDERERS} others did")
                return False

            message = limit_bytes.to_bytes(8, "big") + messages.encode(errors="replace")
            answer = renderer.ask(message, RENDER_S, may_be_slow, quick_s)
            self._give_back(renderer, is_alive=answer is not None)
        if answer is None:
            if self._is_closed:
                raise OverloadError("the model is shutting down; send the request again")
            if refusals:
                raise BusyError(f"messages: no time for the chat template: {refusals[0]}; send the request again")
            if renderer.was_starved:  # the machine is busy, or the process was stopped
                raise BusyError(f"messages: the chat template took more than {RENDER_S:g} s; send the request again")
            raise RequestError(f"messages: the model's chat template {renderer.how_it_ended()} for this conversation")
        text = answer[1:].decode()
        if not answer.startswith(b"+"):
            raise RequestError(text)
        return text

    def _quick_s(self) -> float:
        """Return how long a conversation may take that nobody has to wait for: less while many are slow."""
        slow_at = self._slow_at
        is_hurried = len(slow_at) == SLOW_BEFORE_HURRY and time.monotonic() - slow_at[0] < HURRY_S
        return HURRIED_RENDER_S if is_hurried else QUICK_RENDER_S

    def _give_back(self, renderer: _Renderer, *, is_alive: bool = True) -> None:
        with self._lock:
            self._busy.discard(renderer)
            is_kept = is_alive and not self._is_closed
            if is_kept:
                self._idle.append(renderer)
        if not is_kept:
            renderer.close()

    def _take(self) -> _Renderer:
        renderer: _Renderer | None = None
        while not self.fault:
            with self._lock:
                if self._is_closed:
                    raise OverloadError("the model is shutting down; send the request again")
                renderer = self._idle.pop() if self._idle else None
                if renderer is not None:
                    self._busy.add(renderer)
            if renderer is None:
                break
            if renderer.is_alive:
                return renderer
            with self._lock:
                self._busy.discard(renderer)
            renderer.close()
        try:
            if not self.fault:
                renderer, self.start_fault = _Renderer(self._setup), ""
        except OSError as error:
            self.start_fault = f"no process could be started for the chat template: {error}"
            raise OverloadError(f"messages: {self.start_fault}") from error
        except _BrokenTemplateError as error:
            self.fault = str(error)
        if renderer is None:
            raise RequestError(f"messages: {self.fault}; this model takes text_input only")
        with self._lock:
            self._busy.add(renderer)
        return renderer

    def close(self) -> None:
        """End all processes, busy ones too."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for renderer in self._busy:
                renderer.kill()
        for renderer in idle:
            renderer.close()

    def __del__(self) -> None:
        """End the processes of a model that nobody closed."""
        self.close()
