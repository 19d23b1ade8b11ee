"""Doctor names the known vulnerabilities of the server on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.cli.doctor import server_risk

SAFE = "the first image without them is nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3"


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a server on PATH, as in an image."""
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("versions", "version", "words"),
    [
        ({"triton_image": "25.01"}, "25.01", ["Triton 25.01 has known vulnerabilities", "CVE-2025-23310", SAFE]),
        ({"triton": "2.59.0"}, "2.59.0", ["Triton 2.59.0 has known vulnerabilities", "CVE-2025-23334", SAFE]),
        ({"triton_image": "26.07", "triton": "2.72.0"}, "26.07", []),
        ({}, "", ["its version is not known", "docs/security.md"]),
    ],
    ids=["old image", "old server", "new", "unknown"],
)
def test_the_server_s_own_version_is_judged(versions: dict[str, str], version: str, words: list[str]) -> None:
    found, risk = server_risk(versions)
    assert found == version
    assert bool(risk) == bool(words)
    for word in words:
        assert word in risk


def test_no_server_is_no_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("trtbuild.serve.server._wheel_root", lambda: None)
    assert server_risk({}) == ("", "")
