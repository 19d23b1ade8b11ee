"""TensorRT-LLM without engines: its LLM API (PyTorch) serves the checkpoint itself, from 1.0 on and after 1.3.

It decides what is kept instead of an engine: the model's files and ``model.yaml``, the arguments of ``LLM()`` as
upstream's own ``llmapi`` template reads them. Nothing is compiled, so an entry serves every GPU the model fits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trtbuild import untrusted
from trtbuild.backends.gpu import READS, choose_limits, gpu_label
from trtbuild.catalog import (
    LLMAPI_SINCE,
    GpuArchitecture,
    ModelInfo,
    gpu_architecture,
    llm_api,
    parse_version,
    preset,
    samplers,
    trtllm_releases,
)
from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.errors import BuildError, ConvertError, HostError, SpecError
from trtbuild.plan import (
    Availability,
    Backend,
    Budget,
    BuildPlan,
    EngineInfo,
    EngineKey,
    EngineShape,
    EngineTemplate,
    ResolvedModel,
    feasibility,
    memory,
)
from trtbuild.plan.llm_api import llm_api_problem
from trtbuild.plan.rope import unread_rope
from trtbuild.spec import EngineSpec, GpuInfo, HostInfo, JsonValue, RepositorySpec, closest

TEMPLATE = "tensorrt_llm/llmapi"
CONFIG_SCHEMA = 1
_LEFT_OUT = frozenset({".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".md"})
_TEMPLATE_PARAMETERS = {
    "cancellation_check_period_ms": "how often a request is looked at for a client that has gone (100)"
}
_ROPE_TYPES = ("linear", "dynamic", "longrope", "llama3", "yarn", "mrope")
"""Source: TensorRT-LLM 1.2, tensorrt_llm/functional.py, RotaryScalingType; later ones know ``default`` as well."""

_SCALARS = frozenset(
    {
        "end_id", "pad_id", "beam_width", "temperature", "runtime_top_k", "runtime_top_p", "len_penalty",
        "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens", "seed", "return_log_probs",
        "return_perf_metrics", "exclude_input_in_output", "stop", "streaming",
    }
)  # fmt: skip
_HINT = "remove the entry (trtbuild store rm) and build it again"


@dataclass(frozen=True, kw_only=True)
class LlmApiBackend:
    """See :class:`trtbuild.plan.Backend`."""

    name: str = "llmapi"
    reads: frozenset[str] = READS

    def availability(self, host: HostInfo) -> Availability:
        """Say whether the LLM API can serve here."""
        try:
            gpu = _find_gpu(host, world_size=1)
        except HostError as error:
            return Availability(is_available=False, reason=f"{error.message}; {error.hint}")
        version, architecture = host.versions["tensorrt_llm"], gpu_architecture(gpu.compute_capability)
        if architecture is not None and (reason := _unsupported(version, architecture, gpu)):
            return Availability(is_available=False, reason=reason)
        return Availability(is_available=True, reason=f"TensorRT-LLM {version} (LLM API) on {gpu_label(gpu)}")

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice."""
        gpu = _find_gpu(host, world_size=spec.world_size)
        architecture = gpu_architecture(gpu.compute_capability)
        dtype = feasibility.choose_dtype(spec.dtype, model.info, architecture)
        _refuse_impossible(spec, model.info, host, gpu, dtype)
        layout = memory.Layout(
            dtype=dtype,
            preset=preset("none"),
            kv_cache_dtype=spec.kv_cache_dtype,
            tp_size=spec.tp_size,
            pp_size=spec.pp_size,
            storage=model.info.storage,
            shares_tied_head=True,
        )
        batch, seq, inputs, tokens = choose_limits(spec, model.info)
        shape = EngineShape(
            dtype=dtype,
            quantization="none",
            kv_cache_dtype=spec.kv_cache_dtype,
            tp_size=spec.tp_size,
            pp_size=spec.pp_size,
            max_batch_size=batch,
            max_input_len=inputs,
            max_seq_len=seq,
            max_num_tokens=tokens,
        )
        shape = replace(shape, options={"llm": llm_arguments(shape, is_code_trusted=spec.trust_remote_code)})
        limits = memory.Limits(max_batch_size=batch, max_seq_len=seq, max_num_tokens=tokens)
        need = memory.gpu_memory(model.info, layout, limits, gpu_bytes=gpu.memory_mib << 20)
        _refuse_too_big(model.info, need, gpu)
        return BuildPlan(
            backend=self.name,
            model=model,
            shape=shape,
            sku=gpu_label(gpu),
            key=_key(model, shape),
            steps=("link SNAPSHOT into ENGINE/model", "write ENGINE/model.yaml and ENGINE/config.json"),
            arithmetic=memory.text_lines((*need.lines, memory.snapshot_line(model.info))),
            budget=_budget(model.info, layout),
            warnings=tuple(_warnings(spec, model.info, architecture, gpu)),
        )

    def check(self, plan: BuildPlan, spec: RepositorySpec) -> None:  # noqa: ARG002
        """Refuse illegal template parameters; nothing but the model is needed."""
        _check_parameters(spec)

    def build(
        self,
        plan: BuildPlan,
        snapshot: Path,
        engine_dir: Path,
        work_dir: Path,  # noqa: ARG002
        *,
        logs: Path | None = None,  # noqa: ARG002
        hints: Path | None = None,  # noqa: ARG002
    ) -> None:
        """Put the model's files and the arguments of ``LLM()`` into ``engine_dir``."""
        target = engine_dir / "model"
        target.mkdir(parents=True)
        files: dict[str, JsonValue] = {}
        sources = list(_model_files(snapshot, is_code_trusted=bool(_llm(plan).get("trust_remote_code"))))
        if not any(source.suffix == ".safetensors" for source in sources):
            raise ConvertError(
                f"{plan.model.model_id} has no safetensors weights",
                hint="name a revision that has them; on the hub often --revision refs/pr/N, made by its converter",
            )
        if links := untrusted.outward_links(snapshot):
            raise ConvertError(
                f"{snapshot}: {links[0]}: the link leads out of the model's directory, and its target would be kept "
                "with the engine",
                hint="put a copy of the file in its place",
            )
        _check_quantization(plan, snapshot)
        with log.get().progress("link", f"linking {plan.model.model_id}", total=len(sources), unit="steps") as bar:
            for source in sources:
                _link(source, target / source.name)
                files[source.name] = (target / source.name).stat().st_size
                bar.advance(1)
        (engine_dir / "model.yaml").write_text(json.dumps(_llm(plan), indent=2) + "\n", encoding="utf-8")
        document = json.dumps(engine_config(plan, files), indent=2)
        (engine_dir / "config.json").write_text(document + "\n", encoding="utf-8")

    def inspect(self, engine_dir: Path) -> EngineInfo:
        """Read an engine directory and check that the model's files are whole.

        The LLM API starts its own ranks, so the server has one, whatever the tensor parallel size.
        """
        try:
            document = untrusted.read(engine_dir / "config.json", untrusted.CONFIG_LIMIT_BYTES)
            if document["schema"] != CONFIG_SCHEMA:
                raise BuildError(f"{engine_dir}: config.json has schema {document['schema']}", hint=_HINT)
            for name, size in document["files"].items():
                found = engine_dir / "model" / name
                if not found.is_file() or found.stat().st_size != size:
                    raise BuildError(f"{engine_dir}: model/{name} is missing or has another size", hint=_HINT)
            limits = document["build_config"]
            return EngineInfo(
                backend=self.name,
                tp_size=1,
                pp_size=1,
                max_batch_size=int(limits["max_batch_size"]),
                max_input_len=int(limits["max_input_len"]),
                max_seq_len=int(limits["max_seq_len"]),
                max_num_tokens=int(limits["max_num_tokens"]),
                dtype=str(document["pretrained_config"]["dtype"]),
                vocab_size=int(document["pretrained_config"]["vocab_size"]),
            )
        except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
            raise BuildError(f"{engine_dir}: config.json cannot be read ({error!r})", hint=_HINT) from error

    def template(self, info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> EngineTemplate:
        """Return how the model is served: the tensors of the C++ backend in front of the LLM API."""
        _check_parameters(spec)
        fraction = memory.kv_fraction(spec.kv_cache_free_gpu_mem_fraction)
        parameters: dict[str, str] = {
            "engine_dir": str(engine_dir),
            "max_batch_size": str(info.max_batch_size),
            "max_queue_size": str(spec.max_queue_size),
            "enable_kv_cache_reuse": "true" if spec.enable_kv_cache_reuse else "false",
            "enable_chunked_context": "true" if spec.enable_chunked_context else "false",
            "batch_scheduler_policy": spec.batch_scheduler_policy,
            "kv_cache_free_gpu_mem_fraction": f"{fraction:g}",
            "samplers": json.dumps(samplers()),
            **spec.template_parameter,
        }
        variables: dict[str, JsonValue] = {
            "max_batch_size": info.max_batch_size,
            "scalars": [list(pair) for pair in _scalar_inputs()],
            "parameters": [list(pair) for pair in parameters.items()],
        }
        return EngineTemplate(directory=TEMPLATE, variables=variables)


def _check_parameters(spec: RepositorySpec) -> None:
    memory.kv_fraction(spec.kv_cache_free_gpu_mem_fraction)
    for name, value in spec.template_parameter.items():
        if name not in _TEMPLATE_PARAMETERS or not value.isdecimal():
            raise SpecError(
                f"template_parameter {name}={value}: unknown or not a whole number"
                f"{closest(name, tuple(_TEMPLATE_PARAMETERS))}",
                hint="; ".join(f"{key}: {text}" for key, text in _TEMPLATE_PARAMETERS.items()),
            )


def _scalar_inputs() -> Iterator[tuple[str, str]]:
    """Yield the optional inputs of one value that the engine process knows, with their types."""
    for tensor in trtllm_releases()[-1].engine_inputs:
        if tensor.name in _SCALARS:
            yield tensor.name, f"TYPE_{tensor.data_type}"


def llm_arguments(shape: EngineShape, *, is_code_trusted: bool) -> dict[str, JsonValue]:
    """Return the arguments of ``LLM()`` that describe the model and its limits. Pure.

    Source: tensorrt_llm/llmapi/llm_args.py, TorchLlmArgs; the model's path is relative to the engine directory.
    """
    cache: dict[str, JsonValue] = {} if shape.kv_cache_dtype == "auto" else {"dtype": shape.kv_cache_dtype}
    return {
        "model": "model",
        "backend": "pytorch",
        "dtype": shape.dtype,
        "tensor_parallel_size": shape.tp_size,
        "pipeline_parallel_size": shape.pp_size,
        "max_batch_size": shape.max_batch_size,
        "max_input_len": shape.max_input_len,
        "max_seq_len": shape.max_seq_len,
        "max_num_tokens": shape.max_num_tokens,
        "skip_tokenizer_init": True,
        "trust_remote_code": is_code_trusted,
        "kv_cache_config": cache,
    }


def engine_config(plan: BuildPlan, files: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the engine directory's own config.json. Pure."""
    shape, info = plan.shape, plan.model.info
    return {
        "schema": CONFIG_SCHEMA,
        "backend": "llmapi",
        "files": files,
        "pretrained_config": {
            "architecture": info.architecture,
            "dtype": shape.dtype,
            "vocab_size": info.vocab_size,
            "mapping": {"world_size": shape.world_size, "tp_size": shape.tp_size, "pp_size": shape.pp_size},
        },
        "build_config": {
            "max_batch_size": shape.max_batch_size,
            "max_input_len": shape.max_input_len,
            "max_seq_len": shape.max_seq_len,
            "max_num_tokens": shape.max_num_tokens,
        },
    }


def _llm(plan: BuildPlan) -> dict[str, JsonValue]:
    arguments = plan.shape.options["llm"]
    assert isinstance(arguments, dict)
    return arguments


def _find_gpu(host: HostInfo, *, world_size: int) -> GpuInfo:
    version = host.versions.get("tensorrt_llm")
    if version is None:
        raise HostError("tensorrt_llm is not installed here", hint="run inside NVIDIA's Triton TensorRT-LLM image")
    if parse_version(version) < parse_version(LLMAPI_SINCE):
        raise HostError(
            f"TensorRT-LLM {version}: the llmapi backend needs {LLMAPI_SINCE} or later",
            hint=f"run inside {trtllm_releases()[-1].images[-1]}, or use --backend tensorrt_llm with this one",
        )
    if len(host.gpus) < world_size or not host.gpus:
        raise HostError(
            f"{world_size} GPUs are needed, {len(host.gpus)} are visible",
            hint="docker: --gpus all; Kubernetes: request nvidia.com/gpu; or fewer ranks with --tp and --pp",
        )
    return min(host.gpus[:world_size], key=lambda gpu: gpu.memory_mib)


def _refuse_impossible(spec: EngineSpec, model: ModelInfo, host: HostInfo, gpu: GpuInfo, dtype: str) -> None:
    version = host.versions["tensorrt_llm"]
    if spec.quantization != "none":
        raise SpecError(
            f"--quantization {spec.quantization}: the LLM API does not quantize, it loads quantized checkpoints",
            hint="name a checkpoint that is quantized already, or use --backend tensorrt_llm",
        )
    if spec.build_option or spec.calibration:
        raise SpecError("--build-option and --calibration: the llmapi backend builds no engine", hint="drop them")
    kinds = llm_api(version).kv_cache_dtypes
    if spec.kv_cache_dtype not in kinds:
        raise SpecError(
            f"--kv-cache-dtype {spec.kv_cache_dtype}: the LLM API has {' and '.join(kinds)}",
            hint="pass --kv-cache-dtype fp8 or drop the option",
        )
    if not model.safetensors:
        raise SpecError(
            f"{model.name} has only pickled weights on its main branch; the LLM API reads safetensors",
            hint="name a revision that has them; on the hub often --revision refs/pr/N, made by its converter",
        )
    architecture = gpu_architecture(gpu.compute_capability)
    found = [
        llm_api_problem(
            version,
            model,
            kv_cache_dtype=spec.kv_cache_dtype,
            is_code_trusted=spec.trust_remote_code,
            architecture=architecture,
        ),
        feasibility.parallel_problem(model, spec.tp_size, spec.pp_size, family=None),
    ]
    if architecture is not None:
        product = gpu_label(gpu)
        if reason := _unsupported(version, architecture, gpu):
            raise HostError(reason, hint="a GPU of compute capability 8.0 or later")
        types = {"dtype": dtype, "quantization": "none", "kv_cache_dtype": spec.kv_cache_dtype}
        found.append(feasibility.gpu_problem(architecture, product, **types))
    for problem in found:
        if problem is not None:
            kind = HostError if problem.is_host else SpecError
            raise kind(problem.reason, hint=f"nearest possible: {problem.remedy}")


def _unsupported(version: str, architecture: GpuArchitecture, gpu: GpuInfo) -> str:
    """Return why an installed TensorRT-LLM cannot use a GPU, or "".  Its version may be newer than every table."""
    if architecture.trtllm_until and parse_version(version) > parse_version(architecture.trtllm_until):
        return f"TensorRT-LLM {version} does not support {architecture.name} GPUs such as {gpu_label(gpu)}"
    return ""


def _refuse_too_big(model: ModelInfo, need: memory.GpuMemory, gpu: GpuInfo) -> None:
    # Without a listing, how much smaller a quantized checkpoint is may not be known; then this arithmetic is no reason.
    if need.fits or (model.pre_quantized and not model.are_sizes_known):
        return
    raise HostError(
        f"{model.name} does not fit {gpu_label(gpu)}: about {format_bytes(need.missing_bytes)} per GPU are missing",
        hint="use more GPUs (--tp), a smaller --max-seq-len or --max-num-tokens, or a quantized checkpoint",
    )


def _warnings(spec: EngineSpec, model: ModelInfo, architecture: GpuArchitecture | None, gpu: GpuInfo) -> Iterator[str]:
    if spec.allow_pickle:
        yield (
            "allow_pickle is of no use to the llmapi backend, which keeps safetensors only: a model that has none is "
            "downloaded with it, and refused then"
        )
    if architecture is None:
        yield f"{gpu_label(gpu)} is not in the catalog; what it can compute is not checked"
    if model.rope_type and model.rope_type not in _ROPE_TYPES:
        yield (
            f"{model.name} scales rotary positions by {model.rope_type!r}; the LLM API of the releases known here has "
            f"{', '.join(_ROPE_TYPES)} and may not load the model"
        )
    if missed := unread_rope(model):
        yield (
            f"config.json has {missed} in rope_parameters only, where transformers 5 writes it; a TensorRT-LLM that "
            "reads it with transformers 4 takes a default, and answers are wrong"
        )
    if model.pre_quantized and not model.are_sizes_known:
        yield (
            f"{model.name} is quantized already ({model.pre_quantized}) in a way that config.json does not tell; the "
            "memory figures are those without that"
        )
    elif not model.is_exact:
        yield memory.estimate_warning(model)


def _budget(model: ModelInfo, layout: memory.Layout) -> Budget:
    snapshot = model.stored_bytes + memory.TOKENIZER_BYTES
    rank = max(stage.total for stage in memory.stage_weights(model, layout))
    return Budget(
        snapshot_bytes=snapshot,
        checkpoint_bytes=0,
        engine_bytes=snapshot,
        host_memory_bytes=layout.world_size * (rank + memory.TOOL_BYTES),
        shm_bytes=memory.SHM_BASE_BYTES + layout.world_size * memory.SHM_RANK_BYTES,
    )


def _key(model: ResolvedModel, shape: EngineShape) -> EngineKey:
    fields: dict[str, JsonValue] = {
        "backend": "llmapi",
        "model_id": model.model_id,
        "revision": model.revision,
        "llm": shape.options["llm"],
    }
    cache = "" if shape.kv_cache_dtype == "auto" else f"-kv{shape.kv_cache_dtype}"
    return EngineKey(
        fields=fields,
        model_part=model.model_id,
        sku_part="any-gpu",
        shape_part=f"llmapi-tp{shape.tp_size}-pp{shape.pp_size}-{shape.dtype}{cache}",
    )


def _model_files(snapshot: Path, *, is_code_trusted: bool) -> Iterator[Path]:
    """Yield the files of a snapshot that the LLM API reads; Python code only where it may run."""
    for path in sorted(snapshot.iterdir()):
        if path.is_file() and path.suffix not in _LEFT_OUT and (path.suffix != ".py" or is_code_trusted):
            yield path


def _check_quantization(plan: BuildPlan, snapshot: Path) -> None:
    """Refuse what only the file says that ModelOpt writes beside config.json, and by which the LLM API goes.

    Raises:
        ConvertError: It is missing where config.json counts on it, cannot be read, or asks for what cannot be served.
    """
    path, info = snapshot / "hf_quant_config.json", plan.model.info
    if not path.is_file():
        if info.pre_quantized == "modelopt":
            raise ConvertError(
                f"{plan.model.model_id} is quantized by ModelOpt, but {path.name} is missing, which the LLM API reads",
                hint="name a revision that has the file",
            )
        return
    try:
        settings = untrusted.read(path, untrusted.CONFIG_LIMIT_BYTES)["quantization"]
        algorithm = settings.get("quant_algo")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{path} cannot be read ({error!r})", hint="download the model again") from error
    if reason := llm_api(LLMAPI_SINCE).cache_problem(plan.shape.kv_cache_dtype, algorithm):
        raise ConvertError(f"{plan.model.model_id}: {reason}", hint="build it again with --kv-cache-dtype auto")


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, by a hard link where both are on one file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise BuildError(f"{target} cannot be written: {error.strerror}", hint="is the disk full?") from error


BACKEND: Backend = LlmApiBackend()
