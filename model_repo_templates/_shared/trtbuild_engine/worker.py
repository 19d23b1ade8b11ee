"""What every engine process does, whatever computes in it: its command line, its end with its parent, its first words.

It decides how the process of an engine model is started and how it says that its engine is loaded, or why not. The
worker of each backend decides the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trtbuild_engine.progress import Limits
from trtbuild_engine.wire import encode

_PR_SET_PDEATHSIG = 1


class LoadedEngine(Protocol):
    """What a model learns of the engine that its process has loaded."""

    slots: int
    limits: Limits

    def stats(self) -> dict[str, float]:
        """Return the gauges of this moment."""


def parse_arguments(description: str | None, *, offers_check: bool = False) -> argparse.Namespace:
    """Return the command line: ``engine_dir``, ``socket``, ``parent``, ``options``; ``check`` where it is offered."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("engine_dir", type=Path)
    if offers_check:
        parser.add_argument("--check", action="store_true", help="load the engine, compute one token and leave")
    parser.add_argument("--socket", type=int, help="inherited file descriptor")
    parser.add_argument("--parent", type=int, help="process id of the parent")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON")
    return parser.parse_args()


@contextlib.contextmanager
def connected(arguments: argparse.Namespace, *, death_signal: int) -> Iterator[socket.socket]:
    """Yield the connection to the model; leave quietly when the model has gone.

    Args:
        arguments: The command line.
        death_signal: What the kernel sends this process when its parent dies.
    """
    _end_with(arguments.parent, death_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends us in order
    # The model is gone when the connection is: no one is left to answer.
    with (
        socket.socket(fileno=arguments.socket) as connection,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        yield connection


def _end_with(parent: int, death_signal: int) -> None:
    """Ask the kernel for a signal when the parent dies, and leave if it is dead already.

    Source: prctl(2), PR_SET_PDEATHSIG; it follows the thread that started us, which lives as long as the model.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            raise SystemExit(1)


def say_ready(connection: socket.socket, engine: LoadedEngine) -> None:
    """Tell the model that the engine takes requests."""
    limits = {"slots": engine.slots, "vocab_size": engine.limits.vocab_size, "stats": engine.stats()}
    connection.sendall(encode({"ready": limits}))


def say_unloadable(connection: socket.socket, engine_dir: Path, error: Exception) -> SystemExit:
    """Tell the model why the engine cannot be loaded; return what ends this process."""
    connection.sendall(encode({"fatal": f"{engine_dir} cannot be loaded: {error}"}))
    return SystemExit(1)
