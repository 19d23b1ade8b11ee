"""What the tables say of one TensorRT-LLM release, as values.

It decides nothing: ``trtllm`` reads the tables, backends use the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trtbuild.catalog.loading import load

OptionKind = Literal["str", "int", "float", "bool", "flag", "switch", "choice", "list", "ints"]


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
