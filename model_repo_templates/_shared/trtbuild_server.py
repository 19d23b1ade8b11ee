"""What a model knows of the server that it is a child process of: its command line, whether it is ending, its death.

It decides when a server is ending or gone. What follows from it is decided by who asks. It uses the standard library
only and imports nothing of this package: engine models have a copy of it beside them.

SIGTERM reaches the server alone. Before anything else, tritonserver stops taking HTTP connections: it accepts and
closes them at once, and waits for those it has; only then do its gRPC endpoint and its models learn that it is ending.
So a fresh HTTP connection tells first.
Source: triton-inference-server/server, main.cc (StopEndpoints) and http_server.cc (NewConnection), the same from 2.51
to 2.73; the order was also observed with 2.51.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

DEFAULT_EXIT_TIMEOUT_S = 30.0
_UNLOAD_S = 5.0
_POLL_S = 0.5
_PROBE_TIMEOUT_S = 2.0
_LOOK_S = 1.0
_OWN_END_S = 2.0
"""How long a process of a dead server may take to end by itself."""
_PREFIX_OPTION = "backend-config=python,shm-region-prefix-name"
_EVERY_ADDRESS = {"", "0.0.0.0", "::", "[::]"}  # noqa: S104 - compared, not bound
_SHM = Path("/dev/shm")  # noqa: S108 - where the server's regions are


def command_line(pid: int) -> list[str]:
    """Return the command line of a process, empty when it cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")[:-1]


def last_option(arguments: Sequence[str], name: str, default: str) -> str:
    """Return the value of ``--name=value`` or ``--name value``; the last one wins, as in the server."""
    value = default
    for position, word in enumerate(arguments):
        if word.startswith(f"--{name}="):
            value = word[len(name) + 3 :]
        elif word == f"--{name}" and position + 1 < len(arguments):
            value = arguments[position + 1]
    return value


