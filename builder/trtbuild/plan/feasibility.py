"""Which combinations of model, GPU, release and options can exist, and the nearest one that can. Pure.

It decides what is impossible and says why. Whether a possible engine also fits a GPU is ``memory``'s arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trtbuild.catalog import (
    Family,
    GpuArchitecture,
    ModelInfo,
    TrtLlmRelease,
    find_family,
    parse_version,
    preset,
    safe_image_since,
    trtllm_versions,
)
from trtbuild.plan.conversion import attention_problem, calibration_problem, group_problem, unread_problem
from trtbuild.plan.llm_api import or_llm_api
from trtbuild.plan.memory import GpuMemory, Layout, Limits, gpu_memory
from trtbuild.plan.problem import Problem
from trtbuild.plan.rope import rope_problem
from trtbuild.spec import HostInfo, JsonValue

# What to offer instead of a preset that a GPU or a family lacks: about the same size first.
_INSTEAD = {
    "fp8": ("int8-weight-only", "int4-awq"),
    "int8-sq": ("int8-weight-only", "fp8"),
    "nvfp4": ("w4a8-awq", "int4-awq", "fp8", "int4-weight-only", "int8-weight-only"),
    "w4a8-awq": ("int4-awq", "fp8", "int4-weight-only", "int8-weight-only"),
    "int4-awq": ("int4-weight-only", "fp8", "int8-weight-only"),
    "int4-weight-only": ("int8-weight-only", "nvfp4"),
    "int8-weight-only": ("fp8",),
}
MAX_TP_SIZE = 64
"""Largest tensor parallel size looked at for a nearest possible one."""


def choose_dtype(dtype: str, model: ModelInfo, architecture: GpuArchitecture | None) -> str:
    """Return the compute type for ``auto``: the model's own where the GPU has it, and never float32.

    Every converter's ``auto`` makes float16 of float32 checkpoints; saying it keeps all releases alike.
    """
    if dtype != "auto":
        return dtype
    wanted = "float16" if model.dtype == "float32" else model.dtype
    if architecture is not None and wanted not in architecture.dtypes:
        return "float16"
    return wanted


def parallel_problem(model: ModelInfo, tp_size: int, pp_size: int, *, family: Family | None) -> Problem | None:
    """Return why a model cannot be cut into ``tp_size`` x ``pp_size`` ranks, or None."""
    reason = _tp_reason(model, tp_size)
    if reason:
        sizes = [size for size in range(1, MAX_TP_SIZE + 1) if not _tp_reason(model, size)]
        near = min(sizes, key=lambda size: (abs(size - tp_size), size))
        return Problem(reason=reason, remedy=f"--tp {near} (possible: {', '.join(map(str, sizes))})")
    if family is not None and family.pp_sizes and pp_size not in family.pp_sizes:
        ranks = tp_size * pp_size
        whole = ranks if not _tp_reason(model, ranks) else tp_size
        return Problem(
            reason=f"--pp {pp_size}: the {family.name} converter has no pipeline parallelism",
            remedy=f"--tp {whole} --pp 1",
        )
    if pp_size > model.layers:
        return Problem(
            reason=f"--pp {pp_size}: {model.name} has {model.layers} layers, and a stage needs at least one",
            remedy=f"--pp {model.layers}",
        )
    return None


def _tp_reason(model: ModelInfo, tp_size: int) -> str:
    for block in dict.fromkeys(model.blocks):
        if block.heads % tp_size:
            return f"--tp {tp_size}: {model.name} has {block.heads} attention heads, which {tp_size} does not divide"
        kv_heads = 0 if block.latent else block.kv_heads
        if kv_heads and kv_heads % tp_size and tp_size % kv_heads:
            return (
                f"--tp {tp_size}: {model.name} has {kv_heads} key/value heads, "
                f"which can be neither shared nor copied evenly over {tp_size} ranks"
            )
        if block.inner % tp_size:
            return f"--tp {tp_size}: the MLP of {model.name} is {block.inner} wide, not divisible by {tp_size}"
    return ""


def gpu_problem(
    architecture: GpuArchitecture, product: str, *, dtype: str, quantization: str, kv_cache_dtype: str
) -> Problem | None:
    """Return why a GPU cannot compute with these types, or None."""
    about = f"{product} ({architecture.name}, compute capability {'/'.join(architecture.compute_capabilities)})"
    if dtype not in architecture.dtypes:
        return Problem(
            reason=f"--dtype {dtype}: {about} cannot compute in {dtype}", remedy="--dtype float16", is_host=True
        )
    if quantization != "none" and quantization not in architecture.quantizations:
        instead = next((name for name in _INSTEAD[quantization] if name in architecture.quantizations), "none")
        return Problem(
            reason=f"--quantization {quantization}: {about} has no kernels for it",
            remedy=f"--quantization {instead}",
            is_host=True,
        )
    if kv_cache_dtype != "auto" and kv_cache_dtype not in architecture.kv_cache_dtypes:
        instead = architecture.kv_cache_dtypes[0] if architecture.kv_cache_dtypes else "auto"
        return Problem(
            reason=f"--kv-cache-dtype {kv_cache_dtype}: {about} has no attention kernels for it",
            remedy=f"--kv-cache-dtype {instead}",
            is_host=True,
        )
    return None


def release_problem(release: TrtLlmRelease, architecture: GpuArchitecture, product: str) -> Problem | None:
    """Return why a TensorRT-LLM release cannot use a GPU, or None."""
    key = parse_version(release.version)
    until, since = architecture.trtllm_until, architecture.trtllm_since
    if until and key > parse_version(until):
        return Problem(
            reason=f"TensorRT-LLM {release.installed} does not support {architecture.name} GPUs such as {product}; "
            f"they were dropped before {trtllm_versions()[0]}",
            remedy="a GPU of compute capability 8.0 or later: A10, A30, A100, L4, L40S, H100 or newer",
            is_host=True,
        )
    if since and key < parse_version(since):
        return Problem(
            reason=f"TensorRT-LLM {release.installed} does not know {architecture.name} GPUs such as {product}",
            remedy=_image_since(since),
            is_host=True,
        )
    return None


def family_problem(
    release: TrtLlmRelease, model: ModelInfo, *, quantization: str, kv_cache_dtype: str
) -> Problem | None:
    """Return why a release cannot convert or quantize a model, or None."""
    if model.pre_quantized:
        return Problem(
            reason=f"{model.name} has weights that are already quantized ({model.pre_quantized})",
            remedy=or_llm_api("the unquantized model with --quantization", release.installed, model),
        )
    family = find_family(release, model.architecture)
    if family is None:
        later = _first_release_of(model.architecture)
        known = ", ".join(sorted(name for item in release.families for name in item.architectures))
        return Problem(
            reason=f"TensorRT-LLM {release.installed} cannot convert {model.architecture}; it converts {known}",
            remedy=_image_since(later) if later else or_llm_api("another model", release.installed, model),
            is_host=bool(later),
        )
    if problem := rope_problem(model, family):
        return replace(problem, remedy=or_llm_api(problem.remedy, release.installed, model))
    if problem := unread_problem(model, family):
        return replace(problem, remedy=or_llm_api(problem.remedy, release.installed, model))
    needs_quantizer = preset(quantization).is_calibrated or kv_cache_dtype != "auto"
    supported = release.quantize.presets.get(model.architecture, ())
    if preset(quantization).is_calibrated and quantization not in supported:
        instead = next((n for n in _INSTEAD[quantization] if n in supported or not preset(n).is_calibrated), "none")
        can = ", ".join(("int8-weight-only", "int4-weight-only", *supported))
        return Problem(
            reason=f"--quantization {quantization}: not available for {model.architecture}; it can: {can}",
            remedy=f"--quantization {instead}",
        )
    if needs_quantizer and not supported:
        return Problem(
            reason=f"--kv-cache-dtype {kv_cache_dtype}: TensorRT-LLM's quantizer does not know {model.architecture}",
            remedy="--kv-cache-dtype auto",
        )
    return None


def _first_release_of(architecture: str) -> str:
    from trtbuild.catalog import trtllm

    return next((version for version in trtllm_versions() if find_family(trtllm(version), architecture)), "")


def problems(
    model: ModelInfo,
    layout: Layout,
    *,
    release: TrtLlmRelease,
    architecture: GpuArchitecture | None,
    product: str,
    gpus: int | None = None,
    gpu_bytes: int = 0,
    compute_capability: str = "",
) -> Iterator[Problem]:
    """Yield every reason why an engine cannot be, the most basic first.

    Args:
        model: The model.
        layout: How it is cut and stored.
        release: The TensorRT-LLM release that would build it.
        architecture: What the GPU can compute; None for a GPU the catalog does not know, which is not checked.
        product: The GPU's label, for messages.
        gpus: GPUs that are there; None when that does not matter.
        gpu_bytes: Memory of one; 0 leaves out whether a calibration has room.
        compute_capability: Of the GPU; "" leaves out what differs within an architecture.
    """
    kinds = {"quantization": layout.preset.name, "kv_cache_dtype": layout.kv_cache_dtype}
    found: list[Problem | None] = []
    if architecture is not None:
        found.append(release_problem(release, architecture, product))
    found.append(family_problem(release, model, **kinds))
    if architecture is not None:
        found.append(gpu_problem(architecture, product, dtype=layout.dtype, **kinds))
    family = find_family(release, model.architecture)
    found.append(attention_problem(release, layout, compute_capability=compute_capability, product=product))
    found.append(parallel_problem(model, layout.tp_size, layout.pp_size, family=family))
    found.append(group_problem(model, layout))
    if not release.has_uneven_stages and model.layers % layout.pp_size:
        found.append(_uneven_problem(release, model, layout.pp_size))
    if gpus is not None and layout.world_size > gpus:
        found.append(_gpu_count_problem(layout, gpus))
    if gpu_bytes:
        count = layout.world_size if gpus is None else gpus
        found.append(calibration_problem(model, layout, gpus=count, gpu_bytes=gpu_bytes, product=product))
    yield from (problem for problem in found if problem is not None)


def _uneven_problem(release: TrtLlmRelease, model: ModelInfo, pp_size: int) -> Problem:
    from trtbuild.catalog import trtllm

    near = max(size for size in range(1, pp_size + 1) if model.layers % size == 0)
    later = next(version for version in trtllm_versions() if trtllm(version).has_uneven_stages)
    return Problem(
        reason=f"--pp {pp_size}: {model.name} has {model.layers} layers, and TensorRT-LLM {release.installed} drops "
        "those that an even cut leaves over",
        remedy=f"--pp {near}, or {_image_since(later)}",
    )


def _image_since(version: str) -> str:
    """Return the oldest image that is recommended for what came with a TensorRT-LLM version."""
    safe, image = safe_image_since(version)
    return f"an image with TensorRT-LLM {safe} or later, from {image} on"


def _gpu_count_problem(layout: Layout, gpus: int) -> Problem:
    needed = f"--tp {layout.tp_size} --pp {layout.pp_size} needs {layout.world_size} GPUs"
    return Problem(
        reason=f"{needed}, {gpus} {'is' if gpus == 1 else 'are'} visible",
        remedy=f"--tp {gpus} --pp 1, or a machine with {layout.world_size} GPUs" if gpus else "a machine with a GPU",
        is_host=True,
    )


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A way to serve a model on a GPU product."""

    layout: Layout
    memory: GpuMemory


