"""Run other programs. The only file of the package that uses ``subprocess`` or replaces the process.

It decides how children are started, logged and ended. It does not decide what to run: stages build a
:class:`Command` (data) and hand it over.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from trtbuild import redact

TAIL_LINES = 40


def interpreter_with(*packages: str) -> Path:
    """Return the interpreter among whose own packages one of ``packages`` is: this one, or the one it was made from.

    A virtual environment that sees the packages of its base puts its own before them; what belongs to the base has to
    run without those, in the versions that it was built with. Without any of the packages: this one.
    """
    own = Path(sys.executable)
    if sys.prefix == sys.base_prefix:
        return own
    found = next((spec for spec in map(importlib.util.find_spec, packages) if spec is not None), None)
    if found is None or found.origin is None or Path(found.origin).is_relative_to(sys.prefix):
        return own
    return Path(getattr(sys, "_base_executable", "") or own.resolve())


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run, as data: two equal commands do the same thing.

    Attributes:
        argv: Program and arguments; never holds a secret (secrets travel in files or ``env``).
        env: Variables added to the parent's environment.
        cwd: Working directory, or None for the parent's.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None

    def shell(self, *variables: str) -> str:
        """Return the command as one line that can be pasted into a shell, with no other variables than these."""
        settings = [f"{name}={self.env[name]}" for name in variables if self.env.get(name)]
        return shlex.join([*(["env", *settings] if settings else []), *self.argv])


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a child ended.

    Attributes:
        exit_code: As a shell reports it: 128 + N for a child killed by signal N.
        tail: Last lines of standard output and error, interleaved.
        elapsed_s: Wall-clock seconds.
        log_path: File with the whole output, when one was asked for.
    """

    exit_code: int
    tail: tuple[str, ...]
    elapsed_s: float
    log_path: Path | None


def shell_exit_code(returncode: int) -> int:
    """Return the shell's number for a ``Popen.returncode`` (-9 becomes 137)."""
    return 128 - returncode if returncode < 0 else returncode


def run(
    command: Command,
    *,
    log_path: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
    tail_lines: int | None = TAIL_LINES,
) -> Completed:
    """Run ``command`` to its end, following its output line by line.

    The child gets its own process group, which is ended with the caller's exception (Ctrl-C, SIGTERM raised as
    SystemExit), when ``timeout_s`` passes, and when this process is killed outright, so that no grandchild outlives
    a cancelled build. ``tail_lines`` says how much of the output is returned; None for all of it.

    Raises:
        OSError: The program does not exist or cannot be executed.
        TimeoutError: ``timeout_s`` passed; the group was killed.
    """
    started = time.monotonic()
    tail: collections.deque[str] = collections.deque(maxlen=tail_lines)
    timed_out = threading.Event()

    def expire(pid: int) -> None:
        timed_out.set()
        _kill_group(pid)

    with contextlib.ExitStack() as stack:
        log_file = stack.enter_context(log_path.open("a", encoding="utf-8", errors="replace")) if log_path else None
        child = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert child.stdout is not None
        stack.enter_context(child.stdout)
        stack.enter_context(_guarded(child.pid))
        if timeout_s:
            stack.callback(_start_timer(timeout_s, expire, child.pid).cancel)
        try:
            for raw in child.stdout:
                line = raw.rstrip("\n")
                tail.append(line)
                if log_file:
                    log_file.write(redact.text(line) + "\n")  # kept on disk, where others read it
                if on_line:
                    on_line(line)
            returncode = child.wait()
        except BaseException:
            _end_group(child)
            raise
    if timed_out.is_set():
        raise TimeoutError(f"{command.argv[0]} did not end within {timeout_s:g} s")
    code, elapsed_s = shell_exit_code(returncode), time.monotonic() - started
    return Completed(exit_code=code, tail=tuple(tail), elapsed_s=elapsed_s, log_path=log_path)


def start(command: Command, *, log_path: Path) -> subprocess.Popen[bytes]:
    """Start a long-running child in its own process group with its output appended to ``log_path``.

    Secrets in the output are not masked, as :func:`run` does: the child may outlive this process, which would have to
    read along. Whoever makes the file decides who can read it.
    """
    with log_path.open("ab") as log_file:
        return subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(child: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> int:
    """End a child started by :func:`start` (SIGTERM, then SIGKILL to its group); return its exit code."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=grace_s)
    _kill_group(child.pid)
    return shell_exit_code(child.wait())


def replace(command: Command) -> NoReturn:
    """Become ``command`` (``execvpe``), with ignored and blocked signals back to their defaults.

    A server started this way is PID 1 of its container and gets SIGTERM itself.

    Raises:
        OSError: The program does not exist or cannot be executed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if command.cwd is not None:
        os.chdir(command.cwd)
    os.execvpe(command.argv[0], command.argv, {**os.environ, **command.env})  # noqa: S606 - no shell is the point


@contextlib.contextmanager
def _guarded(group: int) -> Iterator[None]:
    """Have a process group killed when this process dies without a chance to do it (kill -9, out of memory).

    The guard waits at a pipe of which only this process holds the other end, so the kernel tells it. The kernel's own
    PR_SET_PDEATHSIG would reach the child alone, and not the ranks that a compiler has started.
    """
    guard = None
    with contextlib.suppress(OSError):  # no /bin/sh: a lone child that outlives a kill -9 is no reason not to build
        guard = subprocess.Popen(
            ("/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "sh", str(group)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield
    finally:
        if guard is not None and guard.stdin is not None:
            guard.kill()
            guard.wait()
            guard.stdin.close()


def _start_timer(seconds: float, act: Callable[[int], None], pid: int) -> threading.Timer:
    timer = threading.Timer(seconds, act, (pid,))
    timer.start()
    return timer


def _end_group(child: subprocess.Popen[str]) -> None:
    """End the child's group: SIGTERM, five seconds, SIGKILL."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=5)
    except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        pass
    _kill_group(child.pid)
    child.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
