"""A model process: an endpoint with a model that echoes. Ends in order when its input ends."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "model_repo_templates" / "_shared")]

from trtbuild_http.gateway import Endpoint, EndpointSettings  # noqa: E402

from tests.unit.http.kit import Model  # noqa: E402


def main() -> None:
    directory, port, name, version = sys.argv[1:]
    settings = EndpointSettings(host="127.0.0.1", port=int(port), runtime_dir=directory)

    def log(line: str) -> None:
        print(line, flush=True)

    endpoint = Endpoint(settings, Model(name, mark=version), version, log, b"{}", model_version=version)
    endpoint.start()
    log("started")
    sys.stdin.read()
    endpoint.stop()
    log("stopped")


if __name__ == "__main__":
    main()
