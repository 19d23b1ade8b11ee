"""TensorRT-LLM releases: which options, scripts and template parameters each one has.

It decides which release's facts apply to an installed version. It builds no command lines: the backend does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from trtbuild.catalog.loading import load
from trtbuild.catalog.release import (
    BackendParameter,
    BuildOption,
    Family,
    Preset,
    QuantizeTool,
    TensorInfo,
    TrtLlmRelease,
    UnreadKey,
    image_name,
)
from trtbuild.catalog.versions import applies, minor, parse_version
from trtbuild.errors import HostError

EXAMPLES_DIR = "/app/examples"
"""Where the images keep upstream's scripts.

Source: tensorrtllm_backend dockerfile/Dockerfile.triton.trt_llm_backend, which copies examples there since v0.17.0.
"""


def trtllm_versions() -> tuple[str, ...]:
    """Return the supported releases, oldest first."""
    return tuple(entry["version"] for entry in load("trtllm")["releases"])


def trtllm_releases() -> tuple[TrtLlmRelease, ...]:
    """Return the tables of every supported release, oldest first."""
    return tuple(trtllm(version) for version in trtllm_versions())


@cache
def trtllm(version: str) -> TrtLlmRelease:
    """Return the facts that apply to an installed TensorRT-LLM version.

    An unlisted patch release takes the tables of the nearest listed one of its minor line, lower ones first.

    Raises:
        HostError: The version is too old, a pre-release, without ``trtllm-build``, or not a version.
    """
    try:
        key = parse_version(version)
    except ValueError as error:
        raise HostError(f"TensorRT-LLM version: {error}", hint=_use_an_image()) from None
    entries = load("trtllm")["releases"]
    line = [entry for entry in entries if minor(entry["version"]) == minor(version)]
    if not line:
        raise _refusal(version)
    lower = [entry for entry in line if parse_version(entry["version"]) <= key]
    return _release(lower[-1] if lower else line[0], installed=version)


def _refusal(version: str) -> HostError:
    data = load("trtllm")
    refused = [e for e in data["refused"] if minor(e["version"]) == minor(version)]
    oldest, newest = trtllm_versions()[0], trtllm_versions()[-1]
    if refused:
        images = ", ".join(image_name(t) for e in refused for t in e["triton"])
        return HostError(
            f"TensorRT-LLM {version} (as in {images}) is too old: supported are {oldest} to {newest}",
            hint=_use_an_image(),
        )
    last = image_name(data["last_engine_triton"])
    if parse_version(newest) < parse_version(version) <= parse_version(data["last_engine_version"]):
        return HostError(
            f"TensorRT-LLM {version} is a pre-release whose options are in no table: "
            f"supported are {oldest} to {newest}",
            hint=f"use {last}, or --backend llmapi with this one, where it loads the model",
        )
    if parse_version(version) > parse_version(newest):
        return HostError(
            f"TensorRT-LLM {version} cannot build engines: trtllm-build was removed after {data['last_engine_version']}"
            f", and supported are {oldest} to {newest}",
            hint=f"use {last}, the last image with engines, or --backend llmapi where this one loads the model",
        )
    return HostError(f"TensorRT-LLM {version} is too old: supported are {oldest} to {newest}", hint=_use_an_image())


def _use_an_image() -> str:
    # Not from the first supported one on: what is recommended has no known hole.
    from trtbuild.catalog.advisories import first_safe_image

    last = image_name(load("trtllm")["releases"][-1]["triton"][-1])
    return f"run in one of the images {first_safe_image()} to {last}"


def _release(entry: Mapping[str, Any], *, installed: str) -> TrtLlmRelease:
    data = load("trtllm")
    version = entry["version"]
    names = {item["new"]: item["new"] if applies(item, version) else item["old"] for item in data["tensor_renames"]}
    return TrtLlmRelease(
        version=version,
        installed=installed,
        triton=tuple(entry["triton"]),
        tensorrt=entry["tensorrt"],
        cuda=entry["cuda"],
        python=entry["python"],
        has_llmapi=entry["llmapi"],
        has_uneven_stages=applies(data["uneven_stages"], version),
        fp8_attention_later={
            capability: since
            for capability, since in data["fp8_attention"].items()
            if not applies({"since": since}, version)
        },
        build_options=_build_options(version),
        families=_families(version),
        quantize=_quantize_tool(),
        template_placeholders={
            model: tuple(item["name"] for item in items if applies(item, version))
            for model, items in data["template_placeholders"].items()
        },
        backend_parameters=_backend_parameters(version),
        tensor_names=names,
        engine_inputs=_tensors(data["engine_inputs"], version, names),
        engine_outputs=_tensors(data["engine_outputs"], version, names),
    )


def _backend_parameters(version: str) -> dict[str, BackendParameter]:
    return {
        name: BackendParameter(
            name=name,
            kind=item["kind"],
            choices=tuple(item.get("choices", ())),
            default=_default(item, version),
            is_required=item.get("required", False),
            is_ours=item.get("ours", False),
            refused=item.get("refused", ""),
        )
        for name, item in load("trtllm")["backend_parameters"].items()
        if applies(item, version)
    }


def _tensors(rows: Sequence[Sequence[Any]], version: str, names: Mapping[str, str]) -> tuple[TensorInfo, ...]:
    found = []
    for name, data_type, dims, *rest in rows:
        how = set(rest[0].split()) if rest else set()
        if len(rest) < 2 or applies(rest[1], version):
            found.append(
                TensorInfo(
                    name=names.get(name, name),
                    data_type=data_type,
                    dims=tuple(dims),
                    is_scalar="scalar" in how,
                    is_ragged="ragged" in how,
                    is_required="required" in how,
                )
            )
    return tuple(found)


def _text(value: object) -> str | None:
    """Return a table's default as it is written on a command line or in a template."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _default(item: Mapping[str, Any], version: str) -> str | None:
    """Return an entry's default in a release: that of the oldest change still ahead of it, or today's."""
    key = parse_version(version)
    for last, value in sorted(item.get("earlier_defaults", {}).items(), key=lambda pair: parse_version(pair[0])):
        if key <= parse_version(last):
            return _text(value)
    return _text(item.get("default"))


