"""TensorRT-LLM engines: converted and compiled with the tools of NVIDIA's image, served by Triton's C++ backend.

It runs the tools, follows their output and turns their failures into words. What is run is decided by
``plan`` and ``commands``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from trtbuild import process, untrusted
from trtbuild.backends.gpu import READS
from trtbuild.backends.tensorrt_llm import commands
from trtbuild.backends.tensorrt_llm.engine import (
    check_checkpoint,
    checkpoint_cache_dtype,
    inspect_engine,
    read_config,
)
from trtbuild.backends.tensorrt_llm.options import backend_parameters
from trtbuild.backends.tensorrt_llm.plan import make_plan
from trtbuild.backends.tensorrt_llm.shape import split_calibration
from trtbuild.backends.tensorrt_llm.target import find_target
from trtbuild.backends.tensorrt_llm.timing import kept_timings
from trtbuild.backends.tensorrt_llm.windows import read_windows, write_windows
from trtbuild.catalog import GpuArchitecture, TensorInfo, TrtLlmRelease, diagnose, safe_image_since, trtllm
from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.errors import BuildError, ConvertError, FetchError, HostError, SpecError
from trtbuild.plan import Availability, Backend, BuildPlan, EngineInfo, EngineTemplate, ResolvedModel, feasibility
from trtbuild.plan.memory import kv_fraction
from trtbuild.process import Command, Completed
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, RepositorySpec

TEMPLATE = "tensorrt_llm/tensorrtllm"
TIMING_CACHE = "timing.cache"
"""Name of the kernel timings in the work directory: used when it is there, written by every build.

