"""What a TensorRT-LLM engine will be: every open choice made, everything impossible refused. Pure.

It decides limits, types, workers and the engine's key from the request, the catalog and the host's facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trtbuild.backends.tensorrt_llm import commands
from trtbuild.backends.tensorrt_llm.options import (
    check_build_options,
    chosen_build_options,
    resolved_build_options,
)
from trtbuild.catalog import (
    EXAMPLES_DIR,
    GpuArchitecture,
    ModelInfo,
    ProductLabel,
    TrtLlmRelease,
    find_sku,
    gpu_architecture,
    image_name,
    image_warning,
    open_advisories,
    parse_version,
    preset,
    trtllm,
    trtllm_releases,
)
from trtbuild.errors import HostError, SpecError
from trtbuild.log import format_bytes
from trtbuild.plan import Budget, BuildPlan, EngineKey, EngineShape, ResolvedModel, feasibility, memory
from trtbuild.spec import EngineSpec, GpuInfo, HostInfo, JsonValue

DEFAULT_BATCH_SIZE = 128
"""Slots when nobody says: enough for a busy pod, and the decoder's buffers stay below 300 MiB for 128k vocabularies."""

DEFAULT_SEQ_LEN = 8192
DEFAULT_NUM_TOKENS = 8192
"""Tokens of the longest sequence and of one step; upstream's max_num_tokens since 0.11."""

LLMAPI_SINCE = "1.0.0"
"""First release whose LLM API runs PyTorch by default. Source: TensorRT-LLM release notes 1.0."""

