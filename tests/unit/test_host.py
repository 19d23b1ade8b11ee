"""The machine is read from what the kernel and the driver say."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.host import inspect_host, parse_gpus, read_cpu, read_driver, read_gpus, read_memory_bytes, read_versions

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse4_2 fma avx2 avx512f amx_bf16 amx_tile amx_int8
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 sve\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "vendor", "isa"),
    [
        pytest.param(
            INTEL, "GenuineIntel", ("amx_bf16", "amx_int8", "amx_tile", "avx2", "avx512f", "fma", "sse4_2"), id="x86"
        ),
        pytest.param(ARM, "ARM", ("asimd", "bf16", "sve"), id="arm"),
    ],
)
def test_the_processor(tmp_path: Path, text: str, vendor: str, isa: tuple[str, ...]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    cpu = read_cpu(path)
    assert (cpu.vendor, cpu.isa) == (vendor, isa)
    assert cpu.cores >= 1


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 16_000_000 * 1024), ("1073741824\n", 1 << 30), ("", 16_000_000 * 1024)],
    ids=["no-limit", "limit", "unreadable"],
)
def test_memory_is_the_containers_limit_when_there_is_one(tmp_path: Path, limit: str, expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    (tmp_path / "memory.max").write_text(limit)
    assert read_memory_bytes(meminfo, tmp_path) == expected


QUERY = """0, NVIDIA H100 80GB HBM3, 9.0, 81559, GPU-aaa
1, NVIDIA H100 80GB HBM3, 9.0, 81559, GPU-bbb
"""
LISTING = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-ccc)
  MIG 3g.40gb     Device  1: (UUID: MIG-ddd)
"""


def test_gpus_and_their_slices() -> None:
    found = parse_gpus(QUERY, LISTING)
    assert [(g.index, g.product, g.mig_profile, g.memory_mib, uuid) for g, uuid in found] == [
        (0, "NVIDIA-H100-80GB-HBM3", None, 81559, "GPU-aaa"),
        (1, "NVIDIA-H100-80GB-HBM3", "3g.40gb", 36454, "MIG-ccc"),
        (2, "NVIDIA-H100-80GB-HBM3", "3g.40gb", 36454, "MIG-ddd"),
    ]


@pytest.mark.parametrize(
    ("visible", "capabilities"),
    [
        pytest.param(None, ["8.0", "9.0"], id="all"),
        pytest.param("1", ["9.0"], id="ordinal"),
        pytest.param("1,0", ["9.0", "8.0"], id="order"),
        pytest.param("GPU-b", ["9.0"], id="uuid-prefix"),
        pytest.param("", [], id="none"),
        pytest.param("0,7,1", ["8.0"], id="unknown-ends-the-list"),
        pytest.param("-1", [], id="minus-one"),
    ],
)
def test_cuda_visible_devices(tmp_path: Path, visible: str | None, capabilities: list[str]) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -L ] && exit 0\n'
        "echo '0, NVIDIA A100-SXM4-80GB, 8.0, 81920, GPU-aaa'\necho '1, NVIDIA H200, 9.0, 143771, GPU-bbb'\n"
    )
    program.chmod(0o755)
    gpus = read_gpus(str(program), visible)
    assert [gpu.compute_capability for gpu in gpus] == capabilities
    assert [gpu.index for gpu in gpus] == list(range(len(capabilities)))


@pytest.mark.parametrize("script", ["exit 9", "echo garbage; exit 0", "echo 'No devices were found'; exit 6"])
def test_a_broken_driver_is_no_gpu(tmp_path: Path, script: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert read_gpus(str(program), None) == ()


def test_versions_are_what_is_installed_not_what_is_claimed() -> None:
    versions = read_versions({"TRITON_SERVER_VERSION": "2.60.0", "CUDA_VERSION": "13.1.0"})
    assert versions["openvino"].startswith("20")
    assert (versions["triton"], versions["cuda"]) == ("2.60.0", "13.1.0")
    assert "tensorrt" not in versions


def test_this_machine_can_be_read() -> None:
    host = inspect_host({"PATH": "/nonexistent"})
    assert host.platform.startswith("linux/")
    assert host.memory_bytes > 1 << 28
    assert host.shm_bytes > 0


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
            "GCC version:  gcc version 11.4.0\n",
            {"driver": "535.104.05"},
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.44.01  Release Build  (dvs-builder@U22)\n",
            {"driver": "590.44.01"},
        ),
        ("", {}),
        (None, {}),
    ],
    ids=["closed", "open", "empty", "no-driver"],
)
def test_the_drivers_version(tmp_path: Path, text: str | None, versions: dict[str, str]) -> None:
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert read_driver(path) == versions


def test_the_scripts_of_an_image_are_found_where_they_are_said_to_be(tmp_path: Path) -> None:
    said = {"PATH": "/nonexistent", "TRTBUILD_TRTLLM_EXAMPLES": str(tmp_path)}
    assert inspect_host(said).tools["trtllm-examples"] == str(tmp_path)
    said["TRTBUILD_TRTLLM_EXAMPLES"] = str(tmp_path / "absent")
    assert "trtllm-examples" not in inspect_host(said).tools
