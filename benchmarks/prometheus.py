"""Run a real Prometheus for a benchmark: its configuration, its life, and queries."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

RULES = Path(__file__).parents[1] / "chart" / "files" / "rules"


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def scoped_rules(name: str, *, namespace: str, release: str) -> str:
    """Return a rule file as an installation renders it for one release."""
    text = (RULES / name).read_text(encoding="utf-8").replace('namespace=~".+"', f'namespace="{namespace}"')
    return text.replace('release=~".+"', f'namespace="{namespace}", release="{release}"')


class Prometheus:
    """A Prometheus process with its data in a folder; stopped at the end of the ``with`` block.

    Args:
        folder: Holds ``prometheus.yml`` already, and takes the data and the log.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise SystemExit("error: prometheus not found\nhint: Debian and Ubuntu: apt-get install prometheus")
        self._folder = folder
        self._port = free_port()
        self._command = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]

    @property
    def url(self) -> str:
        """Base address of the API."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Prometheus:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return self
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        self.__exit__()
        raise SystemExit(f"error: Prometheus did not start\n{(self._folder / 'prometheus.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(timeout=60)

    def get(self, path: str, **query: str) -> Any:
        """Return the ``data`` of an API answer."""
        text = urllib.parse.urlencode(query)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{text}", timeout=60) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and values of an instant query."""
        found = self.get("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]
