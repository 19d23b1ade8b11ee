"""The embedded engine: OpenVINO with OpenVINO GenAI's continuous batching, for machines without a GPU.

It decides what an engine directory of this backend looks like and how it is served. Types, limits and the key are
``plan``; the models it knows ``families``; the model that is saved ``build``.

An engine directory holds ``config.json`` (in the manner of TensorRT-LLM: ``pretrained_config``, ``build_config``),
``openvino_model.xml`` and ``openvino_model.bin``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild import process, untrusted
from trtbuild.backends.cpu.families import read_decoder
from trtbuild.backends.cpu.options import READS
from trtbuild.backends.cpu.plan import make_plan
from trtbuild.backends.cpu.steps import optimum_arguments
from trtbuild.console import log
from trtbuild.errors import BuildError, ConvertError, FetchError, SpecError
from trtbuild.model.checkpoint import resolve_weights
from trtbuild.plan import Availability, Backend, BuildPlan, EngineInfo, EngineTemplate, ResolvedModel
from trtbuild.process import Command
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, RepositorySpec, closest

if TYPE_CHECKING:
    from trtbuild.backends.cpu.decoder import Decoder
    from trtbuild.backends.cpu.weights import Checkpoint

CONFIG_SCHEMA = 1
TEMPLATE = "tensorrt_llm/cpu"

_FILES = ("config.json", "openvino_model.xml", "openvino_model.bin")
_KV_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "u8"}
_COMPUTE_HINTS = {"float32": "f32", "bfloat16": "bf16"}

_SCALAR_INPUTS: tuple[tuple[str, str], ...] = (
    ("end_id", "TYPE_INT32"),
    ("pad_id", "TYPE_INT32"),
    ("beam_width", "TYPE_INT32"),
    ("temperature", "TYPE_FP32"),
    ("runtime_top_k", "TYPE_INT32"),
    ("runtime_top_p", "TYPE_FP32"),
    ("min_p", "TYPE_FP32"),
    ("len_penalty", "TYPE_FP32"),
    ("repetition_penalty", "TYPE_FP32"),
    ("presence_penalty", "TYPE_FP32"),
    ("frequency_penalty", "TYPE_FP32"),
    ("min_tokens", "TYPE_INT32"),
    ("seed", "TYPE_UINT64"),
    ("return_log_probs", "TYPE_BOOL"),
    ("return_perf_metrics", "TYPE_BOOL"),
    ("exclude_input_in_output", "TYPE_BOOL"),
    ("stop", "TYPE_BOOL"),
    ("streaming", "TYPE_BOOL"),
)
"""Optional inputs of one value. Source: TensorRT-LLM 1.x, all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt.

