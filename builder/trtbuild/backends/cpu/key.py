"""The key of a cpu engine: everything that changes its bytes, or its tokens. Pure."""

from __future__ import annotations

from trtbuild.backends.cpu.families import GRAPH_VERSION
from trtbuild.plan import EngineKey, EngineShape, ResolvedModel
from trtbuild.spec import CpuInfo, HostInfo, JsonValue


def cpu_class(cpu: CpuInfo) -> str:
    """Return a short name of the processor's kind, e.g. ``cpu-amd-avx512_bf16``."""
    vendors = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "ARM": "arm"}
    ladder = ("amx_tile", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "sve", "asimd")
    best = next((name for name in ladder if name in cpu.isa), "baseline")
    return f"cpu-{vendors.get(cpu.vendor, cpu.vendor.lower() or 'unknown')}-{best}"


def engine_key(model: ResolvedModel, shape: EngineShape, host: HostInfo) -> EngineKey:
    """Return the key of an engine of this shape, computed on this kind of processor."""
    route = shape.options["route"]
    fields: dict[str, JsonValue] = {
        "backend": "cpu",
        "model_id": model.model_id,
        "revision": model.revision,
        "dtype": shape.dtype,
        "quantization": shape.quantization,
        "kv_cache_dtype": shape.kv_cache_dtype,
        "tp_size": shape.tp_size,
        "pp_size": shape.pp_size,
        "max_batch_size": shape.max_batch_size,
        "max_input_len": shape.max_input_len,
        "max_seq_len": shape.max_seq_len,
        "max_num_tokens": shape.max_num_tokens,
        "options": dict(shape.options),
        "graph": GRAPH_VERSION if route == "builder" else f"optimum-intel {host.versions['optimum_intel']}",
        "openvino": host.versions.get("openvino"),
        "openvino_genai": host.versions.get("openvino_genai"),
        "cpu": {"vendor": host.cpu.vendor, "isa": list(host.cpu.isa)},
        "platform": host.platform,
    }
    weights = shape.options["weights"]
    assert isinstance(weights, str)
    return EngineKey(
        fields=fields,
        model_part=model.alias or model.model_id,
        sku_part=cpu_class(host.cpu),
        shape_part=f"tp1-pp1-{weights}",
    )
