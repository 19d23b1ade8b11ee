"""Every open choice of an engine: types, limits, options of the compiler, calibration. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from trtbuild.backends.gpu import choose_limits
from trtbuild.backends.tensorrt_llm import commands
from trtbuild.backends.tensorrt_llm.options import check_build_options, chosen_build_options
from trtbuild.backends.tensorrt_llm.target import Target
from trtbuild.backends.tensorrt_llm.windows import attention_windows, windowless_length
from trtbuild.catalog import EXAMPLES_DIR, ModelInfo
from trtbuild.errors import SpecError
from trtbuild.plan import EngineShape, memory
from trtbuild.spec import EngineSpec, HostInfo, JsonValue

_PINNED = re.compile(r"^(?P<name>.+)@(?P<pin>[0-9a-f]{40}|tree-[0-9a-f]{64})$")


def compiler_options(shape: EngineShape) -> dict[str, JsonValue]:
    """Return the options for trtllm-build that the plan or the user chose."""
    chosen = shape.options["build"]
    assert isinstance(chosen, dict)
    return chosen


def choose_shape(
    spec: EngineSpec, model: ModelInfo, layout: memory.Layout, target: Target, host: HostInfo
) -> EngineShape:
    """Return every choice made, or refuse what contradicts itself."""
    if (length := windowless_length(spec, model)) is not None:
        spec = replace(spec, max_seq_len=length)
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
    if target.gpu.compute_capability in target.release.fp8_attention_later:
        chosen["use_fp8_context_fmha"] = "disable"
    if given.get("context_fmha") == "disable":
        chosen["use_paged_context_fmha"] = "disable"
    if (given.get("use_paged_context_fmha"), chosen["use_paged_context_fmha"]) == ("enable", "disable"):
        raise SpecError(
            f"build_option use_paged_context_fmha=enable: no kernels for --dtype {shape.dtype} with "
            f"--kv-cache-dtype {shape.kv_cache_dtype} and --quantization {shape.quantization}"
            + (" and context_fmha=disable" if given.get("context_fmha") == "disable" else ""),
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
    if windows := attention_windows(model, seq):
        options["attention_windows"] = list(windows)
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
