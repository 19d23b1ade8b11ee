"""The command lines of conversion, quantization and the engine build, as data. Pure.

It decides the arguments of TensorRT-LLM's own tools for a plan. Running them is ``tensorrt_llm``'s part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtbuild.catalog import Family, TrtLlmRelease, find_family, preset, trtllm
from trtbuild.plan import BuildPlan, EngineShape
from trtbuild.process import Command

CALIBRATION_SIZE = 512
CALIBRATION_SEED = 1234
AWQ_BLOCK_SIZE = 128
"""Upstream's defaults, said aloud because they are part of the engine's key. Source: quantize.py, parse arguments."""

# Conversion reads local files only: a tool that reaches for the hub would make the engine depend on more than its key.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where the tools are and what they read and write.

    Attributes:
        python: Interpreter that has tensorrt_llm.
        script: Conversion or quantization script.
        trtllm_build: The engine compiler.
        snapshot: Model files.
        checkpoint: Directory of the converted checkpoint.
        engine: Directory of the engine.
        timing_cache: Kernel timings, read and written.
        calibration: Directory of the calibration data, if any.
        work: Working directory of all commands; a clone of TensorRT-LLM there would shadow the installed package.
        logs: Where the logs of ``work`` are found when the build has failed.
    """

    python: Path
    script: Path
    trtllm_build: Path
    snapshot: Path
    checkpoint: Path
    engine: Path
    timing_cache: Path
    work: Path
    logs: Path
    calibration: Path | None = None


def release_of(plan: BuildPlan) -> TrtLlmRelease:
    """Return the tables of the release a plan was made for."""
    return trtllm(str(plan.shape.options["trtllm_version"]))


def family_of(plan: BuildPlan) -> Family:
    """Return how the plan's model is converted."""
    family = find_family(release_of(plan), plan.model.info.architecture)
    assert family is not None, "a plan is only made for models that can be converted"
    return family


def needs_quantizer(shape: EngineShape) -> bool:
    """Whether the checkpoint is made by the calibrating quantizer instead of the family's converter."""
    return preset(shape.quantization).is_calibrated or shape.kv_cache_dtype != "auto"


def convert_command(plan: BuildPlan, paths: Paths) -> Command:
    """Return the command of the family's convert_checkpoint.py."""
    family, shape = family_of(plan), plan.shape
    flags = family.flags
    argv = [
        str(paths.python), str(paths.script),
        *family.fixed,
        flags["model"], str(paths.snapshot),
        flags["output"], str(paths.checkpoint),
        flags["dtype"], shape.dtype,
        flags["tp"], str(shape.tp_size),
    ]  # fmt: skip
    if "pp" in flags:
        argv += [flags["pp"], str(shape.pp_size)]
    if "workers" in flags:
        argv += [flags["workers"], "1"]  # each worker holds a copy of a rank's weights; loading is the slow part
    if "cpu" in flags:
        argv.append(flags["cpu"])
    bits = preset(shape.quantization).bits
    if bits != 16:
        argv += family.weight_only[f"int{bits}"]
    return Command(argv=tuple(argv), env=OFFLINE, cwd=paths.work)


def quantize_command(plan: BuildPlan, paths: Paths) -> Command:
    """Return the command of quantize.py, which calibrates on ``paths.calibration`` and writes a checkpoint."""
    shape, flags = plan.shape, release_of(plan).quantize.flags
    chosen = preset(shape.quantization)
    argv = [
        str(paths.python), str(paths.script),
        flags["model"], str(paths.snapshot),
        flags["output"], str(paths.checkpoint),
        flags["dtype"], shape.dtype,
        flags["qformat"], chosen.qformat,
        flags["tp"], str(shape.tp_size),
        flags["pp"], str(shape.pp_size),
        flags["calib_size"], str(CALIBRATION_SIZE),
        flags["seed"], str(CALIBRATION_SEED),
    ]  # fmt: skip
    if shape.kv_cache_dtype != "auto":
        argv += [flags["kv_cache_dtype"], shape.kv_cache_dtype]
    if chosen.name in {"int4-awq", "w4a8-awq"}:
        argv += [flags["awq_block_size"], str(AWQ_BLOCK_SIZE)]
    if paths.calibration is not None:
        argv += [flags["calib_dataset"], str(paths.calibration)]
    return Command(argv=tuple(argv), env=OFFLINE, cwd=paths.work)


def calibration_command(python: Path, dataset: str, commit: str, target: Path) -> Command:
    """Return the command that downloads one commit of a dataset; the token, if any, is in the environment.

    Source: ``hf download --help``.
    """
    argv = (
        str(python), "-m", "huggingface_hub.cli.hf", "download", dataset,
        "--repo-type", "dataset", "--revision", commit, "--local-dir", str(target),
    )  # fmt: skip
    return Command(argv=argv, cwd=target.parent)


def build_command(plan: BuildPlan, paths: Paths) -> Command:
    """Return the command of ``trtllm-build``: every limit explicit, because its defaults moved between releases."""
    shape = plan.shape
    argv = [
        str(paths.trtllm_build),
        "--checkpoint_dir", str(paths.checkpoint),
        "--output_dir", str(paths.engine),
        "--max_batch_size", str(shape.max_batch_size),
        "--max_input_len", str(shape.max_input_len),
        "--max_seq_len", str(shape.max_seq_len),
        "--max_num_tokens", str(shape.max_num_tokens),
        "--workers", str(shape.options["workers"]),
        "--input_timing_cache", str(paths.timing_cache),
        "--output_timing_cache", str(paths.timing_cache),
    ]  # fmt: skip
    said = shape.options["build"]
    assert isinstance(said, dict)
    options = release_of(plan).build_options
    for name, value in said.items():
        kind = options[name].kind
        argv.append(f"--{name}")
        if kind == "list":
            argv += str(value).split()
        elif kind != "flag":
            argv.append(str(value))
    return Command(argv=tuple(argv), cwd=paths.work)


def checkpoint_scripts(plan: BuildPlan) -> tuple[str, ...]:
    """Return the paths below the examples directory where the script of the plan's first step may be."""
    return (release_of(plan).quantize.script,) if needs_quantizer(plan.shape) else family_of(plan).scripts


def checkpoint_command(plan: BuildPlan, paths: Paths) -> Command:
    """Return the command that makes the checkpoint, by whichever tool it takes."""
    return quantize_command(plan, paths) if needs_quantizer(plan.shape) else convert_command(plan, paths)


def steps(plan: BuildPlan) -> tuple[str, ...]:
    """Return what will be run, with names in capitals for the paths that are not known yet."""
    script = checkpoint_scripts(plan)[0]
    paths = Paths(
        python=Path("python3"),
        script=Path(str(plan.shape.options["examples_dir"]), script),
        trtllm_build=Path("trtllm-build"),
        snapshot=Path("SNAPSHOT"),
        checkpoint=Path("CHECKPOINT"),
        engine=Path("ENGINE"),
        timing_cache=Path("TIMING_CACHE"),
        work=Path("WORK"),
        logs=Path("WORK"),
        calibration=Path("CALIBRATION") if needs_quantizer(plan.shape) else None,
    )
    return (checkpoint_command(plan, paths).shell(), build_command(plan, paths).shell())
