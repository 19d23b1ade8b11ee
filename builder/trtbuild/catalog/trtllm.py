"""TensorRT-LLM releases: which options, scripts and template parameters each one has.

It decides which release's facts apply to an installed version. It builds no command lines: the backend does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from trtbuild.catalog.loading import load
from trtbuild.errors import HostError

EXAMPLES_DIR = "/app/examples"
"""Where the images keep upstream's scripts.

Source: tensorrtllm_backend dockerfile/Dockerfile.triton.trt_llm_backend, which copies examples there since v0.17.0.
"""

OptionKind = Literal["str", "int", "float", "bool", "flag", "switch", "choice", "list", "ints"]

_VERSION = re.compile(r"^(?P<release>\d+(?:\.\d+)*)(?:(?P<pre>a|b|rc)(?P<pre_n>\d+))?(?P<rest>.*)$")
_POST = re.compile(r"\.?post(\d+)")
_DEV = re.compile(r"\.?dev(\d+)")


def parse_version(text: str) -> tuple[tuple[int, ...], int, int, int]:
    """Return a sortable key for a version such as ``0.17.0.post1``, ``1.0.3.2510`` or ``1.3.0rc20``.

    Raises:
        ValueError: The text does not start with a number.
    """
    match = _VERSION.match(text.strip())
    if match is None:
        raise ValueError(f"expected a version such as 1.2.1, got {text!r}")
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    rest = match["rest"]
    post = _POST.search(rest)
    is_pre = bool(match["pre"]) or bool(_DEV.search(rest))
    return release, 0 if is_pre else 1, int(match["pre_n"] or 0), int(post[1]) if post else 0


def _minor(text: str) -> tuple[int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", text)[:2]]
    return numbers[0], numbers[1] if len(numbers) > 1 else 0


def applies(entry: Mapping[str, Any], version: str) -> bool:
    """Whether ``since``/``until`` of a table entry include a release."""
    key = parse_version(version)
    since, until = entry.get("since"), entry.get("until")
    return (since is None or key >= parse_version(since)) and (until is None or key <= parse_version(until))


@dataclass(frozen=True, kw_only=True)
class BuildOption:
    """One option of ``trtllm-build``.

    Attributes:
        name: Without dashes: ``gemm_plugin``.
        kind: How its value is written; ``flag`` takes none, ``switch`` takes enable or disable.
        choices: Legal values of a ``choice`` or ``switch``.
        default: Upstream's default in this release, None when upstream deduces it.
        is_ours: trtbuild sets it; users say it with trtbuild's own option.
        also: Other spellings.
        note: A caution.
        refused: Values that contradict how engines are served, each with the reason; ``*`` is every value.
    """

    name: str
    kind: OptionKind
    choices: tuple[str, ...] = ()
    default: str | None = None
    is_ours: bool = False
    also: tuple[str, ...] = ()
    note: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BackendParameter:
    """One key of ``parameters`` in the config.pbtxt of the C++ backend.

    Attributes:
        name: The key.
        kind: How its value is written.
        choices: Legal values of a ``choice``.
        default: What the backend uses when the stanza is absent, None when it has none.
        is_required: The backend does not start without the stanza.
        is_ours: trtbuild sets it from its own options.
        refused: Why it may not be given at all, or "".
    """

    name: str
    kind: OptionKind
    choices: tuple[str, ...] = ()
    default: str | None = None
    is_required: bool = False
    is_ours: bool = False
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of the C++ backend's model.

    Attributes:
        name: Its name in this release.
        data_type: ``INT32`` ..., or ``{placeholder}`` for a type the engine decides.
        dims: Dimensions without the batch.
        is_scalar: One value; the dimension is absent inside a batch.
        is_ragged: Requests of different lengths may share a batch.
        is_required: A request without it is refused.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    is_scalar: bool = False
    is_ragged: bool = False
    is_required: bool = False


@dataclass(frozen=True, kw_only=True)
class UnreadKey:
    """A key of config.json that a converter does not read.

    Attributes:
        key: The key.
        neutral: The value that makes no difference.
        architectures: The classes it is about; empty for all of the family.
        until: The last release that does not read it, or "".
    """

    key: str
    neutral: object
    architectures: tuple[str, ...] = ()
    until: str = ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How checkpoints of a group of architectures are converted.

    Attributes:
        name: ``llama``, ``gemma`` ...
        architectures: Hugging Face architectures it converts in this release.
        scripts: Paths below the examples directory, the likeliest first.
        flags: The script's spelling of ``model``, ``output``, ``tp``, ``pp``, ``dtype``, ``workers``, ``cpu``; a name
            the script lacks is absent.
        fixed: Arguments the script always needs.
        options: Every other long option it knows.
        dtypes: Values its dtype flag takes.
        weight_only: Arguments that make an ``int8`` or ``int4`` weight-only checkpoint.
        pp_sizes: The pipeline sizes it accepts; empty for any.
        unread: Keys of config.json that it does not read in this release.
        reads_head_dim: It reads the width of a head; else it takes the model's width divided by the heads.
    """

    name: str
    architectures: tuple[str, ...]
    scripts: tuple[str, ...]
    flags: Mapping[str, str]
    fixed: tuple[str, ...]
    options: tuple[str, ...]
    dtypes: tuple[str, ...]
    weight_only: Mapping[str, tuple[str, ...]]
    pp_sizes: tuple[int, ...] = ()
    unread: tuple[UnreadKey, ...] = ()
    reads_head_dim: bool = True