_PINNED = re.compile(r"^(?P<name>.+)@(?P<pin>[0-9a-f]{40}|tree-[0-9a-f]{64})$")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an engine is built on.

    Attributes:
        release: Tables of the installed TensorRT-LLM.
        gpu: The GPU with the least memory among those the engine will use.
        gpus: GPUs that are there.
        architecture: What they compute; None for a GPU the catalog does not know.
        product: Label of the product, MIG profile included.
    """

    release: TrtLlmRelease
    gpu: GpuInfo
    gpus: int
    architecture: GpuArchitecture | None
    product: str


def find_target(host: HostInfo, world_size: int) -> Target:
    """Return what this host can build on.

    Raises:
        HostError: No TensorRT-LLM, no compiler, no GPU, or GPUs of several kinds.
    """
    version = host.versions.get("tensorrt_llm")
    if version is None:
        last = trtllm_releases()[-1].images[-1]
        raise HostError("tensorrt_llm is not installed here", hint=f"run inside {last}, or use --backend cpu")
    release = trtllm(version)
    if "trtllm-build" not in host.tools:
        last = trtllm_releases()[-1].images[-1]
        own = release.images[-1]
        is_offered = own != last and not open_advisories(release.triton[-1])
        where = f"{own}, or {last}, the last image with it" if is_offered else last
        llmapi = ", or use --backend llmapi" if parse_version(version) >= parse_version(LLMAPI_SINCE) else ""
        raise HostError(
            f"TensorRT-LLM {version} is installed, but trtllm-build is not on PATH",
            hint=f"run inside {where}{llmapi}",
        )
    if not host.gpus:
        raise HostError(
            "no GPU is visible; an engine is built on the kind of GPU it will run on",
            hint="docker: --gpus all; Kubernetes: request nvidia.com/gpu",
        )
    used = host.gpus[:world_size]
    kinds = sorted({gpu_label(gpu) for gpu in used})
    if len(kinds) > 1:
        raise HostError(
            f"the first {len(used)} GPUs are of several kinds: {', '.join(kinds)}",
            hint="choose GPUs of one kind with CUDA_VISIBLE_DEVICES",
        )
    gpu = min(used, key=lambda each: each.memory_mib)
    return Target(
        release=release,
        gpu=gpu,
        gpus=len(host.gpus),
        architecture=gpu_architecture(gpu.compute_capability),
        product=gpu_label(gpu),
    )


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


def make_plan(spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
    """Return the plan, or refuse with the nearest possible thing.

    Raises:
        SpecError: Nobody can build this.
        HostError: This machine cannot.
    """
    target = find_target(host, spec.world_size)
    dtype = feasibility.choose_dtype(spec.dtype, model.info, target.architecture)
    layout = memory.Layout(
        dtype=dtype,
        preset=preset(spec.quantization),
        kv_cache_dtype=spec.kv_cache_dtype,
        tp_size=spec.tp_size,
        pp_size=spec.pp_size,
    )
    _refuse_impossible(model.info, layout, target)
    _refuse_remote_code(spec, model.info)
    shape = _shape(spec, model.info, layout, target, host)
    beams = str(_said(shape)["max_beam_width"])
    limits = memory.Limits(
        max_batch_size=shape.max_batch_size,
        max_seq_len=shape.max_seq_len,
        max_num_tokens=shape.max_num_tokens,
        max_beam_width=int(beams),
    )
    gpu = memory.gpu_memory(model.info, layout, limits, gpu_bytes=target.gpu.memory_mib << 20)
    if not gpu.fits:
        raise _too_big(model.info, layout, limits, target, gpu)
    room = memory.host_room(
        model.info,
        layout,
        workers=int(str(shape.options["workers"])),
        is_calibrated=commands.needs_quantizer(shape),
    )
    plan = BuildPlan(
        backend="tensorrt_llm",
        model=model,
        shape=shape,
        sku=target.product,
        key=_key(model, shape, target, host),
        steps=(),
        arithmetic=memory.text_lines((*gpu.lines, *room.lines)),
        budget=Budget(
            snapshot_bytes=room.snapshot_bytes,
            checkpoint_bytes=room.checkpoint_bytes,
            engine_bytes=room.engine_bytes,
            host_memory_bytes=room.host_memory_bytes,
            shm_bytes=room.shm_bytes,
        ),
        warnings=tuple(_warnings(model.info, shape, target, host=host, gpu=gpu, room=room)),
    )
    return replace(plan, steps=commands.steps(plan))


def _refuse_impossible(model: ModelInfo, layout: memory.Layout, target: Target) -> None:
    problem = next(
        feasibility.problems(
            model,
            layout,
            release=target.release,
            architecture=target.architecture,
            product=target.product,
            gpus=target.gpus,
        ),
        None,
    )
    if problem is not None:
        kind = HostError if problem.is_host else SpecError
        raise kind(problem.reason, hint=f"nearest possible: {problem.remedy}")


def _refuse_remote_code(spec: EngineSpec, model: ModelInfo) -> None:
    """Refuse models whose own Python code the conversion would load: without the word, it is not even downloaded.

    Source: TensorRT-LLM 1.2, tensorrt_llm/models/*/config.py, from_hugging_face: ``trust_remote_code`` is true there.
    """
    if model.has_remote_code and not spec.trust_remote_code:
        raise SpecError(
            f"{model.name} brings Python code that conversion would run (auto_map in its config.json)",
            hint="read it, then pass --trust-remote-code, or use --backend llmapi",
        )


def _said(shape: EngineShape) -> dict[str, JsonValue]:
    said = shape.options["build"]
    assert isinstance(said, dict)
    return said


def _shape(spec: EngineSpec, model: ModelInfo, layout: memory.Layout, target: Target, host: HostInfo) -> EngineShape:
    batch, seq, inputs, tokens = choose_limits(spec, model)
    given = check_build_options(spec.build_option, target.release)
    shape = EngineShape(
        dtype=layout.dtype,
        quantization=layout.preset.name,
        kv_cache_dtype=layout.kv_cache_dtype,
        tp_size=layout.tp_size,
        pp_size=layout.pp_size,
        max_batch_size=batch,
        max_input_len=inputs,
        max_seq_len=seq,
        max_num_tokens=tokens,
    )
    chosen = chosen_build_options(shape)
    if (given.get("use_paged_context_fmha"), chosen["use_paged_context_fmha"]) == ("enable", "disable"):
        raise SpecError(
            f"build_option use_paged_context_fmha=enable: no kernels for --dtype {shape.dtype} with "
            f"--kv-cache-dtype {shape.kv_cache_dtype} and --quantization {shape.quantization}",
            hint="drop it, or pass --kv-cache-dtype auto; an fp8 cache has it with --quantization fp8",
        )
    said: dict[str, JsonValue] = {**dict(sorted({**chosen, **given}.items()))}
    workers = memory.build_workers(model, layout, gpus=target.gpus, host_memory_bytes=host.memory_bytes)
    options: dict[str, JsonValue] = {
        "trtllm_version": target.release.installed,
        "trtllm_build": host.tools["trtllm-build"],
        "examples_dir": host.tools.get("trtllm-examples", EXAMPLES_DIR),
        "workers": workers,
        "build": said,
        "trust_remote_code": spec.trust_remote_code,
    }
    if commands.needs_quantizer(shape):
        options["calibration"] = _calibration(spec)
    elif spec.calibration:
        raise SpecError(
            f"calibration={spec.calibration!r}: --quantization {shape.quantization} needs no calibration data",
            hint="drop --calibration",
        )
    return replace(shape, options=options)


def _calibration(spec: EngineSpec) -> str:
    if spec.calibration is None:
        raise SpecError(
            f"--quantization {spec.quantization} with --kv-cache-dtype {spec.kv_cache_dtype} needs calibration data",
            hint="pass --calibration abisee/cnn_dailymail@<40-hex commit>, or a directory with a train split that has "
            "a text column",
        )
    is_path = spec.calibration.startswith(("/", ".", "~"))
    if not is_path and not _PINNED.match(spec.calibration):
        raise SpecError(
            f"calibration={spec.calibration!r}: expected DATASET@<40-hex commit> or a path; a name alone is not a key",
            hint="the commit is on the dataset's page under Files and versions, History",
        )
    return spec.calibration


def split_calibration(text: str) -> tuple[str, str]:
    """Return ``(name or path, pin)`` of a calibration; the pin is "" for a path whose contents nobody has hashed."""
    match = _PINNED.match(text)
    return (match["name"], match["pin"]) if match else (text, "")


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


def _too_big(
    model: ModelInfo, layout: memory.Layout, limits: memory.Limits, target: Target, gpu: memory.GpuMemory
) -> HostError:
    fixed = gpu.weights_bytes + gpu.activation_bytes + gpu.runtime_bytes
    message = (
        f"{model.name} as {layout.preset.name if layout.preset.bits != 16 else layout.dtype} with "
        f"--tp {layout.tp_size} --pp {layout.pp_size} does not fit {target.product}: {format_bytes(fixed)} per GPU "
        f"before the key/value cache of one sequence of {limits.max_seq_len} tokens "
        f"({format_bytes(gpu.sequence_bytes)}), and {format_bytes(gpu.gpu_bytes)} are there"
    )
    if target.architecture is None:
        return HostError(message, hint="use more GPUs (--tp), --quantization, or smaller limits")
    fit = feasibility.smallest_fit(
        model,
        layout,
        limits,
        release=target.release,
        architecture=target.architecture,
        product=target.product,
        gpu_bytes=gpu.gpu_bytes,
        max_gpus=64,
    )
    more = f"--tp {fit.layout.tp_size} --pp {fit.layout.pp_size}" if fit else "a smaller --max-seq-len"
    return HostError(message, hint=f"it fits with {more}, or try --quantization or a smaller --max-num-tokens")


def _key(model: ResolvedModel, shape: EngineShape, target: Target, host: HostInfo) -> EngineKey:
    quantizer: dict[str, JsonValue] = {}
    if commands.needs_quantizer(shape):
        quantizer = {
            "calibration": shape.options["calibration"],
            "calibration_size": commands.CALIBRATION_SIZE,
            "calibration_seed": commands.CALIBRATION_SEED,
            "awq_block_size": commands.AWQ_BLOCK_SIZE,
        }
    resolved: dict[str, JsonValue] = {
        **resolved_build_options(target.release, {name: str(value) for name, value in _said(shape).items()})
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
    kind = shape.dtype if shape.quantization == "none" else f"{shape.dtype}-{shape.quantization}"
    cache = "" if shape.kv_cache_dtype == "auto" else f"-kv{shape.kv_cache_dtype}"
    return EngineKey(
        fields=fields,
        model_part=model.model_id,
        sku_part=target.product,
        shape_part=f"tp{shape.tp_size}-pp{shape.pp_size}-{kind}{cache}",
    )


def _warnings(
    model: ModelInfo,
    shape: EngineShape,
    target: Target,
    *,
    host: HostInfo,
    gpu: memory.GpuMemory,
    room: memory.HostRoom,
) -> Iterator[str]:
    if target.architecture is None:
        yield (
            f"{target.product} (compute capability {target.gpu.compute_capability}) is not in the catalog; "
            "whether it can compute with these types is not checked"
        )
    if unsafe := image_warning(target.release):
        yield unsafe
    if not model.is_exact:
        yield memory.estimate_warning(model)
    expected = target.release.tensorrt
    found = host.versions.get("tensorrt")
    if found and not expected.startswith(found) and not found.startswith(expected):
        images = ", ".join(image_name(triton) for triton in target.release.triton)
        yield f"TensorRT {found} is installed, {images} have {expected}; the engine runs with {found} only"
    if host.memory_bytes and host.memory_bytes < room.host_memory_bytes:
        yield (
            f"conversion and build need about {format_bytes(room.host_memory_bytes)} of host memory, "
            f"{format_bytes(host.memory_bytes)} are there; a tool that ends with exit code 137 ran out of it"
        )
    if shape.world_size > 1 and host.shm_bytes < room.shm_bytes:
        yield (
            f"shared memory has {format_bytes(host.shm_bytes)}, {shape.world_size} ranks need about "
            f"{format_bytes(room.shm_bytes)} (docker: --shm-size; Kubernetes: a volume at /dev/shm)"
        )
    if _said(shape)["use_paged_context_fmha"] == "disable" and shape.max_input_len > shape.max_num_tokens:
        yield (
            f"prompts longer than {shape.max_num_tokens} tokens are refused: this engine cannot compute them in pieces "
            "(use_paged_context_fmha is off); pass a larger --max-num-tokens"
        )
    calibration = shape.options.get("calibration")
    if isinstance(calibration, str) and not split_calibration(calibration)[1]:
        yield f"the engine's key holds the path {calibration}, not its contents: do not change the data in place"
    if gpu.full_sequences < shape.max_batch_size:
        yield (
            f"the key/value cache holds {gpu.kv_tokens:,} tokens: {gpu.full_sequences} of {shape.max_batch_size} slots "
            f"at {shape.max_seq_len} tokens each; shorter requests use more slots"
        )
