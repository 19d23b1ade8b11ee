"""Settings of a server's OpenAI port: what its models are given, what is checked before a start, where they meet.

It decides the value of :data:`VARIABLE`, which the server's front models inherit, and the private directory in which
they reach each other. They listen themselves (``trtbuild_http`` in the model repository); Triton knows nothing of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtbuild import process
from trtbuild.errors import HostError, LaunchError, SpecError
from trtbuild.serve.access import foreign_addresses, is_loopback
from trtbuild.serve.ports import Ports, is_openai_on
from trtbuild.spec import ServerSpec

VARIABLE = "TRTBUILD_OPENAI"
"""Environment variable with the settings, as JSON; empty: no OpenAI port."""

PARSER = "httptools"
"""What the front models parse HTTP with: a package of the interpreter that runs them."""

ACCELERATORS = ("uvloop", "orjson")
"""What they use where it is installed."""

MIN_KEY_LENGTH = 16
"""Characters below which a key is said to be easy to guess."""

MAX_KEY_FILE_BYTES = 1 << 20
MIN_BODY_BYTES = 1 << 10
_IMPORT_TIMEOUT_S = 60.0
_MAX_DIRECTORY_BYTES = 48
"""Longest runtime directory: a Unix socket's path has 107 bytes. Source: Linux, unix(7), sun_path."""

_PREFIX = "trtbuild-openai-"
_ORIGIN = re.compile(r"^(\*|https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?)$")


def refuse_bad_settings(spec: ServerSpec) -> None:
    """Refuse settings that no server could use, whatever machine it is on.

    Raises:
        SpecError: An origin that no browser sends, or a limit below every request.
    """
    for origin in spec.openai_allowed_origin:
        if not _ORIGIN.match(origin):
            raise SpecError(
                f"--openai-allowed-origin: expected https://HOST, https://HOST:PORT or *, got {origin!r}",
                hint="an origin is the beginning of a page's address: scheme, host and port, without a path",
            )
    if spec.openai_max_body < MIN_BODY_BYTES:
        raise SpecError(
            f"--openai-max-body: expected at least {MIN_BODY_BYTES} bytes, got {spec.openai_max_body}",
            hint="e.g. --openai-max-body 8MiB",
        )


