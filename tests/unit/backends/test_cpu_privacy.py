"""The embedded engine tells nobody that it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).resolve().parents[3] / "model_repo_templates" / "tensorrt_llm" / "cpu" / "1"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import trtbuild.backends.cpu_graph", id="builder"),
        pytest.param(f"sys.path.insert(0, {str(WORKER)!r}); import engine_worker", id="engine"),
    ],
)
def test_no_usage_statistics_are_loaded_or_written(code: str, tmp_path: Path) -> None:
    stub = "'openvino.tools.ovc.telemetry_stub' in sys.modules"
    text = f"import sys; {code}; print(sys.modules['openvino_telemetry'], {stub})"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=120,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["None", "True"], done.stderr
    assert not list(tmp_path.iterdir())