def smallest_fit(
    model: ModelInfo,
    layout: Layout,
    limits: Limits,
    *,
    release: TrtLlmRelease,
    architecture: GpuArchitecture,
    product: str,
    gpu_bytes: int,
    compute_capability: str = "",
    max_gpus: int = 8,
) -> Fit | None:
    """Return the fewest GPUs of a product that serve a model, tensor parallel before pipeline parallel; None if none.

    ``layout`` gives the types; its sizes are ignored. A calibration may need more of them while it runs.
    """
    for tp_size, pp_size in _sizes(max_gpus):
        cut = replace(layout, tp_size=tp_size, pp_size=pp_size)
        found = problems(
            model,
            cut,
            release=release,
            architecture=architecture,
            product=product,
            compute_capability=compute_capability,
        )
        if next(found, None):
            continue
        memory = gpu_memory(model, cut, limits, gpu_bytes=gpu_bytes)
        if memory.fits:
            return Fit(layout=cut, memory=memory)
    return None


def _sizes(max_gpus: int) -> Sequence[tuple[int, int]]:
    powers = [1 << n for n in range(max_gpus.bit_length()) if 1 << n <= max_gpus]
    cuts = [(tp, pp) for tp in powers for pp in powers if tp * pp <= max_gpus]
    return sorted(cuts, key=lambda cut: (cut[0] * cut[1], cut[1]))


