"""On a machine with a GPU: what the driver says of it agrees with the catalog."""

from __future__ import annotations

import shutil

import pytest

from trtbuild import catalog, host
from trtbuild.plan import feasibility
from trtbuild.process import Command, run
from trtbuild.spec import CpuInfo, GpuInfo, HostInfo

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpus() -> tuple[GpuInfo, ...]:
    program = shutil.which("nvidia-smi")
    found = host.read_gpus(program, None)
    if not found:
        pytest.skip("no NVIDIA GPU here")
    return found


def query(field: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    assert program is not None
    done = run(Command(argv=(program, f"--query-gpu={field}", "--format=csv,noheader,nounits")), timeout_s=60)
    assert done.exit_code == 0
    return [line.strip() for line in done.tail if line.strip()]


def test_names_become_labels(gpus: tuple[GpuInfo, ...]) -> None:
    names = query("name")
    assert {gpu.product for gpu in gpus} == {catalog.normalize_product(name) for name in names}
    assert not any(" " in gpu.product for gpu in gpus)


def test_capability_and_memory_agree_with_the_table(gpus: tuple[GpuInfo, ...]) -> None:
    for gpu in gpus:
        architecture = catalog.gpu_architecture(gpu.compute_capability)
        assert architecture is not None, f"compute capability {gpu.compute_capability} belongs into skus.yaml"
        sku = catalog.find_sku(gpu.product)
        if sku is None:
            pytest.skip(f"{gpu.product} is not in the catalog")
        assert gpu.compute_capability == sku.compute_capability
        if gpu.mig_profile is None:
            # With ECC off, GDDR6 boards show about 7% more.
            assert sku.memory_mib * 0.99 <= gpu.memory_mib <= sku.memory_mib * 1.08


def test_an_engine_built_here_fits_here(gpus: tuple[GpuInfo, ...]) -> None:
    machine = HostInfo(
        platform="linux/x86_64",
        cpu=CpuInfo(vendor="", model="", isa=(), cores=1),
        gpus=gpus,
        versions={"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"},
    )
    key = {
        "gpu_product": gpus[0].product,
        "gpu_mig_profile": gpus[0].mig_profile,
        "compute_capability": gpus[0].compute_capability,
        "tensorrt_llm": "1.2.1",
        "tensorrt": "10.14.1.48",
        "platform": "linux/x86_64",
    }
    assert feasibility.engine_mismatches(key, machine, world_size=1) == ()
    other = {**key, "gpu_product": "NVIDIA-Imaginary"}
    assert len(feasibility.engine_mismatches(other, machine, world_size=1)) == 1
