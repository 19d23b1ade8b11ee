"""The key of a TensorRT-LLM engine: everything that changes its bytes. Pure."""

from __future__ import annotations

from trtbuild.backends.gpu import nominal_memory_mib
from trtbuild.backends.tensorrt_llm import commands
from trtbuild.backends.tensorrt_llm.options import resolved_build_options
from trtbuild.backends.tensorrt_llm.shape import compiler_options
from trtbuild.backends.tensorrt_llm.target import Target
from trtbuild.plan import EngineKey, EngineShape, ResolvedModel
from trtbuild.spec import HostInfo, JsonValue


def engine_key(model: ResolvedModel, shape: EngineShape, target: Target, host: HostInfo) -> EngineKey:
    """Return the key of an engine of this shape for these GPUs and this release."""
    quantizer: dict[str, JsonValue] = {}
    if commands.needs_quantizer(shape):
        quantizer = {
            "calibration": shape.options["calibration"],
            "calibration_size": commands.CALIBRATION_SIZE,
            "calibration_seed": commands.CALIBRATION_SEED,
            "awq_block_size": commands.AWQ_BLOCK_SIZE,
        }
    resolved: dict[str, JsonValue] = {
        **resolved_build_options(target.release, {name: str(value) for name, value in compiler_options(shape).items()})
    }
    fields: dict[str, JsonValue] = {
        "backend": "tensorrt_llm",
        "model_id": model.model_id,
        "revision": model.revision,
        "dtype": shape.dtype,
        "quantization": shape.quantization,
        "kv_cache_dtype": shape.kv_cache_dtype,
        "quantizer": quantizer,
        "tp_size": shape.tp_size,
        "pp_size": shape.pp_size,
        "max_batch_size": shape.max_batch_size,
        "max_input_len": shape.max_input_len,
        "max_seq_len": shape.max_seq_len,
        "max_num_tokens": shape.max_num_tokens,
        "build_options": resolved,
        "gpu_product": target.gpu.product,
        "gpu_mig_profile": target.gpu.mig_profile,
        "compute_capability": target.gpu.compute_capability,
        "gpu_memory_mib": nominal_memory_mib(target.gpu),
        "tensorrt_llm": target.release.installed,
        "tensorrt": host.versions.get("tensorrt"),
        "cuda": host.versions.get("cuda"),
        "platform": host.platform,
    }
    if "attention_windows" in shape.options:  # kept with the engine, which is served with them
        fields["attention_windows"] = shape.options["attention_windows"]
    kind = shape.dtype if shape.quantization == "none" else f"{shape.dtype}-{shape.quantization}"
    cache = "" if shape.kv_cache_dtype == "auto" else f"-kv{shape.kv_cache_dtype}"
    return EngineKey(
        fields=fields,
        model_part=model.model_id,
        sku_part=target.product,
        shape_part=f"tp{shape.tp_size}-pp{shape.pp_size}-{kind}{cache}",
    )