``min_p`` is none of that backend's; TensorRT-LLM's ``SamplingParams`` call it so."""

_TEMPLATE_PARAMETERS: Mapping[str, str] = {
    "cancellation_check_period_ms": "how often a request is looked at for a client that has gone (100)",
    "inference_num_threads": "threads the engine computes with (all cores)",
}


@dataclass(frozen=True)
class CpuBackend:
    """See :class:`trtbuild.plan.Backend`."""

    name: str = "cpu"
    reads: frozenset[str] = READS

    def availability(self, host: HostInfo) -> Availability:
        """Say whether OpenVINO GenAI is installed."""
        missing = [name for name in ("openvino", "openvino_genai") if name not in host.versions]
        if missing:
            packages = " and ".join(name.replace("_", "-") for name in missing)
            return Availability(is_available=False, reason=f"{packages} not installed; pip install 'trtbuild[cpu]'")
        return Availability(is_available=True, reason=f"OpenVINO GenAI {host.versions['openvino_genai']} is installed")

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice; see :func:`plan.make_plan`."""
        return make_plan(spec, model, host)

    def check_serving(self, plan: BuildPlan, spec: RepositorySpec) -> None:  # noqa: ARG002
        """Refuse illegal template parameters."""
        _check_parameters(spec)

    def check_model(self, plan: BuildPlan, snapshot: Path) -> None:
        """Refuse a snapshot whose graph cannot be made."""
        config = _read_config(snapshot)
        if plan.shape.options["route"] != "optimum-intel":
            _open(plan, config, snapshot)

    def check(self, plan: BuildPlan) -> None:
        """Look for nothing: the packages were looked for by ``availability``."""

    def build(
        self,
        plan: BuildPlan,
        snapshot: Path,
        engine_dir: Path,
        work_dir: Path,
        *,
        logs: Path | None = None,  # noqa: ARG002 - no message names a log
        hints: Path | None = None,  # noqa: ARG002 - no message names a log
    ) -> None:
        """Build the engine and compute one token with it."""
        config = _read_config(snapshot)
        if plan.shape.options["route"] == "optimum-intel":
            _export(plan, snapshot, engine_dir, work_dir)
        else:
            _convert(plan, config, snapshot, engine_dir)
        document = engine_config(plan, config, _versions())
        (engine_dir / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        _check_engine(engine_dir, work_dir)

    def inspect(self, engine_dir: Path) -> EngineInfo:
        """Read an engine directory and check that it is complete."""
        for name in _FILES:
            path = engine_dir / name
            if not path.is_file() or path.stat().st_size == 0:
                raise _incomplete(engine_dir, f"{name} is missing or empty")
        try:
            document = untrusted.read(engine_dir / "config.json", untrusted.CONFIG_LIMIT_BYTES)
            if document["schema"] != CONFIG_SCHEMA:
                raise _incomplete(engine_dir, f"config.json has schema {document['schema']}, expected {CONFIG_SCHEMA}")
            pretrained, limits = document["pretrained_config"], document["build_config"]
            return EngineInfo(
                backend=self.name,
                tp_size=int(pretrained["mapping"]["tp_size"]),
                pp_size=int(pretrained["mapping"]["pp_size"]),
                max_batch_size=int(limits["max_batch_size"]),
                max_input_len=int(limits["max_input_len"]),
                max_seq_len=int(limits["max_seq_len"]),
                max_num_tokens=int(limits["max_num_tokens"]),
                dtype=str(pretrained["dtype"]),
                vocab_size=int(pretrained["vocab_size"]),
                versions=dict(document["versions"]),
            )
        except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
            raise _incomplete(engine_dir, f"config.json cannot be read ({error!r})") from error

    def template(self, info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> EngineTemplate:
        """Return how the engine is served."""
        _check_parameters(spec)
        parameters: dict[str, str] = {
            "engine_dir": str(engine_dir),
            "max_batch_size": str(info.max_batch_size),
            "max_queue_size": str(spec.max_queue_size),
            "enable_kv_cache_reuse": "true" if spec.enable_kv_cache_reuse else "false",
            "enable_chunked_context": "true" if spec.enable_chunked_context else "false",
            "batch_scheduler_policy": spec.batch_scheduler_policy,
            **spec.template_parameter,
        }
        variables: dict[str, JsonValue] = {
            "max_batch_size": info.max_batch_size,
            "scalars": [list(pair) for pair in _SCALAR_INPUTS],
            "parameters": [list(pair) for pair in parameters.items()],
        }
        return EngineTemplate(directory=TEMPLATE, variables=variables)


def _check_parameters(spec: RepositorySpec) -> None:
    for name, value in spec.template_parameter.items():
        if name not in _TEMPLATE_PARAMETERS:
            known = "; ".join(f"{key}: {text}" for key, text in _TEMPLATE_PARAMETERS.items())
            raise SpecError(
                f"template_parameter: unknown parameter {name!r}{closest(name, tuple(_TEMPLATE_PARAMETERS))}",
                hint=f"the cpu engine model knows {known}",
            )
        if not value.isdecimal() or int(value) < 1:
            raise SpecError(
                f"template_parameter {name}: expected a whole number from 1, got {value!r}",
                hint=f"{name}: {_TEMPLATE_PARAMETERS[name]}",
            )


def engine_config(plan: BuildPlan, config: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """Return the engine's own config.json. Pure."""
    shape, info = plan.shape, plan.model.info
    options = shape.options
    return {
        "schema": CONFIG_SCHEMA,
        "backend": "cpu",
        "versions": dict(versions),
        "pretrained_config": {
            "architecture": info.architecture,
            "dtype": shape.dtype,
            "vocab_size": int(config["vocab_size"]),
            "hidden_size": info.hidden_size,
            "num_hidden_layers": info.layers,
            "num_attention_heads": info.heads,
            "num_key_value_heads": info.kv_heads,
            "head_size": info.head_dim,
            "max_position_embeddings": info.context_tokens,
            "quantization": {
                "quant_algo": None if shape.quantization == "none" else shape.quantization,
                "kv_cache_quant_algo": "int8" if shape.kv_cache_dtype == "int8" else None,
            },
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        },
        "build_config": {
            "max_batch_size": shape.max_batch_size,
            "max_beam_width": 1,
            "max_input_len": shape.max_input_len,
            "max_seq_len": shape.max_seq_len,
            "max_num_tokens": shape.max_num_tokens,
        },
        "runtime": {
            "kv_cache_tokens": options["kv_cache_tokens"],
            # Without a hint, OpenVINO computes in bfloat16 wherever the CPU can, and tokens differ from CPU to CPU.
            "properties": {
                "INFERENCE_PRECISION_HINT": _COMPUTE_HINTS[str(options["compute_type"])],
                "KV_CACHE_PRECISION": _KV_PRECISIONS[shape.kv_cache_dtype],
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": options["dynamic_quantization_group_size"],
            },
        },
    }


def _read_config(snapshot: Path) -> dict[str, Any]:
    try:
        config = untrusted.read(snapshot / "config.json", untrusted.CONFIG_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(
            f"config.json of the snapshot cannot be read: {error}", hint="remove the snapshot and run the command again"
        ) from error
    if not isinstance(config, dict):
        raise FetchError(
            "config.json of the snapshot is no JSON object", hint="name the directory of a text-generation model"
        )
    vocabulary = config.get("vocab_size")
    if type(vocabulary) is not int or not 0 < vocabulary <= untrusted.SIZE_LIMIT:
        raise FetchError(
            "config.json of the snapshot: vocab_size: expected a positive whole number, got "
            f"{untrusted.shown(vocabulary)}",
            hint="name the directory of a text-generation model",
        )
    return config


def _open(plan: BuildPlan, config: Mapping[str, Any], snapshot: Path) -> tuple[Decoder, Checkpoint]:
    """Return what to build and its weights, after building the graph from their shapes: moments, before the minutes."""
    decoder = read_decoder(config)
    if plan.shape.max_seq_len > decoder.context_tokens:
        raise ConvertError(
            f"max_seq_len={plan.shape.max_seq_len}: config.json limits the graph to {decoder.context_tokens} tokens "
            f"({decoder.context_reason})",
            hint=f"pass --max-seq-len {decoder.context_tokens}",
        )
    try:
        from trtbuild.backends.cpu.build import check_model
    except ImportError as error:
        raise BuildError(f"openvino cannot be imported: {error}", hint="pip install 'trtbuild[cpu]'") from error
    from trtbuild.backends.cpu.weights import open_checkpoint

    checkpoint = open_checkpoint(resolve_weights(snapshot, config).places)
    check_model(decoder, checkpoint)
    return decoder, checkpoint


def _convert(plan: BuildPlan, config: Mapping[str, Any], snapshot: Path, engine_dir: Path) -> None:
    """Write the OpenVINO model of a snapshot."""
    decoder, checkpoint = _open(plan, config, snapshot)
    from trtbuild.backends.cpu.build import build_model
    from trtbuild.backends.cpu.openvino import ov

    storage: Any = plan.shape.options["weights"]
    with log.get().progress(
        "convert", f"converting {plan.model.model_id}", total=decoder.layers + 1, unit="steps"
    ) as bar:
        built = build_model(decoder, checkpoint, storage, on_layer=lambda _: bar.advance(1))
        bar.note("writing")
        try:
            # Saved next to where it ends up; the store syncs and publishes.
            ov.save_model(built.model, engine_dir / "openvino_model.xml", compress_to_fp16=False)
        except (RuntimeError, OSError) as error:
            raise BuildError(
                f"openvino_model.xml cannot be written: {str(error).strip().splitlines()[-1]}",
                hint="see whether the disk is full: trtbuild doctor",
            ) from error
        bar.advance(1)


def _export(plan: BuildPlan, snapshot: Path, engine_dir: Path, work_dir: Path) -> None:
    """Let optimum-intel write the OpenVINO model, for architectures that are not built here."""
    output = work_dir / "optimum"
    command = Command(
        argv=(sys.executable, *optimum_arguments(plan.shape, str(snapshot), str(output))),
        env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    with log.get().progress("export", f"exporting {plan.model.model_id} with optimum-intel", unit="steps"):
        done = process.run(command, log_path=work_dir / "optimum.log")
    if done.exit_code != 0:
        raise ConvertError(
            f"optimum-intel failed with exit code {done.exit_code}",
            hint="the lines above are its own; it may not know this architecture, or memory ran out (exit code 137)",
            log_tail=done.tail,
        )
    for name in _FILES[1:]:
        if not (output / name).is_file():
            raise BuildError(
                f"optimum-intel wrote no {name}", hint="it may not know this architecture", log_tail=done.tail
            )
        shutil.move(output / name, engine_dir / name)


def _check_engine(engine_dir: Path, work_dir: Path) -> None:
    """Load the engine as the server will, in a process of its own, and compute a token."""
    # The worker finds what it shares with its model beside itself, as in a repository.
    templates, program = Path(__file__).resolve().parents[2] / "_templates", work_dir / "engine-process"
    shutil.copytree(templates / "_shared" / "trtbuild_engine", program / "trtbuild_engine")
    worker = Path(shutil.copy(templates / TEMPLATE / "1" / "engine_worker.py", program))
    command = Command(
        argv=(sys.executable, str(worker), "--check", str(engine_dir)), env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    done = process.run(command, log_path=work_dir / "check.log")
    if done.exit_code != 0:
        raise BuildError(
            f"the engine was written, but it cannot compute: exit code {done.exit_code}",
            hint="exit code 137 means that memory ran out: pass --quantization int8-weight-only or a smaller "
            "--kv-cache-tokens; anything else is a bug worth reporting with the lines above",
            log_tail=done.tail,
        )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"openvino": version("openvino"), "openvino_genai": version("openvino-genai")}


def _incomplete(engine_dir: Path, reason: str) -> BuildError:
    return BuildError(f"{engine_dir}: {reason}", hint="remove the entry (trtbuild store rm) and build it again")


BACKEND: Backend = CpuBackend()
