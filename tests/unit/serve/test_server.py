"""Which server is used, and what is laid out for the one of the wheel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtbuild.errors import LaunchError
from trtbuild.serve.server import Server, find_server, prepare_server


def test_a_server_on_path_is_preferred(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_server(str(tmp_path)) == Server(path=program, kind="native")


def test_the_wheel_is_laid_out_once_and_beside_its_stub(tmp_path: Path) -> None:
    server = find_server("/nonexistent")
    assert server.kind == "wheel"
    first = prepare_server(server, cache_dir=tmp_path, search_path="/bin", library_path="/lib")
    assert first.backend_directory is not None
    stub = first.backend_directory / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert (first.backend_directory / "python" / "libtriton_python.so").exists()
    before = stub.stat().st_mtime_ns
    assert prepare_server(server, cache_dir=tmp_path, search_path="/bin", library_path="/lib") == first
    assert stub.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [first.backend_directory.name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LaunchError, match="cannot lay out the server's Python backend under"):
        prepare_server(find_server("/nonexistent"), cache_dir=blocked / "x", search_path="/bin")
