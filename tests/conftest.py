"""What holds for every test: no default paths, no network beyond loopback, and no silent skip in CI."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from trtbuild import redact
from trtbuild.console import log

settings.register_profile("trtbuild", deadline=None)  # a busy machine is no failure
settings.load_profile("trtbuild")

_skips: dict[str, str] = {}
_seconds: dict[str, float] = {}
_gpu_skips: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def _no_default_paths(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that forgets to name its store or cache fails instead of touching the developer's."""
    blocked = tmp_path_factory.getbasetemp() / "no-default-paths"
    if not blocked.exists():
        blocked.write_text("a file, so that nothing can be created below it\n")
    for name in [name for name in os.environ if name.startswith(("TRTBUILD_", "HF_")) and "TRTBUILD_TEST_" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("HF_HOME", str(blocked / "hf"))


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """Each test has the default sink; one that configures another leaves nothing behind."""
    log.configure(log_format="text")
    yield
    log.configure(log_format="text")
    redact.forget()


def _area(nodeid: str) -> str:
    """Return the directory of a test, at most three deep: ``tests/unit/front``."""
    return "/".join(nodeid.partition("::")[0].split("/")[:-1][:3])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    area = _area(report.nodeid)
    _seconds[area] = _seconds.get(area, 0.0) + report.duration
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skips[report.nodeid] = reason.removeprefix("Skipped: ")
        if "gpu" in report.keywords:
            _gpu_skips.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("seconds per area")
    for area, seconds in sorted(_seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{seconds:8.1f}  {area}")
    if not _skips:
        terminalreporter.write_line("every test could run here")
        return
    terminalreporter.section("could not run here")
    for nodeid, reason in sorted(_skips.items()):
        terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip is a failure, unless the test needs a GPU."""
    missing = set(_skips) - _gpu_skips
    if os.environ.get("CI") and missing and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"{len(missing)} tests were skipped, which CI does not accept", red=True)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).resolve().parent.parent
