"""Run a server in the background: its log, waiting for it, and why it did not start.

It decides which lines of a server's log an error shows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from trtbuild import catalog, process
from trtbuild.console import log
from trtbuild.errors import LaunchError
from trtbuild.process import Command
from trtbuild.serve.health import wait_ready
from trtbuild.serve.ports import Ports

_ERROR_LINE = re.compile(r"^E\d{4} |^(error|hint): |unrecognized option|unexpected argument", re.IGNORECASE)
EARLY_ERRORS = 5
"""Errors above the last lines of a log that are shown with them."""


def serve_command(words: Sequence[str], ports: Ports) -> Command:
    """Return the command line ``words`` without ``--wait`` and with its ports chosen.

    It is the background process that becomes the server, so that the engine's lease belongs to it and not to the
    command that waits.
    """
    chosen = {"http-port": ports.http, "grpc-port": ports.grpc, "metrics-port": ports.metrics}
    chosen["openai-port"] = ports.openai or 0
    numbers = [word for name, port in chosen.items() for word in (f"--{name}", str(port))]
    return Command(argv=(sys.executable, "-m", "trtbuild", *(word for word in words if word != "--wait"), *numbers))


def new_log(directory: Path, name: str) -> Path:
    """Return the path of a new, empty log of a server, which nobody but this user and root can read.

    A server writes to its log itself and outlives this process, so nothing masks the secrets in it: the address of a
    bucket with a login, for example.

    Raises:
        LaunchError: It cannot be written.
    """
    path = directory / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier process with this id
        path.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise LaunchError(
            f"cannot write the server's log {path}: {error.strerror}", hint="pass a writable --store DIRECTORY"
        ) from error
    return path


def start_and_wait(command: Command, log_path: Path, url: str, timeout_s: float) -> int:
    """Start the server in the background; return its PID once it is ready.

    Raises:
        LaunchError: It ended, or was not ready in time; it is stopped then.
    """
    child = process.start(command, log_path=log_path)
    try:
        took_s = wait_ready(url, timeout_s=timeout_s, is_alive=lambda: child.poll() is None)
    except BaseException as error:
        exit_code = process.stop(child)
        if isinstance(error, LaunchError):
            raise explain_failed_start(error.message, exit_code, log_path) from None
        raise
    log.get().info("ready", f"ready after {log.format_duration(took_s)}; log: {log_path}")
    return child.pid


def explain_failed_start(message: str, exit_code: int, log_path: Path) -> LaunchError:
    """Return the error of a server that did not start, with what its log is known to mean."""
    text = log_path.read_text(errors="replace")
    known = catalog.diagnose(exit_code, text.splitlines())
    whole = f"the whole log: {log_path}"
    if known is None:
        return LaunchError(message, hint=whole, log_tail=log_excerpt(text))
    return LaunchError(f"{message}: {known.message}", hint=f"{known.hint}; {whole}", log_tail=log_excerpt(text))


def log_excerpt(text: str, count: int = 15) -> tuple[str, ...]:
    """Return the last lines of a server's log, after the errors that are further up; its usage text is left out."""
    lines, is_usage = [], False
    for line in text.splitlines():
        is_usage = line.startswith("Usage: ") or (is_usage and (not line or line[0] in " \t" or line.endswith(":")))
        if line.strip() and not is_usage:
            lines.append(line)
    early = [line for line in lines[:-count] if _ERROR_LINE.search(line)]
    return (*early[-EARLY_ERRORS:], *(["..."] if early else []), *lines[-count:])
