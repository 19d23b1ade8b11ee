"""Options of ``trtllm-build`` and of the C++ backend's configuration: checked against the release's table. Pure.

It decides which values users may give and which ones trtbuild chooses itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.catalog import (
    BackendParameter,
    BuildOption,
    TrtLlmRelease,
    retired_build_options,
    trtllm,
    trtllm_versions,
)
from trtbuild.errors import SpecError
from trtbuild.plan import EngineShape
from trtbuild.spec import closest

_TRUE = frozenset({"true", "enable", "on", "yes", "1"})
_FALSE = frozenset({"false", "disable", "off", "no", "0"})

# Matrix multiplications in fp8 bring their own kernels, those in nvfp4 are the plugin's.
# Source: TensorRT-LLM docs, performance best practices, "GEMM Plugin"; tensorrt_llm/builder.py, use_fp4_gemm.
_GEMM_PLUGINS = {"fp8": "disable", "nvfp4": "nvfp4"}

# Paged context attention has no kernels for an int8 cache, and for an fp8 cache only in models that compute in fp8.
# Source: tensorrt_llm/builder.py, build(): older releases end there, newer ones turn it off with a warning. With W4A8
# AWQ the builder of 0.17 ends too, and where a later one builds it, no kernels are found (issues 2810 and 9253).
_FP8_ATTENTION = frozenset({"fp8", "nvfp4"})


def check_build_options(given: Mapping[str, str], release: TrtLlmRelease) -> dict[str, str]:
    """Return a user's build options by their table names, values as ``trtllm-build`` writes them.

    A flag's value becomes ``true`` or is left out.

    Raises:
        SpecError: Unknown name, illegal value, or an option that trtbuild sets itself.
    """
    checked: dict[str, str] = {}
    for spelled, value in given.items():
        name = spelled.removeprefix("--").replace("-", "_")
        option = release.build_options.get(name)
        if option is None:
            raise _unknown(name, release)
        if option.is_ours:
            note = option.note or "trtbuild sets it"
            raise SpecError(f"build_option {name}: not accepted: {note}", hint="drop this --build-option")
        text = _legal(f"build_option {name}", value, option)
        if text is not None and (reason := option.refused.get(text) or option.refused.get("*")):
            raise SpecError(f"build_option {name}={text}: not accepted: {reason}", hint="drop this --build-option")
        if text is not None:
            checked[option.name] = text
    return dict(sorted(checked.items()))


def _unknown(name: str, release: TrtLlmRelease) -> SpecError:
    retired = retired_build_options()
    if name in retired:
        return SpecError(
            f"build_option {name}: not an option of trtllm-build {release.installed} any more", hint=retired[name]
        )
    elsewhere = [version for version in trtllm_versions() if name in trtllm(version).build_options]
    if elsewhere:
        return SpecError(
            f"build_option {name}: not an option of trtllm-build {release.installed}; "
            f"releases {elsewhere[0]} to {elsewhere[-1]} have it",
            hint="drop it, or use an image with one of those releases",
        )
    usable = tuple(known for known, option in release.build_options.items() if not option.is_ours)
    return SpecError(
        f"build_option {name}: unknown to trtllm-build {release.installed}{closest(name, usable)}",
        hint=f"it knows {', '.join(sorted(usable))}",
    )


def _legal(what: str, value: str, option: BuildOption | BackendParameter) -> str | None:
    """Return a value as the tool writes it; None for a flag that is off."""
    lowered = value.strip().lower()
    if option.kind in {"flag", "bool", "switch"}:
        if lowered not in _TRUE | _FALSE:
            expected = "enable or disable" if option.kind == "switch" else "true or false"
            raise SpecError(f"{what}: expected {expected}, got {value!r}", hint="write it as NAME=VALUE")
        is_on = lowered in _TRUE
        if option.kind == "switch":
            return "enable" if is_on else "disable"
        return "true" if is_on else None if option.kind == "flag" else "false"
    if option.kind == "choice" and value not in option.choices:
        raise SpecError(
            f"{what}: expected one of {', '.join(c or 'nothing' for c in option.choices)}, got {value!r}"
            f"{closest(value, option.choices)}",
            hint="write it as NAME=VALUE",
        )
    if option.kind == "ints":
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
            raise SpecError(
                f"{what}: expected whole numbers above 0, one or several with commas, got {value!r}",
                hint="write it as NAME=4096 or NAME=4096,8192",
            )
        return ",".join(parts)
    if option.kind in {"int", "float"}:
        try:
            int(value) if option.kind == "int" else float(value)
        except ValueError:
            number = "a whole number" if option.kind == "int" else "a number"
            raise SpecError(f"{what}: expected {number}, got {value!r}", hint="write it as NAME=VALUE") from None
    return value.strip()


def chosen_build_options(shape: EngineShape) -> dict[str, str]:
    """Return the options trtbuild chooses when the user does not.

    Plugins carry the type by name, so that a release whose ``auto`` means something else cannot change it; paged
    context attention is what cache reuse and chunked context need at run time. Fused attention has kernels for 16 bits
    only. Source: cpp/tensorrt_llm/common/attentionOp.cpp falls back to unfused attention for float32.
    """
    fused = "disable" if shape.dtype == "float32" else "enable"
    is_paged = shape.kv_cache_dtype == "auto" or (
        shape.kv_cache_dtype == "fp8" and shape.quantization in _FP8_ATTENTION
    )
    return {
        "gpt_attention_plugin": shape.dtype,
        "gemm_plugin": _GEMM_PLUGINS.get(shape.quantization, shape.dtype),
        "kv_cache_type": "paged",
        "remove_input_padding": "enable",
        "context_fmha": fused,
        "use_paged_context_fmha": fused if is_paged else "disable",
        "max_beam_width": "1",
    }


def resolved_build_options(release: TrtLlmRelease, said: Mapping[str, str]) -> dict[str, str]:
    """Return every option that changes an engine's bytes, upstream's defaults included, for the engine's key."""
    defaults = {
        option.name: option.default
        for option in release.build_options.values()
        if option.default is not None and not option.is_ours
    }
    return dict(sorted({**defaults, **said}.items()))


