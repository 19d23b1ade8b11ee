"""Facts about models, GPU products and TensorRT-LLM releases: data files and the one loader that reads them.

It decides how the data is named, looked up and checked on reading. It holds no rule about what to build: the plan
does that with these facts. Files are read on first use and kept, so importing the package costs nothing.
"""

from __future__ import annotations

from trtbuild.catalog.advisories import (
    Advisory,
    advisories,
    describe,
    first_safe_image,
    image_warning,
    is_known_version,
    open_advisories,
    safe_image_since,
    wheel_release,
)
from trtbuild.catalog.blocks import Block, Latent
from trtbuild.catalog.checkpoints import Storage
from trtbuild.catalog.complaints import Complaint, Diagnosis, complaints, diagnose
from trtbuild.catalog.llmapi import LLMAPI_SINCE, LlmApi, first_llm_api_version, llm_api, samplers
from trtbuild.catalog.model_info import ModelInfo
from trtbuild.catalog.models import closest_models, find_model, models
from trtbuild.catalog.packages import Package
from trtbuild.catalog.parameters import BlockCounts, ParameterCounts, count_parameters, exact_architectures
from trtbuild.catalog.release import (
    BackendParameter,
    BuildOption,
    Family,
    Preset,
    QuantizeTool,
    TensorInfo,
    TrtLlmRelease,
    image_name,
)
from trtbuild.catalog.skus import (
    GpuArchitecture,
    GpuSku,
    ProductLabel,
    closest_skus,
    find_sku,
    gpu_architecture,
    mig_memory_mib,
    normalize_product,
    parse_product,
    skus,
)
from trtbuild.catalog.trtllm import (
    EXAMPLES_DIR,
    find_family,
    preset,
    presets,
    retired_build_options,
    trtllm,
    trtllm_releases,
    trtllm_versions,
)
from trtbuild.catalog.versions import parse_version

__all__ = [
    "EXAMPLES_DIR",
    "LLMAPI_SINCE",
    "Advisory",
    "BackendParameter",
    "Block",
    "BlockCounts",
    "BuildOption",
    "Complaint",
    "Diagnosis",
    "Family",
    "GpuArchitecture",
    "GpuSku",
    "Latent",
    "LlmApi",
    "ModelInfo",
    "Package",
    "ParameterCounts",
    "Preset",
    "ProductLabel",
    "QuantizeTool",
    "Storage",
    "TensorInfo",
    "TrtLlmRelease",
    "advisories",
    "closest_models",
    "closest_skus",
    "complaints",
    "count_parameters",
    "describe",
    "diagnose",
    "exact_architectures",
    "find_family",
    "find_model",
    "find_sku",
    "first_llm_api_version",
    "first_safe_image",
    "gpu_architecture",
    "image_name",
    "image_warning",
    "is_known_version",
    "llm_api",
    "mig_memory_mib",
    "models",
    "normalize_product",
    "open_advisories",
    "parse_product",
    "parse_version",
    "preset",
    "presets",
    "retired_build_options",
    "safe_image_since",
    "samplers",
    "skus",
    "trtllm",
    "trtllm_releases",
    "trtllm_versions",
    "wheel_release",
]
