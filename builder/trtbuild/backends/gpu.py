"""What backends for GPUs share: the label and memory of a GPU, default limits. Pure."""

from __future__ import annotations

from trtbuild.catalog import ModelInfo, ProductLabel, find_sku
from trtbuild.errors import SpecError
from trtbuild.spec import EngineSpec, GpuInfo

READS = frozenset(
    {
        "dtype", "quantization", "kv_cache_dtype", "calibration", "build_option", "tp_size", "pp_size",
        "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens",
        "kv_cache_free_gpu_mem_fraction", "enable_kv_cache_reuse", "enable_chunked_context", "batch_scheduler_policy",
        "template_parameter",
    }
)  # fmt: skip
"""Options that both backends for GPUs read, be it to refuse what they cannot do."""

DEFAULT_BATCH_SIZE = 128
"""Default slots: enough for a busy pod, and the decoder's buffers stay below 300 MiB for 128k vocabularies."""

DEFAULT_SEQ_LEN = 8192
DEFAULT_NUM_TOKENS = 8192
"""Tokens of the longest sequence and of one step; upstream's max_num_tokens since 0.11."""


def nominal_memory_mib(gpu: GpuInfo) -> int:
    """Return the memory of a GPU for keys: the product's, where the driver's figure is within a tenth of it.

    Drivers keep different shares for themselves, and a new driver must not make every engine a miss.
    """
    sku = find_sku(gpu.product)
    if sku is None or gpu.mig_profile is not None or abs(gpu.memory_mib - sku.memory_mib) > sku.memory_mib / 10:
        return gpu.memory_mib
    return sku.memory_mib


def gpu_label(gpu: GpuInfo) -> str:
    """Return the product label of a GPU, its MIG profile included."""
    return ProductLabel(product=gpu.product, mig_profile=gpu.mig_profile).label


def choose_limits(spec: EngineSpec, model: ModelInfo) -> tuple[int, int, int, int]:
    """Return max_batch_size, max_seq_len, max_input_len, max_num_tokens."""
    seq = spec.max_seq_len or min(DEFAULT_SEQ_LEN, model.context_tokens)
    if seq > model.context_tokens:
        raise SpecError(
            f"max_seq_len={seq}: {model.name} was made for {model.context_tokens} tokens",
            hint=f"pass --max-seq-len {model.context_tokens} or less",
        )
    inputs = spec.max_input_len or seq - 1
    if inputs >= seq:
        raise SpecError(
            f"max_input_len={inputs} leaves no room for output within max_seq_len={seq}",
            hint=f"pass --max-input-len {seq - 1} or less, or a larger --max-seq-len",
        )
    batch = spec.max_batch_size or DEFAULT_BATCH_SIZE
    tokens = spec.max_num_tokens or max(DEFAULT_NUM_TOKENS, batch)
    if tokens < batch:
        raise SpecError(
            f"max_num_tokens={tokens} is less than max_batch_size={batch}: each running request takes one per step",
            hint=f"pass --max-num-tokens {batch} or more",
        )
    return batch, seq, inputs, tokens