def http_address(arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return where the server listens for HTTP, None where it does not."""
    if last_option(arguments, "allow-http", "true").lower() in {"0", "false"}:
        return None
    host = last_option(arguments, "http-address", "")
    port = last_option(arguments, "http-port", "8000")
    return ("127.0.0.1" if host in _EVERY_ADDRESS else host.strip("[]"), int(port)) if port.isdigit() else None


def metrics_address(arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return where the server offers metrics, None where it does not."""
    if last_option(arguments, "allow-metrics", "true").lower() in {"0", "false"}:
        return None
    host = last_option(arguments, "metrics-address", last_option(arguments, "http-address", ""))
    port = last_option(arguments, "metrics-port", "8002")
    return ("127.0.0.1" if host in _EVERY_ADDRESS else host.strip("[]"), int(port)) if port.isdigit() else None


def drain_time_s(arguments: Sequence[str]) -> float:
    """Return how long running requests may take once the server is ending.

    A little less than the server's own timeout: what still runs then can be told, and the models can be unloaded.
    """
    try:
        timeout_s = float(last_option(arguments, "exit-timeout-secs", str(DEFAULT_EXIT_TIMEOUT_S)))
    except ValueError:
        timeout_s = DEFAULT_EXIT_TIMEOUT_S
    return timeout_s - min(_UNLOAD_S, timeout_s / 3)


Answer = Literal["takes", "closes", "refuses", "unclear"]


def probe_http(address: tuple[str, int]) -> Answer:
    """Return what the server does with an HTTP connection; ``unclear`` where it says nothing in time, as a busy one."""
    try:
        with socket.create_connection(address, timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
            return "takes" if connection.recv(1) else "closes"
    except ConnectionRefusedError:
        return "refuses"
    except (ConnectionResetError, BrokenPipeError):
        return "closes"
    except OSError:
        return "unclear"


def watch_for_end(
    address: tuple[str, int],
    on_change: Callable[[bool], None],
    stopping: threading.Event,
    *,
    probe: Callable[[tuple[str, int]], Answer] = probe_http,
    poll_s: float = _POLL_S,
) -> None:
    """Call ``on_change(True)`` when the server stops taking connections, ``on_change(False)`` if it does so again.

    A model is loaded before its server listens, so a refused connection counts only once one was accepted. Two such
    answers in a row are needed: a single connection that was lost for another reason does not count.
    """
    has_listened = is_ending = False
    signs = 0
    while not stopping.wait(poll_s if has_listened and (is_ending or not signs) else poll_s / 5):
        answer = probe(address)
        if answer == "takes":
            has_listened, signs = True, 0
        elif answer == "closes" or (answer == "refuses" and has_listened):
            signs += 1
        if (answer == "takes" and is_ending) or (signs == 2 and not is_ending):
            is_ending = not is_ending
            on_change(is_ending)


def end_with_server() -> None:
    """Make sure that this process, and whatever the server shared, is gone soon after the server is.

    Two safeguards. A thread waits for the server's death and ends this process; it needs the interpreter's lock, which
    a thread that is stuck in foreign code may never release. So a process of its own, one per server, waits too: it
    kills what is left and removes the server's shared-memory regions, which are left over after a crash otherwise.
    A parent-death signal would not do: Triton starts models in threads that end, and the signal follows the thread.
    """
    server = os.getppid()
    if server <= 1:  # the container ends with its first process, and everything in it
        return
    threading.Thread(target=_end_after, args=(server,), name="end-with-server", daemon=True).start()
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    python = os.environ.get("TRTBUILD_PYTHON") or shutil.which("python3") or "python3"
    # The name is free again when the guard ends, unlike a file; it is taken when another model has started the guard.
    with lock, contextlib.suppress(OSError):
        lock.bind(f"\0trtbuild-guard-{os.getuid()}-{server}")
        subprocess.Popen(
            [python, "-I", "-S", str(Path(__file__).resolve()), str(server)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )


def _wait_for_death(pid: int, meanwhile: Callable[[], None] | None = None) -> None:
    """Wait until a process is dead; call ``meanwhile`` every few seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # an old kernel, or a sandbox without it
        while pid in _processes():
            time.sleep(_LOOK_S)
            if meanwhile:
                meanwhile()
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(_LOOK_S * 1000 if meanwhile else None):
        if meanwhile:
            meanwhile()
    os.close(descriptor)


def _end_after(server: int) -> None:
    _wait_for_death(server)
    time.sleep(_OWN_END_S / 2)  # the guard looks first at who belongs to whom
    os._exit(71)


def _processes() -> dict[int, tuple[int, list[str]]]:
    """Return parent and command line of every other process that can be seen; zombies are left out."""
    found: dict[int, tuple[int, list[str]]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in "ZX" and directory.name != str(os.getpid()):
            found[int(directory.name)] = (int(parent), command_line(int(directory.name)))
    return found


def _family(roots: Iterable[int], processes: dict[int, tuple[int, list[str]]]) -> set[int]:
    """Return ``roots`` and everything below them."""
    family = set(roots)
    while more := {pid for pid, (parent, _) in processes.items() if parent in family} - family:
        family |= more
    return family


def _is_stub_of(argv: Sequence[str], server: int, prefix: str) -> bool:
    """Return whether a command line is that of a stub of the server.

    Source: triton-inference-server/python_backend, stub_launcher.cc: stub, model, region, sizes, parent, ...
    """
    is_stub = len(argv) > 5 and Path(argv[0]).name == "triton_python_backend_stub"
    return is_stub and argv[5] == str(server) and argv[2].startswith(prefix)


def _mapped_regions(pid: int, prefix: str) -> set[str]:
    """Return the shared-memory regions with this prefix that a process has mapped."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return set()
    start = f"{_SHM}/{prefix}"
    return {line[line.index(start) + len(f"{_SHM}/") :] for line in text.splitlines() if prefix and start in line}


def unused_regions(names: Iterable[str], *, directory: Path = _SHM) -> set[str]:
    """Return those of the shared-memory regions ``names`` that no process has mapped."""
    unused = set(names)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if not unused:
            break
        with contextlib.suppress(OSError):
            text = maps.read_text(errors="replace")
            unused -= {name for name in unused if f"{directory}/{name}\n" in text}
    return unused


def guard(server: int) -> None:
    """Wait until the server is dead; end what it left and remove what it shared."""
    prefix = last_option(command_line(server), _PREFIX_OPTION, "")
    regions: set[str] = set()  # by their whole names: another server may have the same prefix, here or in a container

    def look() -> None:
        regions.update(_mapped_regions(server, prefix))

    look()
    _wait_for_death(server, look)
    processes = _processes()
    stubs = {pid: argv for pid, (_, argv) in processes.items() if _is_stub_of(argv, server, prefix)}
    regions |= {argv[2] for argv in stubs.values()}
    family = _family(stubs, processes)
    deadline = time.monotonic() + _OWN_END_S
    while (left := family & _processes().keys()) and time.monotonic() < deadline:
        family |= _family(left, _processes())
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _OWN_END_S
    while regions and time.monotonic() < deadline:
        for name in unused_regions(regions):
            with contextlib.suppress(FileNotFoundError):
                (_SHM / name).unlink()
            regions.discard(name)
        time.sleep(0.1)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    guard(int(sys.argv[1]))