def backend_parameters(release: TrtLlmRelease, ours: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the C++ backend's config.pbtxt: ours, the user's, and those it does not start without.

    Every other one is left out, even where its default is known: to some, a value that is given means more than the
    same value by default (``cross_kv_cache_fraction`` ends the start of a decoder-only engine).

    Raises:
        SpecError: A given one is unknown, illegal, refused, or set by an option of trtbuild's own.
    """
    checked: dict[str, str] = {}
    for name, value in given.items():
        parameter = release.backend_parameters.get(name)
        usable = tuple(k for k, p in release.backend_parameters.items() if not p.is_ours and not p.refused)
        if parameter is None:
            raise SpecError(
                f"template_parameter {name}: unknown to the backend of TensorRT-LLM {release.installed}"
                f"{closest(name, usable)}",
                hint=f"it knows {', '.join(sorted(usable))}",
            )
        if parameter.refused:
            raise SpecError(
                f"template_parameter {name}: not accepted: {parameter.refused}", hint="drop this --template-parameter"
            )
        if parameter.is_ours:
            raise SpecError(
                f"template_parameter {name}: trtbuild sets it from its own options",
                hint=f"see trtbuild --help for {name.replace('_', '-')}, or drop it",
            )
        text = _legal(f"template_parameter {name}", value, parameter)
        checked[name] = "" if text is None else text
    values: dict[str, str] = {}
    for name, parameter in release.backend_parameters.items():
        if name in ours or name in checked:
            values[name] = ours.get(name, checked.get(name, ""))
        elif parameter.is_required:
            values[name] = parameter.default or ""
    return values
