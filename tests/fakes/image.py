"""NVIDIA's Triton TensorRT-LLM image as a directory: tools on PATH, scripts, installed versions, GPUs, file systems.

A process started with :meth:`Image.environment` sees the machine from outside, as a container would give it: nothing of
trtbuild is patched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.toolchain import lay_out_examples
from trtbuild import catalog

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fakes"
TOOLS = {
    "trtllm-build": "from tests.fakes.toolchain import main; sys.exit(main(sys.argv))",
    "mpirun": "from tests.fakes.recorder import main; sys.exit(main())",
    "tritonserver": "from tests.fakes.recorder import main; sys.exit(main())",
    "nvidia-smi": f"import runpy; runpy.run_path({str(FAKES / 'bin' / 'nvidia-smi')!r}, run_name='__main__')",
}
DISK_GIB = 4096
SHM_MIB = 65536


@dataclass(kw_only=True)
class Image:
    """A machine with an image of a release, a store and a hub.

    Attributes:
        directory: Where everything is.
        endpoint: The hub.
        version: TensorRT-LLM that is installed; its tables need not exist.
        tensorrt: TensorRT that is installed; "" for the one of the release's images.
        gpus: NVML names.
        tools: Programs on PATH.
        env: More of the environment.
    """

    directory: Path
    endpoint: str
    version: str = "1.2.1"
    tensorrt: str = ""
    gpus: tuple[str, ...] = ("NVIDIA H100 80GB HBM3",) * 4
    tools: tuple[str, ...] = tuple(TOOLS)
    shm_mib: int = SHM_MIB
    env: dict[str, str] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """Where the server's stand-in says how it was started."""
        return self.directory / "started.json"

    def environment(self) -> dict[str, str]:
        """Return the environment of a process in the image, which is laid out anew."""
        is_known = self.version in catalog.trtllm_versions()
        release = catalog.trtllm(self.version if is_known else catalog.trtllm_versions()[-1])
        layout = self.directory / f"image-{self.version}-{self.tensorrt or release.tensorrt}-{len(self.tools)}"
        if not layout.exists():
            self._lay_out(layout, release)
        python_path = [str(layout / "packages"), str(FAKES / "site"), str(ROOT), str(ROOT / "builder")]
        return {
            "PATH": os.pathsep.join([str(layout / "bin"), "/usr/bin", "/bin"]),
            "PYTHONPATH": os.pathsep.join(python_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.directory),
            "CUDA_VERSION": release.cuda,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.directory / "hf"),
            "TRTBUILD_STORE": str(self.directory / "store"),
            "TRTBUILD_TRTLLM_EXAMPLES": str(layout / "examples"),
            "TRTBUILD_TEST_TRTLLM": release.version,
            "TRTBUILD_TEST_GPUS": ",".join(self.gpus),
            "TRTBUILD_TEST_RECORD": str(self.record),
            "TRTBUILD_TEST_DISK_GIB": str(DISK_GIB),
            "TRTBUILD_TEST_SHM_MIB": str(self.shm_mib),
            **self.env,
        }

    def _lay_out(self, layout: Path, release: catalog.TrtLlmRelease) -> None:
        installed = {"tensorrt_llm": self.version, "tensorrt": self.tensorrt or release.tensorrt}
        for name, version in installed.items():
            path = layout / "packages" / f"{name}-{version}.dist-info" / "METADATA"
            path.parent.mkdir(parents=True)
            path.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (layout / "bin").mkdir()
        for name in self.tools:
            path = layout / "bin" / name
            path.write_text(f"#!{sys.executable}\nimport sys\n{TOOLS[name]}\n")
            path.chmod(0o755)
        lay_out_examples(layout / "examples", release)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``trtbuild`` in the image and check its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "trtbuild", *arguments],
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run ``trtbuild`` with JSON on standard output and return the document."""
        return json.loads(self.run(*arguments, "--format", "json", code=code).stdout)
