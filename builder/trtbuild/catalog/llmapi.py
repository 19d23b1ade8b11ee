"""What TensorRT-LLM's LLM API loads and applies, version by version.

It decides which version's facts apply to an installed one, which may be newer than every release with engines. What a
plan does with them is the backend's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from trtbuild.catalog.loading import load
from trtbuild.catalog.versions import applies

LLMAPI_SINCE = "1.0.0"
"""First release whose LLM API runs PyTorch by default. Source: TensorRT-LLM release notes 1.0."""


@dataclass(frozen=True, kw_only=True)
class LlmApi:
    """The LLM API of one version.

    Attributes:
        version: As installed.
        architectures: Classes of config.json that it loads.
        quantizations: ``quant_method`` of checkpoints that it loads, each with what must hold besides.
        kv_cache_dtypes: Types of the key/value cache.
        without_fp8_cache: Algorithms of ModelOpt that do not go together with an fp8 cache.
        config_classes: ``model_type`` values that its transformers reads without code of the model's own.
    """

    version: str
    architectures: frozenset[str]
    quantizations: Mapping[str, Mapping[str, Any]]
    kv_cache_dtypes: tuple[str, ...]
    without_fp8_cache: frozenset[str]
    config_classes: frozenset[str]

    def architecture_problem(self, architecture: str) -> str:
        """Return why a class cannot be loaded, or ""."""
        if architecture in self.architectures:
            return ""
        later = first_llm_api_version(architecture)
        known = f"it came with {later}" if later else "no version's list of models has it"
        return f"{architecture} is not known to the LLM API of TensorRT-LLM {self.version}: {known}"

    def quantization_problem(self, method: str, settings: Mapping[str, Any]) -> str:
        """Return why weights quantized by ``method`` cannot be loaded, or ""; ``settings`` is quantization_config."""
        if not method:
            return ""
        entry = self.quantizations.get(method)
        if entry is None:
            can = ", ".join(self.quantizations)
            return (
                f"weights quantized by {method} are not known to the LLM API of TensorRT-LLM {self.version}, "
                f"which loads {can}"
            )
        block = settings.get("weight_block_size")
        if "block" in entry and block != entry["block"]:
            return (
                f"the LLM API of TensorRT-LLM {self.version} loads {method} weights with weight_block_size "
                f"{entry['block']} only, config.json has {block if isinstance(block, list) else 'none'}"
            )
        return ""

    def cache_problem(self, kv_cache_dtype: str, algorithm: object) -> str:
        """Return why a type of key/value cache cannot go with a ModelOpt algorithm, or ""."""
        if kv_cache_dtype == "fp8" and isinstance(algorithm, str) and algorithm in self.without_fp8_cache:
            return f"an fp8 key/value cache has no attention kernels beside {algorithm} weights"
        return ""


@cache
def llm_api(version: str) -> LlmApi:
    """Return what the LLM API of an installed TensorRT-LLM version loads."""
    data = load("llmapi")
    return LlmApi(
        version=version,
        architectures=frozenset(name for name, item in data["architectures"].items() if applies(item, version)),
        quantizations={name: item for name, item in data["quantizations"].items() if applies(item, version)},
        kv_cache_dtypes=tuple(name for name, item in data["kv_cache_dtypes"].items() if applies(item, version)),
        without_fp8_cache=frozenset(data["without_fp8_cache"]),
        config_classes=frozenset(name for name, item in data["config_classes"].items() if applies(item, version)),
    )


def first_llm_api_version(architecture: str) -> str:
    """Return the first version whose LLM API loads a class, or ""."""
    item = load("llmapi")["architectures"].get(architecture)
    return str(item["since"]) if item else ""


def samplers() -> list[dict[str, Any]]:
    """Return the rows that say which sampler a version is asked for and what it applies, for the engine process."""
    return [
        {
            "since": str(row["since"]),
            "until": str(row.get("until", "")),
            "arguments": dict(row["arguments"]),
            "applies": list(row["applies"]),
        }
        for row in load("llmapi")["samplers"]
    ]
