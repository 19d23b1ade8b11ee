"""The embedded engine sends no telemetry."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.backends.cpu.test_cpu_plan import HOST, plan
from trtbuild.backends.cpu.steps import optimum_arguments

TEMPLATES = Path(__file__).resolve().parents[4] / "model_repo_templates"
WORKER = [str(TEMPLATES / part) for part in ("tensorrt_llm/cpu/1", "_shared")]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import trtbuild.backends.cpu.build", id="builder"),
        pytest.param(f"sys.path[:0] = {WORKER!r}; import engine_worker", id="engine"),
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


# optimum-intel imports the real openvino (and nncf, in the same way) after its command line has started. The audit
# hook sees every connection and name lookup of the process, also those of threads and of C code's Python sockets.
EXPORTER = """
import json, pathlib, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in NETWORK else None)
import openvino
import openvino.tools.ovc.telemetry_utils as telemetry
telemetry.init_ovc_telemetry().send_event("ovc", "import", "optimum")
try:
    from openvino_telemetry import Telemetry  # as nncf does
except ImportError:
    Telemetry = None
modules = sorted(name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name])
report = {"arguments": sys.argv[1:], "network": seen, "modules": modules, "nncf": repr(Telemetry)}
pathlib.Path(sys.argv[-1]).write_text(json.dumps(report))
"""
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg", "subprocess.Popen"}


def test_the_export_with_optimum_intel_loads_no_usage_statistics(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    commands, home = tmp_path / "packages" / "optimum" / "commands", tmp_path / "home"
    commands.mkdir(parents=True)
    home.mkdir()
    (commands / "optimum_cli.py").write_text(EXPORTER.replace("NETWORK", repr(NETWORK)))
    host = replace(HOST, versions={**HOST.versions, "optimum_intel": "2"})
    arguments = optimum_arguments(plan("falcon-7b", host=host).shape, "SNAPSHOT", str(tmp_path / "report.json"))
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120,
        env={
            "HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(tmp_path / "packages"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {"arguments": list(arguments[2:]), "network": [], "modules": [], "nncf": "None"}
    assert not list(home.iterdir())
