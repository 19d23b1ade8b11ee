"""The chart's values for one plan: what ``trtbuild plan --gpu SKU --values`` prints."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from trtbuild.catalog import ModelInfo

if TYPE_CHECKING:
    from trtbuild.catalog import GpuSku
    from trtbuild.plan import BuildPlan
    from trtbuild.spec import Spec

GIB = 1 << 30
HEADROOM = 1.2
"""Room given beyond the plan's figures: file systems, logs, a second engine's metadata."""


def values_file(spec: Spec, made: BuildPlan, sku: GpuSku) -> str:
    """Return a values file that deploys the plan on one GPU product, with budgets from its arithmetic."""
    import yaml

    shape, budget = made.shape, made.budget
    memory_gib = math.ceil(budget.host_memory_bytes / GIB)
    values: dict[str, object] = {
        "model": {
            "name": spec.engine.model,
            "revision": spec.engine.revision,
            "backend": made.backend,
            "dtype": shape.dtype,
            "quantization": shape.quantization,
            "kvCacheDtype": shape.kv_cache_dtype,
            "parallelism": {"tensor": shape.tp_size, "pipeline": shape.pp_size},
            "limits": {
                "maxBatchSize": shape.max_batch_size,
                "maxInputLen": shape.max_input_len,
                "maxSeqLen": shape.max_seq_len,
                "maxNumTokens": shape.max_num_tokens,
            },
            **({"buildOptions": dict(spec.engine.build_option)} if spec.engine.build_option else {}),
            **({"tokenSecret": {"name": "hf-token", "key": "token"}} if made.model.info.gated else {}),
        },
        "skus": {sku_name(sku): {"gpu": {"products": [sku.product]}}},
        "shm": {"size": f"{math.ceil(budget.shm_bytes / GIB)}Gi"},
        "initResources": {
            "requests": {"cpu": 2, "memory": f"{memory_gib}Gi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": f"{math.ceil(memory_gib * HEADROOM)}Gi"},
        },
        "storage": {
            "engines": {"size": _size(budget.engine_bytes + budget.checkpoint_bytes)},
            "models": {"size": _size(budget.snapshot_bytes)},
        },
    }
    heading = f"# {made.model.model_id} on {sku.product}, from: trtbuild plan --gpu {sku_name(sku)} --values\n"
    gated = _gated_note(made.model.info)
    return heading + gated + yaml.safe_dump(values, sort_keys=False, default_flow_style=False)


def sku_name(sku: GpuSku) -> str:
    """Return a short name for a product that is a legal Kubernetes label value."""
    name = sku.aliases[0] if sku.aliases else sku.product.removeprefix("NVIDIA-")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _size(count: int) -> str:
    return f"{max(1, math.ceil(count * HEADROOM / GIB))}Gi"


def _gated_note(info: ModelInfo) -> str:
    if not info.gated:
        return ""
    return "# gated: kubectl create secret generic hf-token --from-file=token=PATH, of an account that may read it\n"
