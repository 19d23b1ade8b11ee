"""What the cpu backend decides before anything is downloaded: types, limits, the key/value pool, the key. Pure.

Fidelity comes first: weights are stored and computed in float32, exact for every 16-bit checkpoint, with a float32
cache, and kernels that round differently from batch to batch stay off. Whatever trades this for speed or space has to
be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtbuild.backends.cpu.families import COVERED, GRAPH_VERSION, read_decoder, refusal
from trtbuild.catalog import ModelInfo
from trtbuild.errors import HostError, SpecError
from trtbuild.log import format_bytes
from trtbuild.plan import Budget, BuildPlan, EngineKey, EngineShape, ResolvedModel
from trtbuild.plan.memory import GIB, MIB, TOKENIZER_BYTES, Line, kv_bytes_per_token
from trtbuild.spec import CpuInfo, EngineSpec, HostInfo, JsonValue, closest

BLOCK_TOKENS = 32
"""Tokens of one key/value block of OpenVINO's paged attention on CPUs."""

DEFAULT_BATCH_SIZE = 8
DEFAULT_SEQ_LEN = 4096
DEFAULT_NUM_TOKENS = 256
"""Tokens per step: a step cannot be interrupted, so a long prompt is computed in pieces between others' tokens."""

_WEIGHTS: Mapping[str, tuple[str, float]] = {
    "int8-weight-only": ("int8", 1.0),
    # Embedding and output head stay int8; four bits and a float16 scale per 128 values for the rest.
    "int4-weight-only": ("int4", 0.6),
}
_TYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

_OPTIMUM_FORMATS: Mapping[str, str] = {
    "float32": "fp32",
    "bfloat16": "fp32",
    "float16": "fp16",
    "int8": "int8",
    "int4": "int4",
}

PROCESS_BYTES = 600 * MIB
"""Memory of the server, its Python models and the engine's libraries without any model."""

MEMORY_SHARE = 0.85
"""Share of the host's memory that an engine may plan with."""

_LOAD_FACTORS: Mapping[tuple[str, str], float] = {
    ("float32", "float32"): 1.05,
    ("float32", "bfloat16"): 1.3,
    ("bfloat16", "bfloat16"): 2.5,
    ("int8", "float32"): 1.4,
    ("int8", "bfloat16"): 1.4,
    ("int4", "float32"): 1.4,
    ("int4", "bfloat16"): 1.4,
}
_WIDENED_FACTOR = 3.6
"""Memory of a loaded engine against its weights' file, by stored and computed type; the second for 16-bit weights that
are computed in float32, which the plugin keeps twice: widened and repacked. The mapped file itself is not counted, the
kernel drops it when memory is short. Measured (VmRSS, anonymous part) on 124 M parameters with OpenVINO 2026.4."""


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


def make_plan(spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
    """Decide every open choice.

    Raises:
        SpecError: The combination cannot be built by this backend.
        HostError: This machine is too small for it.
    """
    options = read_options(spec.build_option)
    route = _check(spec, model.info, host, options)
    storage = _storage(spec, options)
    room = _Room(spec=spec, info=model.info, host=host, storage=storage, compute_type=options.compute_type)
    shape = _shape(room, options, route)
    key = _key(model, shape, host)
    return BuildPlan(
        backend="cpu",
        model=model,
        shape=shape,
        sku=key.sku_part,
        key=key,
        steps=_steps(model, shape),
        arithmetic=tuple(line.text() for line in room.lines(shape)),
        budget=room.budget(shape),
        warnings=_warnings(spec, model.info, host, shape),
    )


def cpu_class(cpu: CpuInfo) -> str:
    """Return a short name of the processor's kind, e.g. ``cpu-amd-avx512_bf16``."""
    vendors = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "ARM": "arm"}
    ladder = ("amx_tile", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "sve", "asimd")
    best = next((name for name in ladder if name in cpu.isa), "baseline")
    return f"cpu-{vendors.get(cpu.vendor, cpu.vendor.lower() or 'unknown')}-{best}"


