"""The chart's values for one plan: what ``trtbuild plan --gpu SKU --values`` prints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtbuild.catalog import ModelInfo, image_warning, trtllm
from trtbuild.plan.memory import TOOL_BYTES
from trtbuild.spec import RepositorySpec

if TYPE_CHECKING:
    from trtbuild.catalog import GpuSku
    from trtbuild.plan import BuildPlan
    from trtbuild.spec import Spec

GIB = 1 << 30
HEADROOM = 1.2
"""Room given beyond the plan's figures: file systems, logs, a second engine's metadata."""


def values_file(spec: Spec, made: BuildPlan, sku: GpuSku, *, version: str) -> str:
    """Return a values file that deploys the plan on one GPU product, with budgets from its arithmetic."""
    import yaml

    shape, budget = made.shape, made.budget
    memory_gib = math.ceil(budget.host_memory_bytes / GIB)
    serving = shape.world_size * TOOL_BYTES + budget.shm_bytes
    server = _server_values(spec)
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
            **_engine_values(spec),
            **({"tokenSecret": {"name": "hf-token", "key": "token"}} if made.model.info.gated else {}),
        },
        **({"server": server} if server else {}),
        "skus": {sku_name(sku): {"gpu": {"products": [sku.product]}}},
        "shm": {"size": f"{math.ceil(budget.shm_bytes / GIB)}Gi"},
        # A rank reads its engine into host memory before it moves to the GPU.
        "resources": {
            "requests": {"cpu": 2, "memory": f"{math.ceil(serving / GIB)}Gi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": f"{math.ceil((serving + budget.engine_bytes) / GIB)}Gi"},
        },
        "initResources": {
            "requests": {"cpu": 2, "memory": f"{memory_gib}Gi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": f"{math.ceil(memory_gib * HEADROOM)}Gi"},
        },
        "storage": {
            "engines": {"size": _size(budget.engine_bytes + budget.checkpoint_bytes)},
            "models": {"size": _size(budget.snapshot_bytes)},
        },
    }
    heading = (
        f"# {made.model.model_id} on {sku.product}, from: trtbuild plan {spec.engine.model} --gpu {sku_name(sku)} "
        f"--tp {shape.tp_size} --pp {shape.pp_size} --values\n"
        f"# image: built from {trtllm(version).images[-1]}\n"
    )
    if unsafe := image_warning(trtllm(version)):
        heading += f"# WARNING: {unsafe}\n"
    gated = _gated_note(made.model.info)
    return heading + gated + yaml.safe_dump(values, sort_keys=False, default_flow_style=False)


def _engine_values(spec: Spec) -> dict[str, object]:
    """Return the keys below ``model`` that are asked for and have no figure in the plan."""
    asked = {
        "buildOptions": dict(spec.engine.build_option),
        "calibration": spec.engine.calibration,
        "servedName": spec.repository.served_name,
        "allowPickle": spec.engine.allow_pickle,
        "trustRemoteCode": spec.engine.trust_remote_code,
    }
    return {name: value for name, value in asked.items() if value}


def _server_values(spec: Spec) -> dict[str, object]:
    """Return the keys below ``server`` that differ from the defaults."""
    asked, plain = spec.repository, RepositorySpec()
    names = {
        "layout": "layout",
        "decoupled": "decoupled",
        "maxQueueSize": "max_queue_size",
        "kvCacheFreeGpuMemFraction": "kv_cache_free_gpu_mem_fraction",
        "enableKvCacheReuse": "enable_kv_cache_reuse",
        "enableChunkedContext": "enable_chunked_context",
        "batchSchedulerPolicy": "batch_scheduler_policy",
        "templateParameters": "template_parameter",
    }
    return {
        key: dict(value) if isinstance(value := getattr(asked, name), Mapping) else value
        for key, name in names.items()
        if getattr(asked, name) != getattr(plain, name)
    }


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
