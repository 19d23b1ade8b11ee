"""Find a Triton server and lay out what the CPU server of the wheel needs besides itself.

It decides which server is used and the environment that its Python models get. How it is started is ``launch.py``.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trtbuild import catalog, process
from trtbuild.errors import HostError
from trtbuild.registry import gpu_packages
from trtbuild.serve import wheel_backend

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
"""Where NVIDIA's images keep the server. Source: triton-inference-server/server, build.py and the image's PATH."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tritonserver that can be started.

    Attributes:
        path: The executable.
        kind: ``wheel`` for the CPU build inside the nvidia-pytriton wheel, else ``native``.
        backend_directory: Passed as ``--backend-directory`` when not the built-in one.
        env: Variables the server and its Python models need.
    """

    path: Path
    kind: Literal["native", "wheel"]
    backend_directory: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def find_server(search_path: str) -> Server:
    """Return the server to use: on ``search_path``, in NVIDIA's image, or the CPU wheel.

    Raises:
        HostError: There is none.
    """
    on_path = shutil.which("tritonserver", path=search_path)
    if on_path:
        return Server(path=Path(on_path), kind="native")
    if os.access(CONTAINER_SERVER, os.X_OK):
        return Server(path=CONTAINER_SERVER, kind="native")
    wheel = _wheel_root()
    if wheel is not None:
        return Server(path=wheel / "bin" / "tritonserver", kind="wheel")
    raise HostError(
        "no tritonserver found: not on PATH, not in /opt/tritonserver/bin, and the CPU wheel is not installed",
        hint="pip install 'trtbuild[cpu]' brings a CPU server; on GPUs run inside NVIDIA's Triton image",
    )


def model_python(server: Server, search_path: str) -> Path:
    """Return the interpreter whose packages the server's Python models have.

    It is the ``python3`` on PATH, where :func:`prepare_server` puts this interpreter first for the server of the wheel;
    in NVIDIA's image it is the image's own.
    Source: triton-inference-server/python_backend, README, "Using Custom Python Execution Environments" and pb_stub.cc.
    """
    found = None if server.kind == "wheel" else shutil.which("python3", path=search_path)
    return Path(found or sys.executable)


def server_version(server: Server, versions: Mapping[str, str]) -> str:
    """Return the release (``25.07``) or the version (``2.59.1``) of a server, "" when it is unknown.

    Args:
        server: What :func:`find_server` returned.
        versions: Those of :class:`~trtbuild.spec.HostInfo`: NVIDIA's images announce theirs in the environment.
    """
    if server.kind == "wheel":
        return catalog.wheel_release(versions.get("triton_wheel", ""))
    return versions.get("triton_image") or versions.get("triton") or ""


def prepare_server(server: Server, *, cache_dir: Path, search_path: str, library_path: str = "") -> Server:
    """Return ``server`` ready to be started; for the wheel, lay out its Python backend under ``cache_dir``.

    The wheel's Python backend and the stub of this Python version are copied side by side once, and compared with the
    wheel at every start (see ``wheel_backend``). The stub ignores PYTHONPATH and takes the packages of
    the ``python3`` on PATH, so this interpreter's directory comes first there; its libpython must be found, too.

    Args:
        server: What :func:`find_server` returned.
        cache_dir: A writable directory; the layout goes to ``<cache_dir>/triton-py<version>-<uid>-<digest>``.
        search_path: PATH of this process.
        library_path: LD_LIBRARY_PATH of this process.

    Raises:
        HostError: No stub for this Python version, or its shared library is not installed.
        LaunchError: ``cache_dir`` cannot be written.
    """
    python = Path(sys.executable)
    env = {
        "PATH": os.pathsep.join([str(python.parent), search_path]),
        "TRTBUILD_PYTHON": str(python),
        "PYTHONDONTWRITEBYTECODE": "1",  # a repository is never written to by its own models
    }
    if server.kind == "native":
        return replace(server, env={**server.env, "TRTBUILD_PYTHON": str(process.interpreter_with(*gpu_packages()))})
    root = server.path.parent.parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        known = sorted(p.name for p in (root / "python_backend_stubs").iterdir())
        raise HostError(
            f"the CPU server has no Python backend for Python {version}; it has {', '.join(known)}",
            hint="make a virtual environment with one of those, e.g. python3.11 -m venv .venv",
        )
    libraries = [_libpython_directory(), root.parent.parent / "nvidia_pytriton.libs"]
    env["LD_LIBRARY_PATH"] = os.pathsep.join([*(str(d) for d in libraries if d), *filter(None, [library_path])])
    sources = [*(path for path in (root / "backends" / "python").iterdir() if path.is_file()), stub]
    backends = wheel_backend.lay_out(sources, stub.name, cache_dir, label=f"triton-py{version}-{os.geteuid()}")
    return replace(server, backend_directory=backends, env=env)


def _wheel_root() -> Path | None:
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.origin:
        return None
    root = Path(found.origin).parent / "tritonserver"
    return root if (root / "bin" / "tritonserver").exists() else None


def _libpython_directory() -> Path | None:
    """Return the directory of this interpreter's libpython, or None when the loader finds it by itself.

    Raises:
        HostError: It is not installed (Debian keeps it in a package of its own).
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    candidates = [Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"), Path(sys.base_prefix) / "lib"]
    for base in ("/usr/lib", "/lib", "/usr/lib64", "/usr/local/lib"):
        candidates += [Path(base) / f"{platform.machine()}-linux-gnu", Path(base)]
    for directory in candidates:
        if (directory / name).exists():
            return directory
    raise HostError(
        f"the server's Python backend needs {name}, which is not installed",
        hint=f"apt-get install libpython{version} (Debian, Ubuntu), or use a Python built with --enable-shared",
    )