def _build_options(version: str) -> dict[str, BuildOption]:
    options: dict[str, BuildOption] = {}
    for name, item in load("trtllm")["build_options"].items():
        if not applies(item, version):
            continue
        option = BuildOption(
            name=name,
            kind=item["kind"],
            choices=("enable", "disable") if item["kind"] == "switch" else tuple(item.get("choices", ())),
            default=_default(item, version),
            is_ours=item.get("ours", False),
            also=tuple(item.get("also", ())),
            note=item.get("note", ""),
            refused=item.get("refused", {}),
        )
        for spelling in (name, *option.also):
            options[spelling] = option
    return options


def _families(version: str) -> tuple[Family, ...]:
    data = load("trtllm")
    moved = parse_version(data["scripts_moved_in"])
    families = []
    for name, item in data["families"].items():
        new, old = item["scripts"]
        if parse_version(version) < moved:
            scripts: tuple[str, ...] = (old,)
        else:
            scripts = (new, old) if version == data["scripts_moved_in"] else (new,)
        since = item.get("architectures_since", {})
        families.append(
            Family(
                name=name,
                architectures=tuple(a for a in item["architectures"] if applies({"since": since.get(a)}, version)),
                scripts=scripts,
                flags=item["flags"],
                fixed=tuple(item.get("fixed", ())),
                options=tuple(item["options"]),
                dtypes=tuple(item["dtypes"]),
                weight_only={bits: tuple(item[bits]) for bits in ("int8", "int4")},
                pp_sizes=(item["pp_size"],) if "pp_size" in item else (),
                unread=tuple(
                    UnreadKey(
                        key=row["key"],
                        neutral=row["neutral"],
                        architectures=tuple(row.get("architectures", ())),
                        until=str(row.get("until", "")),
                    )
                    for row in item.get("unread", ())
                    if applies({"until": row.get("until")}, version)
                ),
                reads_head_dim=item.get("head_dim", True),
            )
        )
    return tuple(families)


@cache
def _quantize_tool() -> QuantizeTool:
    item = load("trtllm")["quantize"]
    return QuantizeTool(
        script=item["script"],
        flags=item["flags"],
        options=tuple(item["options"]),
        dtypes=tuple(item["dtypes"]),
        qformats=tuple(item["qformats"]),
        kv_cache_dtypes=tuple(item["kv_cache_dtypes"]),
        presets={name: tuple(known) for name, known in item["architectures"].items()},
    )


def find_family(release: TrtLlmRelease, architecture: str) -> Family | None:
    """Return the conversion family of a Hugging Face architecture in a release; None when it has none."""
    return next((family for family in release.families if architecture in family.architectures), None)


def retired_build_options() -> Mapping[str, str]:
    """Return options of older releases by name, each with what says the same today."""
    return dict(load("trtllm")["retired_build_options"])


@cache
def presets() -> tuple[Preset, ...]:
    """Return all quantization presets, ``none`` first."""
    return tuple(
        Preset(
            name=name,
            bits=item["bits"],
            qformat=item["qformat"],
            group_size=item.get("group_size", 0),
            group_scale_bytes=item.get("group_scale_bytes", 2),
            is_calibrated=item.get("calibrated", False),
        )
        for name, item in load("trtllm")["presets"].items()
    )


def preset(name: str) -> Preset:
    """Return a quantization preset by name.

    Raises:
        KeyError: There is none of that name.
    """
    return {item.name: item for item in presets()}[name]
