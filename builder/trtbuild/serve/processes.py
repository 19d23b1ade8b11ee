"""Find the processes of models that have died below a server that goes on, on the server's own machine."""

from __future__ import annotations

from pathlib import Path

_STUB = "triton_python_backend_stub"
_SHM_PREFIX = "--backend-config=python,shm-region-prefix-name="


def dead_model_processes(url: str, *, proc: Path = Path("/proc")) -> list[int]:
    """Return the processes of models that have ended while their server, which has a port of ``url``, goes on.

    The server waits for its children only when it unloads their model: until then a dead one is a zombie. The servers
    of further ranks are found by their shared-memory prefix. Empty for a server that is not seen from here.
    """
    port = url.rpartition(":")[2]
    argvs: dict[int, list[str]] = {}
    zombies: dict[int, int] = {}
    for directory in proc.glob("[0-9]*"):
        try:
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            argvs[int(directory.name)] = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):  # it has ended meanwhile, or belongs to another user
            continue
        if state == "Z" and _STUB.startswith(name):  # the kernel keeps the first 15 characters
            zombies[int(directory.name)] = int(parent)
    ours = [argv for argv in argvs.values() if {f"--http-port={port}", f"--metrics-port={port}"} & set(argv)]
    prefixes = {word.rstrip("_0123456789") for argv in ours for word in argv if word.startswith(_SHM_PREFIX)}
    servers = {
        pid
        for pid, argv in argvs.items()
        if argv in ours or any(word.rstrip("_0123456789") in prefixes for word in argv if word.startswith(_SHM_PREFIX))
    }
    return sorted(pid for pid, parent in zombies.items() if parent in servers)
