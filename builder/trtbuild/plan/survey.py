"""Which GPU products can serve a model, with how many GPUs: the table that ``trtbuild plan MODEL`` prints. Pure.

It decides which quantizations are worth a column and how wide the search is. What fits is ``memory`` arithmetic, what
is possible ``feasibility``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trtbuild.catalog import GpuSku, ModelInfo, TrtLlmRelease, preset, skus
from trtbuild.plan.feasibility import Fit, choose_dtype, smallest_fit
from trtbuild.plan.memory import HostRoom, Layout, Limits, host_room

COLUMNS = ("none", "fp8", "int8-weight-only", "int4-awq", "nvfp4")
"""Quantizations shown: unquantized, and one of each width and kind that GPUs differ in."""

MAX_GPUS = 8
"""GPUs of one node; more need several nodes."""


@dataclass(frozen=True, kw_only=True)
class SkuFit:
    """One row of the table.

    Attributes:
        sku: The GPU product.
        dtype: Compute type there.
        fits: Smallest way to serve by quantization; None where there is none within :data:`MAX_GPUS`.
        room: Disk, memory and shared memory of the first way that fits; None when none does.
    """

    sku: GpuSku
    dtype: str
    fits: dict[str, Fit | None]
    room: HostRoom | None

    @property
    def best(self) -> Fit | None:
        """The first way that fits, in the order of :data:`COLUMNS`."""
        return next((fit for fit in self.fits.values() if fit), None)


def survey(
    model: ModelInfo,
    limits: Limits,
    release: TrtLlmRelease,
    *,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    quantizations: Sequence[str] = COLUMNS,
) -> tuple[SkuFit, ...]:
    """Return a row for every product of the catalog that the release supports at all or not.

    Args:
        model: The model.
        limits: What the engine is built for.
        release: The TensorRT-LLM release that would build it.
        dtype: Compute type asked for, or ``auto``.
        kv_cache_dtype: Type of the key/value cache, or ``auto``.
        quantizations: Names of presets, in order of preference.
    """
    rows = []
    for sku in skus():
        chosen = choose_dtype(dtype, model, sku.architecture)
        fits: dict[str, Fit | None] = {}
        for name in quantizations:
            layout = Layout(dtype=chosen, preset=preset(name), kv_cache_dtype=kv_cache_dtype)
            fits[name] = smallest_fit(
                model,
                layout,
                limits,
                release=release,
                architecture=sku.architecture,
                product=sku.product,
                gpu_bytes=sku.memory_bytes,
                compute_capability=sku.compute_capability,
                max_gpus=MAX_GPUS,
            )
        row = SkuFit(sku=sku, dtype=chosen, fits=fits, room=None)
        best = row.best
        if best:
            calibrated = best.layout.preset.is_calibrated
            row = replace(row, room=host_room(model, best.layout, is_calibrated=calibrated))
        rows.append(row)
    return tuple(rows)