def _check(spec: EngineSpec, info: ModelInfo, host: HostInfo, options: CpuOptions) -> str:
    """Refuse what cannot work; return how the graph is made: ``builder`` or ``optimum-intel``."""
    if spec.world_size > 1:
        raise SpecError(
            f"tp_size={spec.tp_size}, pp_size={spec.pp_size}: the cpu backend is one process, expected 1 and 1",
            hint="leave --tp and --pp out; they are for GPU backends",
        )
    if spec.quantization not in {"none", *_WEIGHTS}:
        raise SpecError(
            f"quantization: the cpu backend has none, {', '.join(_WEIGHTS)}, not {spec.quantization!r}",
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
            f"{info.model_id} has only pickled weights on this revision; the cpu backend reads safetensors only",
            hint="name a revision that has them; on the hub often --revision refs/pr/N, made by its converter",
        )
    if info.config is not None:  # what the build would refuse after the download; the catalog's models are known
        read_decoder(info.config)
    return "builder"


def _storage(spec: EngineSpec, options: CpuOptions) -> str:
    if spec.quantization in _WEIGHTS:
        return _WEIGHTS[spec.quantization][0]
    return options.compute_type if spec.dtype == "auto" else spec.dtype


@dataclass(frozen=True, kw_only=True)
class _Room:
    """Memory of an engine on a host."""

    spec: EngineSpec
    info: ModelInfo
    host: HostInfo
    storage: str
    compute_type: str

    @property
    def engine_bytes(self) -> int:
        per_value = next((size for name, size in _WEIGHTS.values() if name == self.storage), None)
        return round(self.info.parameters * (per_value or _TYPE_BYTES[self.storage]) * 1.01) + 2 * MIB

    @property
    def kv_value_bytes(self) -> int:
        return 1 if self.spec.kv_cache_dtype == "int8" else _TYPE_BYTES[self.compute_type]

    @property
    def kv_token_bytes(self) -> int:
        return kv_bytes_per_token(self.info, self.kv_value_bytes)

    @property
    def loaded_bytes(self) -> int:
        return round(self.engine_bytes * self.load_factor)

    @property
    def load_factor(self) -> float:
        return _LOAD_FACTORS.get((self.storage, self.compute_type), _WIDENED_FACTOR)

    def pool_limit_tokens(self) -> int:
        """Return the most tokens that fit beside the weights, in whole blocks; plenty when the host is unknown."""
        if not self.host.memory_bytes:
            return 1 << 40
        free = self.host.memory_bytes * MEMORY_SHARE - self.loaded_bytes - PROCESS_BYTES
        return max(0, int(free // self.kv_token_bytes) // BLOCK_TOKENS * BLOCK_TOKENS)

    def lines(self, shape: EngineShape) -> tuple[Line, ...]:
        """Return how the figures come about."""
        pool = _pool_tokens(shape)
        return (
            Line(
                label="engine file",
                size_bytes=self.engine_bytes,
                formula=f"{self.info.parameters:,} parameters as {self.storage}",
                is_exact=False,
            ),
            Line(
                label="engine in memory",
                size_bytes=self.loaded_bytes,
                formula=f"engine file x {self.load_factor} for {self.compute_type} arithmetic (measured)",
                is_exact=False,
            ),
            Line(
                label="key/value cache per token",
                size_bytes=self.kv_token_bytes,
                formula=f"2 x {self.info.layers} layers x {self.info.kv_heads} heads x {self.info.head_dim} "
                f"x {self.kv_value_bytes} bytes",
            ),
            Line(
                label="key/value pool",
                size_bytes=pool * self.kv_token_bytes,
                formula=f"{pool:,} tokens = {pool / shape.max_seq_len:.1f} sequences of {shape.max_seq_len}",
            ),
            Line(
                label="memory of this host",
                size_bytes=self.host.memory_bytes,
                formula=f"{MEMORY_SHARE:.0%} of it may be used, less {format_bytes(PROCESS_BYTES)} for the server",
            ),
        )

    def budget(self, shape: EngineShape) -> Budget:
        """Return the room that building and serving take."""
        # Constants that are stored as they are in the checkpoint are mapped; converted ones are held until saved.
        is_mapped = self.storage == self.info.dtype
        building = (0 if is_mapped else self.engine_bytes) + 512 * MIB
        serving = self.loaded_bytes + _pool_tokens(shape) * self.kv_token_bytes + PROCESS_BYTES
        return Budget(
            snapshot_bytes=self.info.stored_bytes + TOKENIZER_BYTES,
            checkpoint_bytes=0,
            engine_bytes=self.engine_bytes,
            host_memory_bytes=max(building, serving),
            shm_bytes=64 * MIB,
        )


def _pool_tokens(shape: EngineShape) -> int:
    tokens = shape.options["kv_cache_tokens"]
    assert isinstance(tokens, int)
    return tokens


def weights_are_widened(shape: EngineShape) -> bool:
    """Tell whether 16-bit weights are computed in float32."""
    return (shape.options["weights"], shape.options["compute_type"]) not in _LOAD_FACTORS


def context_limit(info: ModelInfo) -> tuple[int, str]:
    """Return the longest sequence for which the graph is faithful, and which limit of the model that is."""
    limits = {"context": info.context_tokens}
    if info.sliding_window_tokens:
        limits["sliding window"] = info.sliding_window_tokens
    if info.rope_type == "longrope" and info.original_context_tokens:
        limits["context before longrope"] = info.original_context_tokens
    name = min(limits, key=lambda each: limits[each])
    return limits[name], name


def _shape(room: _Room, options: CpuOptions, route: str) -> EngineShape:
    spec, info = room.spec, room.info
    limit, limit_name = context_limit(info)
    if spec.max_seq_len is not None and spec.max_seq_len > limit:
        raise SpecError(
            f"max_seq_len={spec.max_seq_len}: the {limit_name} of {info.model_id} is {limit} tokens",
            hint=f"pass --max-seq-len {limit} or less",
        )
    batch = spec.max_batch_size or DEFAULT_BATCH_SIZE
    seq_len, pool = _pool(room, batch, limit)
    input_len = spec.max_input_len or seq_len - 1
    if input_len >= seq_len:
        raise SpecError(
            f"max_input_len={input_len} leaves no room for output within max_seq_len={seq_len}",
            hint=f"pass --max-input-len {seq_len - 1} or less",
        )
    num_tokens = spec.max_num_tokens or max(DEFAULT_NUM_TOKENS, batch)
    if num_tokens < batch:
        raise SpecError(
            f"max_num_tokens={num_tokens} is less than max_batch_size={batch}: each running request takes one per step",
            hint=f"pass --max-num-tokens {batch} or more",
        )
    built: dict[str, JsonValue] = {
        "weights": room.storage,
        "compute_type": options.compute_type,
        "dynamic_quantization_group_size": options.dynamic_quantization_group_size,
        "kv_cache_tokens": pool,
        "route": route,
        "trust_remote_code": spec.trust_remote_code and route == "optimum-intel",
    }
    return EngineShape(
        dtype=options.compute_type if spec.dtype == "auto" else spec.dtype,
        quantization=spec.quantization,
        kv_cache_dtype="int8" if spec.kv_cache_dtype == "int8" else options.compute_type,
        tp_size=1,
        pp_size=1,
        max_batch_size=batch,
        max_input_len=input_len,
        max_seq_len=seq_len,
        max_num_tokens=num_tokens,
        options=built,
    )


def _pool(room: _Room, batch: int, limit: int) -> tuple[int, int]:
    """Return max_seq_len and the pool's tokens: as asked, else what every slot can use and memory allows."""
    spec = room.spec
    most = room.pool_limit_tokens()
    wanted_seq = spec.max_seq_len or min(limit, DEFAULT_SEQ_LEN)
    smallest = spec.kv_cache_tokens or (spec.max_seq_len or BLOCK_TOKENS)
    if smallest > most:
        raise HostError(
            f"{room.info.model_id} as {room.storage} needs {format_bytes(room.loaded_bytes)}, its key/value cache "
            f"{format_bytes(room.kv_token_bytes)} per token; {smallest} tokens do not fit into "
            f"{format_bytes(room.host.memory_bytes)} of memory, {most} would",
            hint="pass --quantization int8-weight-only, or a smaller --max-seq-len, --kv-cache-tokens or model",
        )
    if spec.kv_cache_tokens:
        pool = spec.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    else:
        pool = min(-(-wanted_seq // BLOCK_TOKENS) * BLOCK_TOKENS * batch, most)
    if pool >= wanted_seq:
        return wanted_seq, pool
    if spec.max_seq_len:
        raise SpecError(
            f"kv_cache_tokens={pool} cannot hold one sequence of max_seq_len={spec.max_seq_len}",
            hint=f"pass --kv-cache-tokens {-(-wanted_seq // BLOCK_TOKENS) * BLOCK_TOKENS} or more",
        )
    return pool, pool


def _key(model: ResolvedModel, shape: EngineShape, host: HostInfo) -> EngineKey:
    route = shape.options["route"]
    fields: dict[str, JsonValue] = {
        "backend": "cpu",
        "model_id": model.model_id,
        "revision": model.revision,
        "dtype": shape.dtype,
        "quantization": shape.quantization,
        "kv_cache_dtype": shape.kv_cache_dtype,
        "tp_size": shape.tp_size,
        "pp_size": shape.pp_size,
        "max_batch_size": shape.max_batch_size,
        "max_input_len": shape.max_input_len,
        "max_seq_len": shape.max_seq_len,
        "max_num_tokens": shape.max_num_tokens,
        "options": dict(shape.options),
        "graph": GRAPH_VERSION if route == "builder" else f"optimum-intel {host.versions['optimum_intel']}",
        "openvino": host.versions.get("openvino"),
        "openvino_genai": host.versions.get("openvino_genai"),
        "cpu": {"vendor": host.cpu.vendor, "isa": list(host.cpu.isa)},
        "platform": host.platform,
    }
    weights = shape.options["weights"]
    assert isinstance(weights, str)
    return EngineKey(
        fields=fields,
        model_part=model.alias or model.model_id,
        sku_part=cpu_class(host.cpu),
        shape_part=f"tp1-pp1-{weights}",
    )


def _steps(model: ResolvedModel, shape: EngineShape) -> tuple[str, ...]:
    options = shape.options
    if options["route"] == "optimum-intel":
        command = " ".join(optimum_arguments(shape, "SNAPSHOT", "WORK_DIR"))
        return (f"python {command}", "load the engine and compute one token")
    return (
        f"map the safetensors of {model.model_id}",
        f"write openvino_model.xml and .bin (weights {options['weights']}, computed in {options['compute_type']})",
        "load the engine and compute one token",
    )


def optimum_arguments(shape: EngineShape, snapshot: str, output: str) -> tuple[str, ...]:
    """Return the arguments for the interpreter that has optimum-intel.

    Source: optimum-intel, ``optimum-cli export openvino --help``.
    """
    weights = shape.options["weights"]
    assert isinstance(weights, str)
    arguments = ["-m", "trtbuild.backends.cpu.optimum", "export", "openvino", "--model", snapshot]
    arguments += ["--task", "text-generation-with-past", "--weight-format", _OPTIMUM_FORMATS[weights]]
    if shape.options["trust_remote_code"]:
        arguments.append("--trust-remote-code")
    return (*arguments, output)


def _warnings(spec: EngineSpec, info: ModelInfo, host: HostInfo, shape: EngineShape) -> tuple[str, ...]:
    warnings = []
    if shape.options["route"] == "optimum-intel":
        warnings.append("optimum-intel makes this engine's graph; its tokens are not compared with transformers' here")
    elif spec.allow_pickle:
        warnings.append(
            "allow_pickle is of no use to the cpu backend, which reads safetensors only: a model that has none is "
            "downloaded with it, and refused then"
        )
    limit, limit_name = context_limit(info)
    if limit < info.context_tokens and spec.max_seq_len is None:
        warnings.append(
            f"{info.model_id} was made for {info.context_tokens} tokens; the cpu backend serves it up to its "
            f"{limit_name} of {limit}"
        )
    elif spec.max_seq_len is None and shape.max_seq_len < min(limit, DEFAULT_SEQ_LEN):
        warnings.append(
            f"max_seq_len is {shape.max_seq_len}, not {min(limit, DEFAULT_SEQ_LEN)}: no more key/value cache fits into "
            f"{format_bytes(host.memory_bytes)} of memory"
        )
    if spec.dtype == "float16" and info.dtype != "float16" and spec.quantization == "none":
        warnings.append(f"weights of type {info.dtype} are rounded to float16")
    if spec.dtype in {"float16", "bfloat16"} and spec.quantization == "none" and weights_are_widened(shape):
        warnings.append(
            f"{spec.dtype} weights make the engine's file smaller, but take more memory when computed in float32; "
            "leave --dtype out unless disk is short"
        )
    if info.parameters * 2 > 8 * GIB and spec.quantization == "none":
        warnings.append("a model of this size is slow on CPUs; --quantization int8-weight-only is about twice as fast")
    return tuple(warnings)
