"""What a TensorRT-LLM engine will be: every open choice made, everything impossible refused. Pure.

It decides limits, types, workers and the engine's key from the request, the catalog and the host's facts.
"""

from __future__ import annotations

from dataclasses import replace

from trtbuild.backends.tensorrt_llm import commands
from trtbuild.backends.tensorrt_llm.advice import plan_warnings
from trtbuild.backends.tensorrt_llm.key import engine_key
from trtbuild.backends.tensorrt_llm.shape import choose_shape, compiler_options
from trtbuild.backends.tensorrt_llm.target import Target, find_target
from trtbuild.catalog import ModelInfo, preset
from trtbuild.console.log import format_bytes
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import Budget, BuildPlan, ResolvedModel, feasibility, memory
from trtbuild.plan.conversion import calibration_line, is_calibrated
from trtbuild.spec import EngineSpec, HostInfo


def make_plan(spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
    """Return the plan, or refuse with the nearest possible thing.

    Raises:
        SpecError: No machine can build this.
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
    shape = choose_shape(spec, model.info, layout, target, host)
    beams = str(compiler_options(shape)["max_beam_width"])
    limits = memory.Limits(
        max_batch_size=shape.max_batch_size,
        max_seq_len=shape.max_seq_len,
        max_num_tokens=shape.max_num_tokens,
        max_beam_width=int(beams),
    )
    layout = replace(layout, has_windowed_cache="attention_windows" in shape.options)
    gpu = memory.gpu_memory(model.info, layout, limits, gpu_bytes=target.gpu.memory_mib << 20)
    if not gpu.fits:
        raise _too_big(model.info, layout, limits, target, gpu)
    room = memory.host_room(
        model.info,
        layout,
        workers=int(str(shape.options["workers"])),
        is_calibrated=commands.needs_quantizer(shape),
    )
    calibration = (calibration_line(model.info, layout.preset, target.gpus),) if is_calibrated(layout) else ()
    plan = BuildPlan(
        backend="tensorrt_llm",
        model=model,
        shape=shape,
        sku=target.product,
        key=engine_key(model, shape, target, host),
        steps=(),
        arithmetic=memory.text_lines((*gpu.lines, *calibration, *room.lines)),
        budget=Budget(
            snapshot_bytes=room.snapshot_bytes,
            checkpoint_bytes=room.checkpoint_bytes,
            engine_bytes=room.engine_bytes,
            host_memory_bytes=room.host_memory_bytes,
            shm_bytes=room.shm_bytes,
        ),
        warnings=tuple(plan_warnings(model.info, shape, target, host=host, gpu=gpu, room=room)),
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
            gpu_bytes=target.gpu.memory_mib << 20,
            compute_capability=target.gpu.compute_capability,
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
            hint="read it, then pass --trust-remote-code",
        )


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
        compute_capability=target.gpu.compute_capability,
        max_gpus=64,
    )
    more = f"--tp {fit.layout.tp_size} --pp {fit.layout.pp_size}" if fit else "a smaller --max-seq-len"
    return HostError(message, hint=f"it fits with {more}, or try --quantization or a smaller --max-num-tokens")
