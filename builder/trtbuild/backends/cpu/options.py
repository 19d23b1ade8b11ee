"""Engine options that the cpu backend reads, and those of ``--build-option`` that it knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtbuild.errors import SpecError
from trtbuild.spec import closest

READS = frozenset(
    {
        "dtype", "quantization", "kv_cache_dtype", "calibration", "build_option", "tp_size", "pp_size",
        "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "kv_cache_tokens",
        "enable_kv_cache_reuse", "enable_chunked_context", "batch_scheduler_policy", "template_parameter",
    }
)  # fmt: skip
"""Options that this backend reads, be it to refuse what it cannot do."""


@dataclass(frozen=True, kw_only=True)
class CpuOptions:
    """Options of ``--build-option`` for this backend, with their defaults.

    Attributes:
        compute_type: Type of the arithmetic; ``bfloat16`` is about twice as fast on CPUs that have it, and inexact.
        dynamic_quantization_group_size: Quantize activations in groups of so many for int8 and int4 weights; 0: do not.
            Faster, but the same request may give other tokens inside a batch.
    """

    compute_type: str = "float32"
    dynamic_quantization_group_size: int = 0


def read_options(given: Mapping[str, str]) -> CpuOptions:
    """Return the options a user named.

    Raises:
        SpecError: Unknown name or illegal value.
    """
    known = ("compute_type", "dynamic_quantization_group_size")
    hint = "the cpu backend knows compute_type=float32|bfloat16 and dynamic_quantization_group_size=0|32|64|128"
    for name in given:
        if name not in known:
            raise SpecError(f"build_option: unknown option {name!r}{closest(name, known)}", hint=hint)
    compute = given.get("compute_type", "float32")
    group = given.get("dynamic_quantization_group_size", "0")
    if compute not in {"float32", "bfloat16"}:
        raise SpecError(f"build_option compute_type: expected float32 or bfloat16, got {compute!r}", hint=hint)
    if group not in {"0", "32", "64", "128"}:
        raise SpecError(f"build_option dynamic_quantization_group_size: got {group!r}", hint=hint)
    return CpuOptions(compute_type=compute, dynamic_quantization_group_size=int(group))
