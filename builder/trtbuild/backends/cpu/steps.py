"""What a build runs, one line each, and the command of optimum-intel. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.plan import EngineShape, ResolvedModel

_OPTIMUM_FORMATS: Mapping[str, str] = {
    "float32": "fp32",
    "bfloat16": "fp32",
    "float16": "fp16",
    "int8": "int8",
    "int4": "int4",
}


def build_steps(model: ResolvedModel, shape: EngineShape) -> tuple[str, ...]:
    """Return what a build will do, in words."""
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
