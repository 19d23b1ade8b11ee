"""What converters, the quantizer and the attention kernels do behind their parsers, which accept everything. Pure.

It decides what would fail, or compute something else, hours after it was asked for: keys of config.json that a
converter does not read, groups of AWQ weights that ranks cannot share, a calibration that has no room, attention
without kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from trtbuild.catalog import Family, ModelInfo, Preset, TrtLlmRelease, preset
from trtbuild.console.log import format_bytes
from trtbuild.plan.memory import Layout, Line
from trtbuild.plan.problem import Problem


def unread_problem(model: ModelInfo, family: Family) -> Problem | None:
    """Return what config.json says of the model that the family's converter would not read, or None."""
    config = model.config or {}
    positions = config.get("rope_parameters")
    for unread in family.unread:
        value = config.get(unread.key)
        if value is None and isinstance(positions, Mapping):
            value = positions.get(unread.key)
        if value is None or value == unread.neutral:
            continue
        if not unread.architectures or model.architecture in unread.architectures:
            return Problem(
                reason=f"{model.name}: config.json has {unread.key} {value!r}, which the {family.name} converter "
                "of this "
                "release does not read; the engine would compute something else",
                remedy="a newer image" if unread.until else "another model",
                is_host=bool(unread.until),
            )
    if not family.reads_head_dim and model.head_dim * model.heads != model.hidden_size:
        return Problem(
            reason=f"{model.name} has heads of {model.head_dim} in a width of {model.hidden_size}, which the "
            f"{family.name} "
            f"converter takes for {model.hidden_size // model.heads}",
            remedy="another model",
        )
    return None


def group_problem(model: ModelInfo, layout: Layout) -> Problem | None:
    """Return why the groups of weights that share a scale cannot be cut over the ranks, or None.

    Matrices whose input is cut (the attention's output, the MLP's second one) have to keep whole groups on a rank, the
    others have to consist of whole groups. Source: ModelOpt 0.21 to 0.37, check_weight_shape_valid, which ends after
    the calibration with "Weight shape N of each TP tp=M is not divisible for block size 128".
    """
    reason = _group_reason(model, layout.preset, layout.tp_size)
    if not reason:
        return None
    sizes = [tp for tp in range(1, 65) if not _group_reason(model, layout.preset, tp) and not model.heads % tp]
    others = "--quantization int4-weight-only or fp8, which have no groups"
    if not sizes:
        return Problem(reason=reason, remedy=others)
    near = min(sizes, key=lambda tp: (abs(tp - layout.tp_size), tp))
    return Problem(reason=reason, remedy=f"--tp {near}, or {others}")


def _group_reason(model: ModelInfo, chosen: Preset, tp_size: int) -> str:
    group = chosen.group_size
    if not group:
        return ""
    if model.hidden_size % group:
        return (
            f"--quantization {chosen.name}: {model.name} is {model.hidden_size} wide, which is not a multiple of the "
            f"{group} weights that share a scale"
        )
    cut = {block.heads * block.head_dim for block in model.blocks} | {block.inner for block in model.blocks}
    for width in sorted(cut - {0}):
        if width % (tp_size * group):
            return (
                f"--quantization {chosen.name} --tp {tp_size}: {model.name} has matrices {width} wide, whose share "
                "of a "
                f"rank ({width / tp_size:g}) is not a multiple of the {group} weights that share a scale"
            )
    return ""


def calibration_bytes(model: ModelInfo, chosen: Preset) -> int:
    """Return about how much memory a calibration takes over all GPUs together, its activations left out.

    The model is whole and in 16 bits on them, and the quantized weights come beside it. Source: TensorRT-LLM,
    examples/llama/README.md, FP8 Post-Training Quantization, on Llama 2 70B: "the peak GPU memory consumption when
    doing FP8 quantization is more than 210GB (there is also some activation memory occupation when doing
    calibration)", "it needs at least 4 H100"; this gives 207. One figure.
    """
    copy = 0 if chosen.bits == 16 else model.parameters * chosen.bits // 8
    return model.parameters * 2 + copy


def calibration_line(model: ModelInfo, chosen: Preset, gpus: int) -> Line:
    """Return the line of arithmetic of a calibration."""
    copy = "" if chosen.bits == 16 else f" and in {chosen.bits}"
    return Line(
        label="GPU memory: calibration",
        formula=f"{model.parameters:,} weights in 16 bits{copy}, and activations, over {gpus} GPUs",
        size_bytes=calibration_bytes(model, chosen),
        is_exact=False,
    )


def calibration_problem(model: ModelInfo, layout: Layout, *, gpus: int, gpu_bytes: int, product: str) -> Problem | None:
    """Return why the GPUs that are there have no room for a calibration, or None."""
    needed = calibration_bytes(model, layout.preset)
    if not is_calibrated(layout) or needed <= gpus * gpu_bytes:
        return None
    enough = math.ceil(needed / gpu_bytes)
    what = (
        f"--quantization {layout.preset.name}"
        if layout.preset.is_calibrated
        else f"--kv-cache-dtype {layout.kv_cache_dtype}"
    )
    return Problem(
        reason=f"{what}: calibrating {model.name} takes about {format_bytes(needed)} of GPU memory, the whole "
        "model in 16 "
        f"bits and its activations; {gpus} x {product} have {format_bytes(gpus * gpu_bytes)}",
        remedy=f"build where {enough} of these GPUs are visible, into a store that this machine reads, or "
        "--quantization "
        "int8-weight-only or int4-weight-only with --kv-cache-dtype auto, which need no calibration",
        is_host=True,
    )


def is_calibrated(layout: Layout) -> bool:
    """Whether the checkpoint is made by the calibrating quantizer."""
    return preset(layout.preset.name).is_calibrated or layout.kv_cache_dtype != "auto"


def attention_problem(
    release: TrtLlmRelease, layout: Layout, *, compute_capability: str, product: str
) -> Problem | None:
    """Return why a release has no attention kernels for a type of cache on a GPU, or None."""
    since = release.fp8_attention_later.get(compute_capability, "")
    if layout.kv_cache_dtype != "fp8" or not since:
        return None
    return Problem(
        reason=f"--kv-cache-dtype fp8: attention in fp8 ends with an error on {product} (compute capability "
        f"{compute_capability}) before TensorRT-LLM {since}, this is {release.installed}",
        remedy=f"--kv-cache-dtype auto, or an image with TensorRT-LLM {since} or later",
        is_host=True,
    )
