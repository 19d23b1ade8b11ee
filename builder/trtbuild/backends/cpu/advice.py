"""What a plan should say although nothing forbids it. Pure."""

from __future__ import annotations

from trtbuild.backends.cpu.room import weights_are_widened
from trtbuild.backends.cpu.shape import DEFAULT_SEQ_LEN, context_limit
from trtbuild.catalog import ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.plan import EngineShape
from trtbuild.plan.memory import GIB
from trtbuild.spec import EngineSpec, HostInfo


def plan_warnings(spec: EngineSpec, info: ModelInfo, host: HostInfo, shape: EngineShape) -> tuple[str, ...]:
    """Return what the user should know but nothing forbids."""
    warnings = []
    if shape.options["route"] == "optimum-intel":
        warnings.append("optimum-intel makes this engine's graph; its tokens are not compared with transformers' here")
    elif spec.allow_pickle:
        warnings.append(
            "allow_pickle is of no use to the cpu backend, which reads safetensors only: a model that has none is "
            "downloaded with it, and refused then"
        )
    limit, limit_name = context_limit(info)
    if limit < info.context_tokens and spec.max_seq_len is None:
        warnings.append(
            f"{info.model_id} was made for {info.context_tokens} tokens; the cpu backend serves it up to its "
            f"{limit_name} of {limit}"
        )
    elif spec.max_seq_len is None and shape.max_seq_len < min(limit, DEFAULT_SEQ_LEN):
        warnings.append(
            f"max_seq_len is {shape.max_seq_len}, not {min(limit, DEFAULT_SEQ_LEN)}: no more key/value cache fits into "
            f"{format_bytes(host.memory_bytes)} of memory"
        )
    if spec.dtype == "float16" and info.dtype != "float16" and spec.quantization == "none":
        warnings.append(f"weights of type {info.dtype} are rounded to float16")
    if spec.dtype in {"float16", "bfloat16"} and spec.quantization == "none" and weights_are_widened(shape):
        warnings.append(
            f"{spec.dtype} weights make the engine's file smaller, but take more memory when computed in float32; "
            "leave --dtype out unless disk is short"
        )
    if info.parameters * 2 > 8 * GIB and spec.quantization == "none":
        warnings.append("a model of this size is slow on CPUs; --quantization int8-weight-only is about twice as fast")
    return tuple(warnings)