def installed_packages(python: Path) -> dict[str, str]:
    """Return the version of each package of the OpenAI port that an interpreter can import."""
    script = (
        "import importlib, importlib.metadata as metadata, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        found[name] = metadata.version(name)\n"
        "    except Exception:\n"
        "        pass\n"
        "print(json.dumps(found))\n"
    )
    command = process.Command(argv=(str(python), "-E", "-c", script, PARSER, *ACCELERATORS))
    try:
        found = json.loads(process.run(command, timeout_s=_IMPORT_TIMEOUT_S).tail[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return {name: str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def check_start(spec: ServerSpec, python: Path) -> Iterator[str]:
    """Yield what is said before a start; refuse one whose OpenAI port could not answer.

    Args:
        spec: How the server listens.
        python: The interpreter whose packages its models have.

    Raises:
        HostError: The package that parses requests is not installed.
        SpecError: The file of keys is not there, cannot be read or holds no usable key.
    """
    if not is_openai_on(spec):
        if spec.api_key_file is not None:
            yield "--api-key-file has no effect with --openai-port 0: Triton's own ports ask for no key"
        return
    if PARSER not in installed_packages(python):
        raise HostError(
            f"the OpenAI port needs the package {PARSER}, which {python} cannot import",
            hint=f"{python} -m pip install {' '.join((PARSER, *ACCELERATORS))}, or pass --openai-port 0",
        )
    if spec.api_key_file is not None:
        yield from _check_keys(spec.api_key_file)
    yield from exposure_warnings(spec)


def exposure_warnings(spec: ServerSpec) -> Iterator[str]:
    """Yield what is said of a server that others than this machine can reach."""
    host = spec.openai_host or spec.host
    if spec.api_key_file is None:
        if not is_loopback(host):
            yield (
                f"the OpenAI port listens on {host} and asks for no key: whoever reaches it may use the model; "
                "--api-key-file FILE asks for one, --openai-host 127.0.0.1 keeps it on this machine"
            )
    elif addresses := foreign_addresses(spec):
        yield (
            f"--api-key-file guards the OpenAI port only; Triton's own ports listen on {', '.join(addresses)} and know "
            f"no keys: pass --host 127.0.0.1 --openai-host {host}, or let only trusted clients reach them"
        )


def _check_keys(path: Path) -> Iterator[str]:
    """Yield warnings about a file of keys.

    Raises:
        SpecError: The front models would accept no key from it.
    """
    hint = "one key a line, e.g.  (umask 077; openssl rand -hex 32 > keys.txt)"
    try:
        mode = path.stat().st_mode
        # A pipe (<(command) in a shell) could be read once only, and the models read the file again.
        if not stat.S_ISREG(mode):
            raise SpecError(f"--api-key-file: cannot read {path}: it is not a regular file", hint=hint)
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(f"--api-key-file: cannot read {path}: {error.strerror}", hint=hint) from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise SpecError(f"--api-key-file: {path} is larger than {MAX_KEY_FILE_BYTES} bytes", hint=hint)
    lines = [(number, line.strip()) for number, line in enumerate(data.splitlines(), 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise SpecError(f"--api-key-file: {path} holds no key", hint=hint)
    for number, key in keys:
        if any(not 0x21 <= byte <= 0x7E for byte in key):
            raise SpecError(f"--api-key-file: {path} line {number}: expected printable ASCII without spaces", hint=hint)
        if len(key) < MIN_KEY_LENGTH:
            yield f"{path} line {number}: a key of {len(key)} characters is easy to guess; openssl rand -hex 32"
    if mode & stat.S_IROTH:
        yield f"{path} can be read by every user of this machine: chmod 600 {path}"


def environment(spec: ServerSpec, ports: Ports, runtime_dir: Path | None) -> dict[str, str]:
    """Return the variable that tells front models to open the OpenAI port; its value is empty when it is off.

    Args:
        spec: How it listens.
        ports: The chosen ports.
        runtime_dir: Where the models of the server meet.
    """
    if ports.openai is None or runtime_dir is None:
        return {VARIABLE: ""}
    settings = {
        "host": spec.openai_host or spec.host,
        "port": ports.openai,
        "runtime_dir": str(runtime_dir),
        "api_key_file": str(spec.api_key_file.absolute()) if spec.api_key_file else "",
        "allowed_origins": list(spec.openai_allowed_origin),
        "max_body_bytes": spec.openai_max_body,
    }
    return {VARIABLE: json.dumps(settings)}


@dataclass(frozen=True, kw_only=True)
class RuntimeDirectory:
    """A private directory of one running server, locked (``flock``) while a process of it lives.

    The lock says to the next start that the directory is in use, and to systemd-tmpfiles that its age does not count.
    Source: tmpfiles.d(5), "Age": what is locked with a BSD file lock is not cleaned up.

    Attributes:
        path: Its path.
        descriptor: The open, locked directory.
    """

    path: Path
    descriptor: int

    def keep_over_exec(self) -> None:
        """Let the program that this process becomes inherit the lock; call it right before ``exec``."""
        os.set_inheritable(self.descriptor, True)

    def remove(self) -> None:
        """Remove the directory and what is in it, and give up the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.descriptor)

    def leave(self) -> None:
        """Give up the lock of this process; the server's models have their own."""
        os.close(self.descriptor)


def make_runtime_directory(environ: Mapping[str, str]) -> RuntimeDirectory:
    """Make the directory of a server that is about to start, and remove those of servers that are gone.

    Raises:
        LaunchError: There is no directory for temporary files that can be written and has a short enough path.
    """
    problems = []
    for parent in _parents(environ):
        remove_stale_directories(parent)
        try:
            return _make_locked(parent)
        except OSError as error:
            problems.append(f"{parent}: {error.strerror or error}")
    raise LaunchError(
        f"cannot make a directory for the sockets of the OpenAI port ({'; '.join(problems)})",
        hint="make /tmp writable, set TMPDIR to a short path, or pass --openai-port 0",
    )


def shown_runtime_directory(environ: Mapping[str, str], port: int | None) -> Path:
    """Return the directory that a command names which is only shown; a model makes it when it is not there."""
    return _parents(environ)[0] / f"{_PREFIX}{os.geteuid()}-{port or 0}"


def remove_stale_directories(parent: Path) -> list[Path]:
    """Remove this user's directories of servers of which no process lives; return them."""
    removed = []
    for path in sorted(parent.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid != os.geteuid():
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
                removed.append(path)
            finally:
                os.close(descriptor)
    return removed


def _parents(environ: Mapping[str, str]) -> list[Path]:
    """Return where the directory may go: TMPDIR, when its path is short, then /tmp."""
    # Not XDG_RUNTIME_DIR: it is removed when the user logs out, while a server started with nohup goes on.
    longest = _MAX_DIRECTORY_BYTES - len(f"/{_PREFIX}12345678")
    wanted = environ.get("TMPDIR", "")
    is_usable = wanted.startswith("/") and len(os.fsencode(wanted)) <= longest
    return list(dict.fromkeys([*([Path(wanted)] if is_usable else []), Path("/tmp")]))  # noqa: S108 - mkdtemp below


def _make_locked(parent: Path) -> RuntimeDirectory:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Another start may see it unlocked, and remove it, before the lock is there.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if path.exists():
                return RuntimeDirectory(path=path, descriptor=descriptor)
            os.close(descriptor)