@dataclass(frozen=True, kw_only=True)
class QuantizeTool:
    """The calibrating quantizer, ``examples/quantization/quantize.py``.

    Attributes:
        script: Path below the examples directory.
        flags: Its spelling of the things trtbuild sets.
        options: Every other long option it knows.
        dtypes: Values of ``--dtype``.
        qformats: Values of ``--qformat``.
        kv_cache_dtypes: Values of ``--kv_cache_dtype``.
        presets: Presets it can make, by Hugging Face architecture.
    """

    script: str
    flags: Mapping[str, str]
    options: tuple[str, ...]
    dtypes: tuple[str, ...]
    qformats: tuple[str, ...]
    kv_cache_dtypes: tuple[str, ...]
    presets: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A quantization preset.

    Attributes:
        name: ``int4-awq`` ...
        bits: Bits of a quantized weight; 16 means "the compute type".
        qformat: Its name in quantize.py.
        group_size: Weights that share a scale, 0 for one scale per channel or tensor.
        group_scale_bytes: Bytes of one such scale.
        is_calibrated: It needs calibration data and a GPU.
    """

    name: str
    bits: int
    qformat: str
    group_size: int = 0
    group_scale_bytes: int = 2
    is_calibrated: bool = False


@dataclass(frozen=True, kw_only=True)
class TrtLlmRelease:
    """Everything the tables say of one release.

    Attributes:
        version: The release the tables describe.
        installed: The version it was asked for; differs from ``version`` for an unlisted patch release.
        triton: Triton releases whose trtllm image has it, ``25.06``.
        tensorrt: TensorRT version of those images.
        cuda: CUDA version of those images.
        python: Python version of those images.
        has_llmapi: The images ship the ``llmapi`` model template.
        has_uneven_stages: A pipeline may have a number of stages that does not divide the layers.
        fp8_attention_later: Compute capabilities without attention in fp8, each with the release that brings it.
        build_options: Options of ``trtllm-build`` by name, every accepted spelling included.
        families: Conversion families.
        quantize: The quantizer.
        template_placeholders: Upstream's placeholders that must be filled, by model.
        backend_parameters: Parameters of the C++ backend's config.pbtxt by name.
        tensor_names: Today's name of a renamed tensor to its name in this release (``min_tokens`` to ``min_length``).
        engine_inputs: Inputs of the C++ backend's model.
        engine_outputs: Its outputs.
    """

    version: str
    installed: str
    triton: tuple[str, ...]
    tensorrt: str
    cuda: str
    python: str
    has_llmapi: bool
    has_uneven_stages: bool
    fp8_attention_later: Mapping[str, str]
    build_options: Mapping[str, BuildOption] = field(repr=False)
    families: tuple[Family, ...] = field(repr=False)
    quantize: QuantizeTool = field(repr=False)
    template_placeholders: Mapping[str, tuple[str, ...]] = field(repr=False)
    backend_parameters: Mapping[str, BackendParameter] = field(repr=False)
    tensor_names: Mapping[str, str] = field(repr=False)
    engine_inputs: tuple[TensorInfo, ...] = field(repr=False)
    engine_outputs: tuple[TensorInfo, ...] = field(repr=False)

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the container images that have this release."""
        return tuple(image_name(triton) for triton in self.triton)


def image_name(triton: str) -> str:
    """Return the name of Triton's TensorRT-LLM image of a release such as ``26.07``."""
    return str(load("trtllm")["image"]).format(triton=triton)


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
    line = [entry for entry in entries if _minor(entry["version"]) == _minor(version)]
    if not line:
        raise _refusal(version)
    lower = [entry for entry in line if parse_version(entry["version"]) <= key]
    return _release(lower[-1] if lower else line[0], installed=version)


def _refusal(version: str) -> HostError:
    data = load("trtllm")
    refused = [e for e in data["refused"] if _minor(e["version"]) == _minor(version)]
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
