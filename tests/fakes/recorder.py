"""A stand-in for ``mpirun`` and ``tritonserver``: it writes down how it was started, and ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Write argv and what matters of the environment to the file that ``TRTBUILD_TEST_RECORD`` names."""
    names = ("TRTBUILD_PYTHON", "TRTLLM_ORCHESTRATOR")
    seen = {"argv": sys.argv, "env": {name: os.environ[name] for name in names if name in os.environ}}
    Path(os.environ["TRTBUILD_TEST_RECORD"]).write_text(json.dumps(seen))
    print("stand-in started")
    return 0
