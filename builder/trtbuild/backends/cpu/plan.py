"""What the cpu backend decides before anything is downloaded: types, limits, the key/value pool, the key. Pure.

Fidelity comes first: weights are stored and computed in float32, exact for every 16-bit checkpoint, with a float32
cache, and kernels that round differently from batch to batch stay off. Whatever trades this for speed or space has to
be asked for.
"""

from __future__ import annotations

from trtbuild.backends.cpu.advice import plan_warnings
from trtbuild.backends.cpu.families import COVERED, read_decoder, refusal
from trtbuild.backends.cpu.key import engine_key
from trtbuild.backends.cpu.options import CpuOptions, read_options
from trtbuild.backends.cpu.room import QUANTIZED_WEIGHTS, Room
from trtbuild.backends.cpu.shape import choose_shape
from trtbuild.backends.cpu.steps import build_steps
from trtbuild.catalog import ModelInfo
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.spec import EngineSpec, HostInfo


def make_plan(spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
    """Decide every open choice.

    Raises:
        SpecError: The combination cannot be built by this backend.
        HostError: This machine is too small for it.
    """
    options = read_options(spec.build_option)
    route = _check(spec, model.info, host, options)
    storage = _storage(spec, options)
    room = Room(spec=spec, info=model.info, host=host, storage=storage, compute_type=options.compute_type)
    shape = choose_shape(room, options, route)
    key = engine_key(model, shape, host)
    return BuildPlan(
        backend="cpu",
        model=model,
        shape=shape,
        sku=key.sku_part,
        key=key,
        steps=build_steps(model, shape),
        arithmetic=tuple(line.text() for line in room.lines(shape)),
        budget=room.budget(shape),
        warnings=plan_warnings(spec, model.info, host, shape),
    )


def _check(spec: EngineSpec, info: ModelInfo, host: HostInfo, options: CpuOptions) -> str:
    """Refuse what cannot work; return how the graph is made: ``builder`` or ``optimum-intel``."""
    if spec.world_size > 1:
        raise SpecError(
            f"tp_size={spec.tp_size}, pp_size={spec.pp_size}: the cpu backend is one process, expected 1 and 1",
            hint="leave --tp and --pp out; they are for GPU backends",
        )
    if spec.quantization not in {"none", *QUANTIZED_WEIGHTS}:
        raise SpecError(
            f"quantization: the cpu backend has none, {', '.join(QUANTIZED_WEIGHTS)}, not {spec.quantization!r}",
            hint="--quantization int8-weight-only halves memory and nearly keeps the model's quality",
        )
    if spec.kv_cache_dtype not in {"auto", "int8"}:
        raise SpecError(
            f"kv_cache_dtype: the cpu backend has auto (the compute type) and int8, not {spec.kv_cache_dtype!r}",
            hint="leave --kv-cache-dtype out",
        )
    if spec.calibration:
        raise SpecError(
            f"calibration={spec.calibration!r}: weight-only quantization needs no data",
            hint="leave --calibration out",
        )
    if info.pre_quantized:
        raise SpecError(
            f"{info.model_id} is quantized already ({info.pre_quantized}), which the cpu backend cannot read",
            hint="name the unquantized model and pass --quantization int8-weight-only",
        )
    if options.compute_type == "bfloat16" and not {"avx512_bf16", "amx_bf16", "bf16"} & set(host.cpu.isa):
        raise HostError(
            f"compute_type=bfloat16: {host.cpu.model} has no bfloat16 arithmetic",
            hint="leave the option out; float32 is faster here",
        )
    if info.architecture not in COVERED:
        if "optimum_intel" in host.versions:
            return "optimum-intel"
        raise SpecError(
            refusal(info.architecture),
            hint="use a GPU backend for this model, or install optimum-intel[openvino] for its converter",
        )
    if not info.safetensors:
        if spec.allow_pickle and "optimum_intel" in host.versions:
            return "optimum-intel"
        raise SpecError(
            f"{info.model_id} has only pickled weights; the cpu backend reads safetensors only",
            hint="name a revision that has them; on the hub often --revision refs/pr/N, made by its converter",
        )
    if info.config is not None:  # what the build would refuse after the download; the catalog's models are known
        read_decoder(info.config)
    return "builder"


def _storage(spec: EngineSpec, options: CpuOptions) -> str:
    if spec.quantization in QUANTIZED_WEIGHTS:
        return QUANTIZED_WEIGHTS[spec.quantization][0]
    return options.compute_type if spec.dtype == "auto" else spec.dtype