A cache belongs to one GPU product and one TensorRT version, like the engines whose builds it speeds up.
"""

# What trtllm-build prints for each rank. Source: tensorrt_llm/builder.py and commands/build.py.
_RANK_DONE = re.compile(r"Serializing engine to \S*rank(?P<rank>\d+)\.engine")

_TRITON_TYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}

Runner = Callable[..., Completed]


@dataclass(frozen=True, kw_only=True)
class TensorRtLlmBackend:
    """See :class:`trtbuild.plan.Backend`.

    Attributes:
        run: Runs a command; :func:`trtbuild.process.run` but for tests.
        python: Interpreter that has tensorrt_llm; this one has the hub's client.
        examples_dir: Directory of upstream's scripts; None for where the image keeps them.
    """

    run: Runner = process.run
    python: Path = field(default_factory=lambda: process.interpreter_with("tensorrt_llm"))
    examples_dir: Path | None = None
    name: str = "tensorrt_llm"
    reads: frozenset[str] = READS | {"orchestrator"}

    def availability(self, host: HostInfo) -> Availability:
        """Say whether engines can be built and served here."""
        try:
            target = find_target(host, world_size=1)
        except HostError as error:
            return Availability(is_available=False, reason=f"{error.message}; {error.hint}")
        reason = f"TensorRT-LLM {target.release.installed} on {target.gpus} x {target.product}"
        if target.architecture is not None:
            problem = feasibility.release_problem(target.release, target.architecture, target.product)
            if problem is not None:
                return Availability(is_available=False, reason=f"{problem.reason}; {problem.remedy}")
            reason += f": {_abilities(target.architecture)}"
        return Availability(is_available=True, reason=reason)

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice; see :func:`plan.make_plan`."""
        return make_plan(spec, model, host)

    def check_serving(self, plan: BuildPlan, spec: RepositorySpec) -> None:
        """Refuse illegal template parameters."""
        kv_fraction(spec.kv_cache_free_gpu_mem_fraction)
        backend_parameters(commands.release_of(plan), {}, spec.template_parameter)

    def check_model(self, plan: BuildPlan, snapshot: Path) -> None:
        """Refuse models that ship Python, which the conversion scripts would run without asking."""
        _refuse_remote_code(plan, snapshot)

    def check(self, plan: BuildPlan) -> None:
        """Refuse to build without the conversion script or the calibration data."""
        self._find_script(plan)
        _local_calibration(plan)

    def build(
        self,
        plan: BuildPlan,
        snapshot: Path,
        engine_dir: Path,
        work_dir: Path,
        *,
        logs: Path | None = None,
        hints: Path | None = None,
    ) -> None:
        """Convert or quantize the snapshot, then compile it."""
        _refuse_remote_code(plan, snapshot)
        work_dir.mkdir(parents=True, exist_ok=True)
        script = self._find_script(plan)
        paths = commands.Paths(
            python=self.python,
            script=script,
            trtllm_build=Path(str(plan.shape.options["trtllm_build"])),
            snapshot=snapshot,
            checkpoint=work_dir / "checkpoint",
            engine=engine_dir,
            timing_cache=work_dir / TIMING_CACHE,
            work=work_dir,
            logs=logs or work_dir,
            calibration=self._calibration(plan, work_dir, logs or work_dir),
        )
        with kept_timings(plan, paths.timing_cache, hints):
            self._make_checkpoint(plan, paths)
            self._compile(plan, paths)

    def inspect(self, engine_dir: Path) -> EngineInfo:
        """Read an engine directory and check that every rank is there."""
        return inspect_engine(engine_dir)

    def template(self, info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> EngineTemplate:
        """Return how the engine is served by the C++ backend of the version that built it."""
        return EngineTemplate(directory=TEMPLATE, variables=_template_variables(info, engine_dir, spec))

    def _find_script(self, plan: BuildPlan) -> Path:
        root = self.examples_dir or Path(str(plan.shape.options["examples_dir"]))
        tried = [root / script for script in commands.checkpoint_scripts(plan)]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise HostError(
                f"the conversion script is not there: tried {', '.join(map(str, tried))}",
                hint=f"run inside {safe_image_since(commands.release_of(plan).version)[1]}, which ships them, or set "
                "TRTBUILD_TRTLLM_EXAMPLES to the examples directory of that version's source",
            )
        return found

    def _calibration(self, plan: BuildPlan, work_dir: Path, logs: Path) -> Path | None:
        """Return the directory of the calibration data; a dataset is downloaded at its commit."""
        if not commands.needs_quantizer(plan.shape):
            return None
        if (directory := _local_calibration(plan)) is not None:
            return directory
        name, pin = split_calibration(str(plan.shape.options["calibration"]))
        # quantize.py knows the columns of cnn_dailymail by the directory's name, so the name is kept.
        target = work_dir / "calibration" / name.rsplit("/", 1)[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        command = commands.calibration_command(Path(sys.executable), name, pin, target)
        with log.get().progress("calibration", f"downloading {name} at {pin[:12]}", unit="steps"):
            done = self._run(command, work_dir / "calibration.log", kept=logs)
        if done.exit_code != 0:
            raise ConvertError(
                f"the calibration data {name} at {pin[:12]} could not be downloaded (exit code {done.exit_code})",
                hint="check the name and commit, or pass --calibration with a local directory",
                log_tail=done.tail,
            )
        return target

    def _make_checkpoint(self, plan: BuildPlan, paths: commands.Paths) -> None:
        world_size = plan.shape.world_size
        what = "quantizing" if commands.needs_quantizer(plan.shape) else "converting"
        command = commands.checkpoint_command(plan, paths)
        log.get().debug("command", command.shell())
        with log.get().progress("convert", f"{what} {plan.model.model_id} for {world_size} ranks", unit="steps"):
            done = self._run(command, paths.work / "convert.log", kept=paths.logs)
        if done.exit_code != 0:
            raise _failure(ConvertError, f"{paths.script.name} failed", done, plan)
        wrong = check_checkpoint(paths.checkpoint, world_size)
        if wrong:
            raise ConvertError(
                f"{paths.script.name} ended well, but the checkpoint is incomplete: {wrong}{_kept(done)}",
                hint="look at the log for a rank that gave up; less memory than needed is the usual reason",
                log_tail=done.tail,
            )
        cache = checkpoint_cache_dtype(paths.checkpoint)
        if cache != plan.shape.kv_cache_dtype:
            raise ConvertError(
                f"{paths.script.name} made a checkpoint whose key/value cache is {cache}, expected "
                f"{plan.shape.kv_cache_dtype}{_kept(done)}",
                hint=f"pass --kv-cache-dtype {cache} to build it like that",
                log_tail=done.tail,
            )

    def _compile(self, plan: BuildPlan, paths: commands.Paths) -> None:
        world_size = plan.shape.world_size
        command = commands.build_command(plan, paths)
        log.get().debug("command", command.shell())
        message = f"building {plan.key.short} for {plan.sku}"
        with log.get().progress("build", message, total=world_size, unit="steps") as bar:

            def follow(line: str) -> None:
                if rank := _RANK_DONE.search(line):
                    bar.note(f"rank {rank['rank']} built")
                    bar.advance(1)

            done = self._run(command, paths.work / "build.log", kept=paths.logs, on_line=follow)
        if done.exit_code != 0:
            raise _failure(BuildError, "trtllm-build failed", done, plan)
        try:
            info = inspect_engine(paths.engine)
        except BuildError as error:
            raise BuildError(
                f"trtllm-build ended well, but the engine is incomplete: {error.message}{_kept(done)}",
                hint="look at the log for a rank that gave up; less memory than needed is the usual reason",
                log_tail=done.tail,
            ) from None
        if windows := plan.shape.options.get("attention_windows"):
            write_windows(paths.engine, cast("list[int]", windows))
        if (info.tp_size, info.pp_size) != (plan.shape.tp_size, plan.shape.pp_size):
            raise BuildError(
                f"trtllm-build made an engine of tp {info.tp_size} x pp {info.pp_size}, "
                f"expected tp {plan.shape.tp_size} x pp {plan.shape.pp_size}",
                hint="this is a bug in trtbuild or in the conversion script; please report it with the log",
                log_tail=done.tail,
            )

    def _run(
        self, command: Command, log_path: Path, *, kept: Path, on_line: Callable[[str], None] | None = None
    ) -> Completed:
        """Run a tool; what it returns names the log where it is kept when the build fails."""
        try:
            return replace(self.run(command, log_path=log_path, on_line=on_line), log_path=kept / log_path.name)
        except OSError as error:
            raise HostError(
                f"{command.argv[0]} cannot be started: {error.strerror or error}",
                hint="run inside NVIDIA's image; trtbuild doctor shows which tools are there",
            ) from None


def _abilities(architecture: GpuArchitecture) -> str:
    """Return what GPUs of an architecture compute, for people: the types and presets that a plan may ask for."""
    return (
        f"{' '.join(architecture.dtypes)}; quantization {' '.join(architecture.quantizations) or 'none'}; "
        f"key/value cache {' '.join(('auto', *architecture.kv_cache_dtypes))}"
    )


def _kept(done: Completed) -> str:
    """Return where the whole log of a tool is, for the end of a message."""
    return f" (whole log: {done.log_path})" if done.log_path else ""


def _local_calibration(plan: BuildPlan) -> Path | None:
    """Return the directory of local calibration data; None when there is none or it is a dataset of the hub.

    Raises:
        SpecError: It is not there.
    """
    name, pin = split_calibration(str(plan.shape.options.get("calibration", "")))
    if not name or (pin and not pin.startswith("tree-")):
        return None
    directory = Path(name).expanduser().resolve()
    if not directory.is_dir():
        raise SpecError(
            f"the calibration data {directory} is not a directory",
            hint="expected a dataset directory with a train split that has a text column",
        )
    return directory


def _failure(
    kind: type[BuildError] | type[ConvertError], what: str, done: Completed, plan: BuildPlan
) -> BuildError | ConvertError:
    """Return the error for a tool that failed: a known complaint in our words, or its own last lines."""
    needs = f"about {format_bytes(plan.budget.host_memory_bytes)}"
    found = diagnose(done.exit_code, done.tail, needs=needs)
    kept = _kept(done)
    if found is None:
        return kind(
            f"{what} with exit code {done.exit_code}{kept}",
            hint="the last lines above are the tool's own words; trtbuild plan shows the command",
            log_tail=done.tail,
        )
    return kind(f"{what}: {found.message}{kept}", hint=found.hint, log_tail=done.tail)


def _refuse_remote_code(plan: BuildPlan, snapshot: Path) -> None:
    """Refuse models that ship Python, which the conversion scripts would run without asking."""
    if plan.shape.options.get("trust_remote_code"):
        return
    shipped = sorted(path.name for path in snapshot.glob("*.py"))
    if not shipped:
        return
    try:
        config = untrusted.read(snapshot / "config.json", untrusted.CONFIG_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(f"{snapshot}/config.json cannot be read: {error}", hint="download the model again") from None
    if isinstance(config, dict) and config.get("auto_map"):
        raise ConvertError(
            f"{plan.model.model_id} ships Python code that conversion would run: {', '.join(shipped)}",
            hint="read it, then pass --trust-remote-code",
        )


def _template_variables(info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> dict[str, JsonValue]:
    version = info.versions.get("tensorrt_llm", "")
    release = trtllm(version)
    config = read_config(engine_dir)
    pretrained, build = config["pretrained_config"], config["build_config"]
    fraction = kv_fraction(spec.kv_cache_free_gpu_mem_fraction)
    windows = read_windows(engine_dir)
    ours = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": str(engine_dir),
        "tokenizer_dir": str(engine_dir / "tokenizer"),
        "max_beam_width": str(build.get("max_beam_width", 1)),
        "kv_cache_free_gpu_mem_fraction": f"{fraction:g}",
        "batch_scheduler_policy": spec.batch_scheduler_policy,
        "exclude_input_in_output": "true",
        **_reuse(spec, build, has_windows=bool(windows)),
    }
    if windows and "max_attention_window_size" not in spec.template_parameter:
        ours["max_attention_window_size"] = ",".join(map(str, windows))
    types = {
        "logits_datatype": _triton_type("logits_dtype", pretrained.get("logits_dtype") or "float32"),
        "encoder_input_features_data_type": "FP16",
        "prompt_embedding_table_data_type": _embedding_type(release, info.dtype),
    }
    parameters = backend_parameters(release, ours, spec.template_parameter)
    names: dict[str, JsonValue] = {**release.tensor_names}
    return {
        "trtllm_version": version,
        "max_batch_size": info.max_batch_size,
        "max_queue_size": spec.max_queue_size,
        "inputs": [_tensor(tensor, types) for tensor in release.engine_inputs],
        "outputs": [_tensor(tensor, types) for tensor in release.engine_outputs],
        "parameters": [[name, value] for name, value in parameters.items()],
        "tensor_names": names,
    }


def _embedding_type(release: TrtLlmRelease, dtype: str) -> str:
    """Return the type of prompt_embedding_table: fixed in the templates before it became a placeholder.

    Source: tensorrt_llm/config.pbtxt of tensorrtllm_backend v0.17.0 to v0.19.0 and of 0.20.0 (a451bf93): TYPE_FP16.
    """
    is_ours = "prompt_embedding_table_data_type" in release.template_placeholders["tensorrt_llm"]
    return _triton_type("dtype", dtype) if is_ours else "FP16"


def _triton_type(name: str, dtype: object) -> str:
    found = _TRITON_TYPES.get(dtype) if isinstance(dtype, str) else None
    if found is None:
        raise BuildError(
            f"config.json of the engine: {name}: expected one of {', '.join(_TRITON_TYPES)}, "
            f"got {untrusted.shown(dtype)}",
            hint="remove the entry (trtbuild store rm) and build it again",
        )
    return found


def _reuse(spec: RepositorySpec, build: dict[str, JsonValue], *, has_windows: bool) -> dict[str, str]:
    """Return the parameters that need paged context attention; off, with a warning, where the engine lacks it.

    Beside windows of several lengths, too: with 1.2.0 the first reused block ends the engine (issue 13123 of
    NVIDIA/TensorRT-LLM), and that prompts in pieces work is written nowhere.
    """
    plugins = build.get("plugin_config")
    is_paged = not isinstance(plugins, dict) or bool(plugins.get("use_paged_context_fmha", True))
    wanted = {
        "enable_kv_cache_reuse": spec.enable_kv_cache_reuse,
        "enable_chunked_context": spec.enable_chunked_context,
    }
    is_possible = is_paged and not has_windows
    off = [name for name, is_wanted in wanted.items() if is_wanted and not is_possible]
    if off:
        why = "its layers keep attention windows" if is_paged else "it was built with use_paged_context_fmha=disable"
        log.get().warning("no_paged_context", f"{' and '.join(off)} stay off for this engine: {why}")
    return {name: "true" if is_wanted and is_possible else "false" for name, is_wanted in wanted.items()}


def _tensor(tensor: TensorInfo, types: dict[str, str]) -> dict[str, JsonValue]:
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{tensor.data_type.format(**types)}",
        "dims": list(tensor.dims),
        "is_scalar": tensor.is_scalar,
        "is_ragged": tensor.is_ragged,
        "is_optional": not tensor.is_required,
    }


BACKEND: Backend = TensorRtLlmBackend()