def engine_mismatches(fields: Mapping[str, JsonValue], host: HostInfo, *, world_size: int) -> tuple[str, ...]:
    """Return what differs between the machine an engine was built on and this one; empty when it can be served.

    TensorRT's own loader says some of this, late and in passing; a process that never reaches it says all of it.

    Args:
        fields: The engine's key, as kept in its manifest.
        host: This machine.
        world_size: Ranks of the engine.
    """
    found = []
    for name, what in (("tensorrt_llm", "TensorRT-LLM"), ("tensorrt", "TensorRT"), ("cuda", "CUDA")):
        built, here = fields.get(name), host.versions.get(name)
        if built is not None and built != here:
            found.append(f"built with {what} {built}, here is {here or 'none'}")
    if fields.get("platform") not in {None, host.platform}:
        found.append(f"built on {fields['platform']}, this is {host.platform}")
    if len(host.gpus) < world_size:
        found.append(f"it has {world_size} ranks, {len(host.gpus)} GPUs are visible")
    for gpu in host.gpus[:world_size]:
        here_is = {
            "gpu_product": gpu.product,
            "compute_capability": gpu.compute_capability,
            "gpu_mig_profile": gpu.mig_profile,
        }
        for name, value in here_is.items():
            if name in fields and fields[name] != value:
                words = name.removeprefix("gpu_").replace("_", " ")
                found.append(f"built for {words} {fields[name] or 'none'}, GPU {gpu.index} has {value or 'none'}")
    return tuple(found)
