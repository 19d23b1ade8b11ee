"""Whether TensorRT-LLM's LLM API loads a model: architecture, quantization, positions, code of its own. Pure.

It decides what is refused before the download. Which versions load what is the catalog's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtbuild.catalog import (
    LLMAPI_SINCE,
    GpuArchitecture,
    ModelInfo,
    find_family,
    first_llm_api_version,
    llm_api,
    parse_version,
    trtllm,
)
from trtbuild.errors import HostError
from trtbuild.plan.problem import Problem
from trtbuild.untrusted import Fields

_PRESETS = {
    "fp8": "fp8", "FP8": "fp8", "FP8_BLOCK_SCALES": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "int4-awq",
    "W4A8_AWQ": "w4a8-awq",
}  # fmt: skip
"""Source: TensorRT-LLM, _torch/model_config.py, get_mxfp4_quant_algo: 16-bit activations on SM 90, 8-bit on 100."""

_MXFP4_ARCHITECTURES = frozenset({"hopper", "blackwell"})
"""Source: TensorRT-LLM, _torch/model_config.py, get_mxfp4_quant_algo: 16-bit activations on SM 90, 8-bit on SM 100."""


def or_llm_api(remedy: str, version: str, model: ModelInfo) -> str:
    """Return a remedy, and the LLM API beside it where the one of an installed TensorRT-LLM loads the model."""
    is_there = parse_version(version) >= parse_version(LLMAPI_SINCE)
    return f"--backend llmapi, or {remedy}" if is_there and not llm_api_reason(version, model) else remedy


def llm_api_reason(version: str, model: ModelInfo) -> str:
    """Return why the LLM API of an installed TensorRT-LLM does not load a model, or ""."""
    api = llm_api(version)
    return api.architecture_problem(model.architecture) or api.quantization_problem(
        model.pre_quantized, quantization_settings(model)
    )


def quantization_settings(model: ModelInfo) -> Mapping[str, Any]:
    """Return ``quantization_config`` of the model's config.json, empty where there is none."""
    return Fields(f"{model.name}: config.json", model.config or {}).object("quantization_config")


def llm_api_problem(
    version: str, model: ModelInfo, *, kv_cache_dtype: str, is_code_trusted: bool, architecture: GpuArchitecture | None
) -> Problem | None:
    """Return why the LLM API of an installed TensorRT-LLM cannot serve a model as asked, or None."""
    api = llm_api(version)
    if reason := api.architecture_problem(model.architecture):
        return Problem(reason=reason, remedy=_engine_or_other(version, model))
    if reason := api.quantization_problem(model.pre_quantized, quantization_settings(model)):
        return Problem(
            reason=reason, remedy="the model without that quantization, or one that NVIDIA ModelOpt quantized"
        )
    settings = quantization_settings(model)
    algorithm = settings.get("quant_algo")
    if reason := api.cache_problem(kv_cache_dtype, algorithm):
        return Problem(reason=f"--kv-cache-dtype {kv_cache_dtype}: {reason}", remedy="--kv-cache-dtype auto")
    kind = (model.config or {}).get("model_type")
    if model.has_remote_code and not is_code_trusted and kind not in api.config_classes:
        return Problem(
            reason=f"{model.name} brings Python code that the LLM API needs to read its config.json (auto_map)",
            remedy="--trust-remote-code, after reading that code",
        )
    needed = _PRESETS.get(str(algorithm or model.pre_quantized))
    has_kernels = architecture is None or (
        architecture.name in _MXFP4_ARCHITECTURES
        if model.pre_quantized == "mxfp4"
        else needed is None or needed in architecture.quantizations
    )
    if architecture is not None and not has_kernels:
        return Problem(
            reason=f"the weights of {model.name} are quantized ({algorithm or model.pre_quantized}), and "
            f"{architecture.name} GPUs have no kernels for them",
            remedy="a checkpoint that is not quantized, or a newer GPU",
            is_host=True,
        )
    return None


def _engine_or_other(version: str, model: ModelInfo) -> str:
    """Return what to do about an architecture that is not known: an engine, a later image, or another model."""
    try:
        has_engine = find_family(trtllm(version), model.architecture) is not None and not model.pre_quantized
    except HostError:  # a version without engines
        has_engine = False
    later = first_llm_api_version(model.architecture)
    choices = ["--backend tensorrt_llm"] if has_engine else []
    choices += [f"an image with TensorRT-LLM {later} or later"] if later else []
    return ", or ".join([*choices, "another model"])
