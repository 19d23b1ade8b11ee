"""What stops a start, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from trtbuild.errors import LaunchError
from trtbuild.plan import EngineInfo
from trtbuild.serve.preflight import Limits, preflight, refuse
from trtbuild.spec import CpuInfo, GpuInfo, HostInfo

GOOD = Limits(open_files=65536, locked_bytes=None)
H100 = GpuInfo(index=0, product="NVIDIA-H100-80GB-HBM3", compute_capability="9.0", memory_mib=81559)
FIELDS = {
    "gpu_product": "NVIDIA-H100-80GB-HBM3",
    "compute_capability": "9.0",
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
}


def _host(**changes: Any) -> HostInfo:
    values: dict[str, Any] = {
        "platform": "linux/x86_64",
        "cpu": CpuInfo(vendor="v", model="m", isa=(), cores=8),
        "gpus": (H100, H100),
        "shm_bytes": 2 << 30,
        "versions": {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"},
    }
    return HostInfo(**{**values, **changes})


def _info(**changes: Any) -> EngineInfo:
    values: dict[str, Any] = {
        "backend": "tensorrt_llm", "tp_size": 2, "pp_size": 1, "max_batch_size": 8, "max_input_len": 1,
        "max_seq_len": 2, "max_num_tokens": 8, "dtype": "bfloat16", "vocab_size": 10,
    }  # fmt: skip
    return EngineInfo(**{**values, **changes})


def test_everything_in_order_starts() -> None:
    checks = preflight(_host(), _info(), GOOD, FIELDS)
    assert all(check.is_ok for check in checks)
    assert {check.name for check in checks} == {"/dev/shm", "engine", "open files", "locked memory"}
    refuse(checks)


@pytest.mark.parametrize(
    ("host", "info", "message"),
    [
        pytest.param({"shm_bytes": 64 << 20}, {}, r"/dev/shm: 64.0 MiB, expected at least 576.0 MiB", id="shm"),
        pytest.param({"gpus": (H100,)}, {}, r"engine: it has 2 ranks, 1 GPUs are visible", id="gpus"),
        pytest.param(
            {"versions": {"tensorrt_llm": "1.2.1", "tensorrt": "10.13.3.9"}}, {},
            r"engine: built with TensorRT 10.14.1.48, here is 10.13.3.9", id="tensorrt",
        ),
        pytest.param(
            {"gpus": (GpuInfo(index=0, product="NVIDIA-L40S", compute_capability="8.9", memory_mib=46068),) * 2}, {},
            r"engine: built for product NVIDIA-H100-80GB-HBM3, GPU 0 has NVIDIA-L40S", id="gpu",
        ),
    ],
)  # fmt: skip
def test_what_would_hang_or_die_is_refused_with_both_sides(
    host: dict[str, Any], info: dict[str, Any], message: str
) -> None:
    with pytest.raises(LaunchError, match=message) as caught:
        refuse(preflight(_host(**host), _info(**info), GOOD, FIELDS))
    assert caught.value.hint


def test_tight_limits_warn_but_do_not_stop() -> None:
    checks = preflight(_host(), _info(), Limits(open_files=1024, locked_bytes=65536), FIELDS)
    assert {check.name for check in checks if not check.is_ok} == {"open files", "locked memory"}
    refuse(checks)


def test_the_cpu_backend_needs_no_gpu() -> None:
    checks = preflight(_host(gpus=(), shm_bytes=64 << 20), _info(backend="cpu", tp_size=1), GOOD, {})
    refuse(checks)
    with pytest.raises(LaunchError, match="built with openvino 1, here is none"):
        refuse(preflight(_host(gpus=()), _info(backend="cpu", tp_size=1), GOOD, {"openvino": "1"}))
