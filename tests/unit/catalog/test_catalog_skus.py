"""GPU products: names in all their spellings, and what each can compute."""

from __future__ import annotations

import pytest

from trtbuild import catalog
from trtbuild.catalog import GpuSku, ProductLabel

SKUS = catalog.skus()


@pytest.mark.parametrize("sku", SKUS, ids=lambda sku: sku.product)
def test_names_go_both_ways(sku: GpuSku) -> None:
    assert catalog.normalize_product(sku.nvml_name) == sku.product
    for name in (sku.nvml_name, sku.product, *sku.aliases, sku.product.lower(), f"{sku.product}-SHARED"):
        assert catalog.find_sku(name) is sku


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("NVIDIA A10G", ProductLabel(product="NVIDIA-A10G")),
        ("NVIDIA-A10G-SHARED", ProductLabel(product="NVIDIA-A10G", is_shared=True)),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", ProductLabel(product="NVIDIA-A100-SXM4-80GB", mig_profile="3g.40gb")),
        (
            "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED",
            ProductLabel(product="NVIDIA-A100-SXM4-40GB", mig_profile="1g.5gb", is_shared=True),
        ),
        (
            "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me",
            ProductLabel(product="NVIDIA-H100-80GB-HBM3", mig_profile="1g.10gb.me"),
        ),
        ("NVIDIA  RTX 6000 Ada Generation ", ProductLabel(product="NVIDIA-RTX-6000-Ada-Generation")),
    ],
    ids=["plain", "shared", "mig", "mig-shared", "mig-media", "unknown-product"],
)
def test_labels_come_apart_and_together(text: str, parts: ProductLabel) -> None:
    assert catalog.parse_product(text) == parts
    assert catalog.parse_product(parts.label) == parts


# The products the project promises, with figures from the makers' data sheets: capability and nominal gigabytes.
@pytest.mark.parametrize(
    ("name", "capability", "gigabytes"),
    [
        ("v100", "7.0", 16), ("t4", "7.5", 16), ("a10", "8.6", 24), ("a10g", "8.6", 24), ("a30", "8.0", 24),
        ("a100-40gb", "8.0", 40), ("a100-80gb", "8.0", 80), ("a100-pcie-40gb", "8.0", 40), ("a100-pcie", "8.0", 80),
        ("l4", "8.9", 24), ("l40", "8.9", 48), ("l40s", "8.9", 48), ("h100", "9.0", 80), ("h100-pcie", "9.0", 80),
        ("h100-nvl", "9.0", 94), ("h200", "9.0", 141), ("gh200", "9.0", 96), ("b200", "10.0", 180),
        ("gb200", "10.0", 186),
    ],
)  # fmt: skip
def test_documented_products(name: str, capability: str, gigabytes: int) -> None:
    sku = catalog.find_sku(name)
    assert sku is not None
    assert sku.compute_capability == capability
    # nvidia-smi's MiB lies between the nominal size counted in 10^9 and in 2^30 bytes; ECC takes up to 7% of GDDR6.
    assert 0.93 * gigabytes * 1024 <= sku.memory_mib <= 1.02 * gigabytes * 1024


@pytest.mark.parametrize(
    ("name", "dtype", "quantization", "works"),
    [
        ("v100", "bfloat16", "none", False),
        ("t4", "bfloat16", "none", False),
        ("a100", "bfloat16", "fp8", False),
        ("a100", "bfloat16", "int4-awq", True),
        ("l4", "bfloat16", "fp8", True),
        ("l40s", "bfloat16", "w4a8-awq", True),
        ("h100", "bfloat16", "nvfp4", False),
        ("b200", "bfloat16", "nvfp4", True),
        ("b200", "bfloat16", "int4-awq", False),
        ("b200", "bfloat16", "int8-weight-only", False),
    ],
)
def test_what_an_architecture_computes(name: str, dtype: str, quantization: str, works: bool) -> None:
    sku = catalog.find_sku(name)
    assert sku is not None
    can = dtype in sku.architecture.dtypes and quantization in ("none", *sku.architecture.quantizations)
    assert can is works


def test_unknown_products() -> None:
    assert catalog.find_sku("NVIDIA GeForce RTX 3070") is None
    assert catalog.gpu_architecture("6.1") is None
    assert "NVIDIA-H100-80GB-HBM3" in catalog.closest_skus("NVIDIA-H100-80G-HBM3")


@pytest.mark.parametrize(
    ("profile", "gib"), [("1g.12gb", 10.75), ("1g.23gb", 20.5), ("3g.40gb", 39.5)], ids=["h100-nvl", "b200", "a100"]
)
def test_mig_memory_is_not_overestimated(profile: str, gib: float) -> None:
    mib = catalog.mig_memory_mib(profile)
    assert mib is not None
    assert 0.85 * gib * 1024 <= mib <= gib * 1024


def test_mig_profile_without_a_size() -> None:
    assert catalog.mig_memory_mib("INVALID") is None
