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
from trtbuild.backends.llmapi.possible import find_gpu, plan_warnings, refuse_impossible, refuse_too_big, unsupported
from trtbuild.catalog import (
    LLMAPI_SINCE,
    ModelInfo,
    gpu_architecture,
    llm_api,
    preset,
    samplers,
    trtllm_releases,
)
from trtbuild.console import log
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
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, RepositorySpec, closest

TEMPLATE = "tensorrt_llm/llmapi"
CONFIG_SCHEMA = 1
_LEFT_OUT = frozenset({".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".md"})
_TEMPLATE_PARAMETERS = {
    "cancellation_check_period_ms": "how often a request is looked at for a client that has gone (100)"
}
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
            gpu = find_gpu(host, world_size=1)
        except HostError as error:
            return Availability(is_available=False, reason=f"{error.message}; {error.hint}")
        version, architecture = host.versions["tensorrt_llm"], gpu_architecture(gpu.compute_capability)
        if architecture is not None and (reason := unsupported(version, architecture, gpu)):
            return Availability(is_available=False, reason=reason)
        return Availability(is_available=True, reason=f"TensorRT-LLM {version} (LLM API) on {gpu_label(gpu)}")

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice."""
        gpu = find_gpu(host, world_size=spec.world_size)
        architecture = gpu_architecture(gpu.compute_capability)
        dtype = feasibility.choose_dtype(spec.dtype, model.info, architecture)
        refuse_impossible(spec, model.info, host, gpu, dtype)
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
        refuse_too_big(model.info, need, gpu)
        return BuildPlan(
            backend=self.name,
            model=model,
            shape=shape,
            sku=gpu_label(gpu),
            key=_key(model, shape),
            steps=("link SNAPSHOT into ENGINE/model", "write ENGINE/model.yaml and ENGINE/config.json"),
            arithmetic=memory.text_lines((*need.lines, memory.snapshot_line(model.info))),
            budget=_budget(model.info, layout),
            warnings=tuple(plan_warnings(spec, model.info, architecture, gpu)),
        )

    def check_serving(self, plan: BuildPlan, spec: RepositorySpec) -> None:  # noqa: ARG002
        """Refuse illegal template parameters."""
        _check_parameters(spec)

    def check_model(self, plan: BuildPlan, snapshot: Path) -> None:
        """Refuse a snapshot that the LLM API would not load, or whose files cannot be kept."""
        if not any(path.suffix == ".safetensors" for path in snapshot.iterdir()):
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

    def check(self, plan: BuildPlan) -> None:
        """Look for nothing: only the model is needed."""

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
        self.check_model(plan, snapshot)
        target = engine_dir / "model"
        target.mkdir(parents=True)
        files: dict[str, JsonValue] = {}
        sources = list(_model_files(snapshot, is_code_trusted=bool(_llm(plan).get("trust_remote_code"))))
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
