"""What a user asks for and what the machine is: parsed, checked for shape, frozen.

It decides the one table of options (:data:`OPTIONS`) that flags, ``TRTBUILD_*`` variables and ``engine.yaml`` share,
and turns any mapping of them into frozen values. It does not look at the machine, the network or the environment, and
it does not know which combinations a backend can do (``plan`` asks the backend).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trtbuild.errors import SpecError
from trtbuild.registry import least_demanding_first

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

BACKENDS = ("auto", *(backend.name for backend in least_demanding_first()))
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal[
    "none", "int8-weight-only", "int4-weight-only", "fp8", "int4-awq", "w4a8-awq", "int8-sq", "nvfp4"
]  # fmt: skip
KvCacheDtype = Literal["auto", "int8", "fp8"]
RepositoryLayout = Literal["minimal", "full"]
VerifyMode = Literal["sizes", "full", "none"]
SchedulerPolicy = Literal["guaranteed_no_evict", "max_utilization"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
KV_CACHE_DTYPES: tuple[KvCacheDtype, ...] = get_args(KvCacheDtype)
LAYOUTS: tuple[RepositoryLayout, ...] = get_args(RepositoryLayout)
VERIFY_MODES: tuple[VerifyMode, ...] = get_args(VerifyMode)
SCHEDULER_POLICIES: tuple[SchedulerPolicy, ...] = get_args(SchedulerPolicy)
RESTRICTED_APIS = ("shared-memory", "model-repository", "logging", "trace")
"""What no client of a served model needs and a stranger can do harm with; refused unless ``open_api`` names it.

The others are inference, health, metadata, model-config and statistics.
Source: triton-inference-server/server, src/restricted_features.h (names), docs/customization_guide/deploy.md (use).
"""

Section = Literal["model", "engine", "repository", "store", "server"]
Kind = Literal["str", "int", "float", "bool", "path", "bytes", "choice", "choices", "pairs"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, in all its spellings.

    ``max_batch_size`` is ``--max-batch-size``, ``TRTBUILD_MAX_BATCH_SIZE`` and ``max_batch_size:`` in engine.yaml.

    Attributes:
        name: Snake-case name, as in engine.yaml.
        kind: How text becomes a value; ``bytes`` takes ``20GiB``; ``choices`` is a list (repeatable on the command
            line, with commas in a variable); ``pairs`` is a mapping (``name=value`` on the command line, repeatable).
        default: Value when nobody says anything; None means "decided by the plan".
        help: One line for ``--help`` and the reference.
        section: Which frozen value the option ends up in.
        choices: Legal values of a ``choice``, and of the parts of ``choices``.
        flags: Extra spellings on the command line.
        minimum: Smallest legal number.
        maximum: Largest legal number.
    """

    name: str
    kind: Kind
    help: str
    section: Section
    default: Any = None
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def flag(self) -> str:
        """The long flag, e.g. ``--max-batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable, e.g. ``TRTBUILD_MAX_BATCH_SIZE``."""
        return "TRTBUILD_" + self.name.upper()


OPTIONS: tuple[Option, ...] = (
    Option(name="model", kind="str", section="model", help="Catalog alias, Hugging Face id or local directory."),
    Option(name="revision", kind="str", section="model", help="Branch, tag or 40-hex commit.", default="main"),
    Option(
        name="allow_pickle",
        kind="bool",
        section="model",
        default=False,
        help="Also download pickled weights (*.bin) when a model has no safetensors. Pickles can run code.",
    ),
    Option(
        name="trust_remote_code",
        kind="bool",
        section="model",
        default=False,
        help="Let conversion tools run Python code shipped with the model.",
    ),
    Option(
        name="backend",
        kind="choice",
        choices=BACKENDS,
        default="auto",
        section="engine",
        help="Engine backend; auto takes the best one this machine can run.",
    ),
    Option(name="dtype", kind="choice", choices=DTYPES, default="auto", section="engine", help="Compute type."),
    Option(
        name="quantization",
        kind="choice",
        choices=QUANTIZATIONS,
        default="none",
        section="engine",
        help="Weight (and activation) quantization preset.",
    ),
    Option(
        name="kv_cache_dtype",
        kind="choice",
        choices=KV_CACHE_DTYPES,
        default="auto",
        section="engine",
        help="Type of the key/value cache.",
    ),
    Option(
        name="tp_size",
        kind="int",
        default=1,
        minimum=1,
        maximum=1024,
        flags=("--tp",),
        section="engine",
        help="Tensor parallel.",
    ),
    Option(
        name="pp_size",
        kind="int",
        default=1,
        minimum=1,
        maximum=1024,
        flags=("--pp",),
        section="engine",
        help="Pipeline parallel.",
    ),
    Option(
        name="max_batch_size",
        kind="int",
        minimum=1,
        section="engine",
        help="Most requests computed at once: the engine's slots. Default: decided by the plan.",
    ),
    Option(name="max_input_len", kind="int", minimum=1, section="engine", help="Longest prompt, in tokens."),
    Option(
        name="max_seq_len", kind="int", minimum=2, section="engine", help="Longest prompt plus generation, in tokens."
    ),
    Option(
        name="max_num_tokens",
        kind="int",
        minimum=1,
        section="engine",
        help="Most tokens computed in one step, over all requests.",
    ),
    Option(
        name="kv_cache_tokens",
        kind="int",
        minimum=32,
        section="engine",
        help="Size of the cpu backend's key/value pool, in tokens. Default: decided by the plan from host memory.",
    ),
    Option(
        name="build_option",
        kind="pairs",
        section="engine",
        help="Extra option of the engine compiler, NAME=VALUE; repeatable; checked against its version's table.",
    ),
    Option(
        name="calibration",
        kind="str",
        section="engine",
        help="Calibration data for quantization: a local path, or DATASET@COMMIT.",
    ),
    Option(
        name="served_name",
        kind="str",
        section="repository",
        flags=("--name",),
        help="Name of the model in Triton. Default: the alias, or the last part of the id.",
    ),
    Option(
        name="repository",
        kind="path",
        section="repository",
        help="Directory of the Triton model repository. Default: <store>/repositories/<served name>.",
    ),
    Option(
        name="layout",
        kind="choice",
        choices=LAYOUTS,
        default="minimal",
        section="repository",
        help="minimal: front model and engine. full: also preprocessing, postprocessing, ensemble, tensorrt_llm_bls.",
    ),
    Option(
        name="decoupled",
        kind="bool",
        default=True,
        section="repository",
        help="Models that take text may stream. Without it each request has one response, and KServe's infer works.",
    ),
    Option(
        name="add_to_repository",
        kind="bool",
        default=False,
        section="repository",
        help="Keep other models that are in the repository; without it the repository holds this model alone.",
    ),
    Option(
        name="max_queue_size",
        kind="int",
        default=0,
        minimum=0,
        section="repository",
        help="Requests that may wait before new ones are refused as unavailable (0: no limit).",
    ),
    Option(
        name="kv_cache_free_gpu_mem_fraction",
        kind="float",
        minimum=0.0,
        maximum=1.0,
        section="repository",
        help="Share of free GPU memory given to the key/value cache.",
    ),
    Option(
        name="enable_kv_cache_reuse",
        kind="bool",
        default=True,
        section="repository",
        help="Reuse the key/value cache of equal prompt beginnings.",
    ),
    Option(
        name="enable_chunked_context",
        kind="bool",
        default=True,
        section="repository",
        help="Compute long prompts in pieces between generation steps.",
    ),
    Option(
        name="batch_scheduler_policy",
        kind="choice",
        choices=SCHEDULER_POLICIES,
        default="guaranteed_no_evict",
        section="repository",
        help="What the executor does when the key/value cache is full.",
    ),
    Option(
        name="template_parameter",
        kind="pairs",
        section="repository",
        help="Extra parameter of the engine model's config.pbtxt, NAME=VALUE; repeatable; checked by version.",
    ),
    Option(
        name="store",
        kind="path",
        section="store",
        help="Root of the engine store. Default: $XDG_CACHE_HOME/trtbuild, or ~/.cache/trtbuild.",
    ),
    Option(
        name="hf_cache",
        kind="path",
        section="store",
        help="Hugging Face cache. Default: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub.",
    ),
    Option(
        name="verify",
        kind="choice",
        choices=VERIFY_MODES,
        default="sizes",
        section="store",
        help="How a stored engine is checked before use.",
    ),
    Option(
        name="max_bytes", kind="bytes", section="store", help="Most bytes the store may hold; least recently used go."
    ),
    Option(
        name="min_free",
        kind="bytes",
        default=1 << 30,
        section="store",
        help="Bytes that must stay free on the store's file system.",
    ),
    Option(
        name="shared_tier",
        kind="str",
        section="store",
        help="Second tier to read from and publish to: a directory, s3://, gs:// or az:// URL.",
    ),
    Option(
        name="store_group",
        kind="int",
        minimum=0,
        section="store",
        help="Group id that owns what is written, and may write, so that pods of several users share a host path.",
    ),
    Option(
        name="keep_checkpoint",
        kind="bool",
        default=False,
        section="store",
        help="Keep the converted checkpoint after the build.",
    ),
    Option(name="host", kind="str", default="127.0.0.1", section="server", help="Address to listen on."),
    Option(
        name="http_port",
        kind="int",
        default=8000,
        minimum=0,
        maximum=65535,
        section="server",
        help="HTTP port (0: choose).",
    ),
    Option(
        name="grpc_port",
        kind="int",
        default=8001,
        minimum=0,
        maximum=65535,
        section="server",
        help="gRPC port (0: choose).",
    ),
    Option(
        name="metrics_port",
        kind="int",
        default=8002,
        minimum=0,
        maximum=65535,
        section="server",
        help="Metrics port (0: choose).",
    ),
    Option(name="log_verbose", kind="int", default=0, minimum=0, section="server", help="Triton's verbose log level."),
    Option(
        name="drain_timeout",
        kind="int",
        default=30,
        minimum=1,
        section="server",
        help="Seconds the server goes on after SIGTERM: what runs may finish, what waits or is new is refused.",
    ),
    Option(
        name="orchestrator",
        kind="bool",
        default=False,
        section="server",
        help="Let one server spawn the ranks (TRTLLM_ORCHESTRATOR) instead of one server per rank under mpirun.",
    ),
    Option(
        name="open_api",
        kind="choices",
        choices=RESTRICTED_APIS,
        section="server",
        help="API of the server that clients may use although it is restricted by default; repeatable.",
    ),
    Option(
        name="server_arg",
        kind="pairs",
        section="server",
        help="Extra tritonserver argument, NAME=VALUE without dashes; repeatable.",
    ),
)
"""Every option there is. Flags, variables, engine.yaml and the reference are made from this table."""

OPTIONS_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What is to be built. Two equal specs on equal hosts have the same engine key.

    Lengths are in tokens. None means the plan decides.
    """

    model: str
    revision: str = "main"
    backend: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    kv_cache_dtype: KvCacheDtype = "auto"
    tp_size: int = 1
    pp_size: int = 1
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    max_num_tokens: int | None = None
    kv_cache_tokens: int | None = None
    build_option: Mapping[str, str] = field(default_factory=dict)
    calibration: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks: tp_size * pp_size."""
        return self.tp_size * self.pp_size


@dataclass(frozen=True, kw_only=True)
class RepositorySpec:
    """How the engine is presented to Triton. Nothing here changes the engine."""

    served_name: str | None = None
    repository: Path | None = None
    layout: RepositoryLayout = "minimal"
    decoupled: bool = True
    add_to_repository: bool = False
    max_queue_size: int = 0
    kv_cache_free_gpu_mem_fraction: float | None = None
    enable_kv_cache_reuse: bool = True
    enable_chunked_context: bool = True
    batch_scheduler_policy: SchedulerPolicy = "guaranteed_no_evict"
    template_parameter: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Where things are kept and how much room they may take."""

    store: Path | None = None
    hf_cache: Path | None = None
    verify: VerifyMode = "sizes"
    max_bytes: int | None = None
    min_free: int = 1 << 30
    shared_tier: str | None = None
    store_group: int | None = None
    keep_checkpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How the server listens and logs."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    log_verbose: int = 0
    drain_timeout: int = 30
    orchestrator: bool = False
    open_api: tuple[str, ...] = ()
    server_arg: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything a user can say, in one value."""

    engine: EngineSpec
    repository: RepositorySpec
    store: StoreSpec
    server: ServerSpec


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """One visible GPU (or MIG slice), as NVML names it.

    Attributes:
        index: CUDA ordinal.
        product: Normalised product label, as GPU Feature Discovery writes it: ``NVIDIA-H100-80GB-HBM3``.
        compute_capability: ``"9.0"``.
        memory_mib: Total memory in MiB.
        mig_profile: ``"3g.40gb"`` on a MIG slice, else None.
    """

    index: int
    product: str
    compute_capability: str
    memory_mib: int
    mig_profile: str | None = None


@dataclass(frozen=True, kw_only=True)
class CpuInfo:
    """The processor, as far as it matters to an engine.

    Attributes:
        vendor: ``GenuineIntel``, ``AuthenticAMD``, ``ARM`` ...
        model: Marketing name; for people, not for keys.
        isa: Instruction-set extensions that change the code an engine runs, sorted (``avx2``, ``avx512f``).
        cores: Cores this process may use.
    """

    vendor: str
    model: str
    isa: tuple[str, ...]
    cores: int


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """What this machine is and has. Made by ``host.inspect_host``; plain data so that plans can be tested anywhere.

    Attributes:
        platform: ``linux/x86_64``.
        cpu: The processor.
        gpus: Visible GPUs in CUDA order.
        memory_bytes: Memory this process may use (container limit or physical).
        shm_bytes: Size of ``/dev/shm``.
        versions: Installed versions by package: ``tensorrt_llm``, ``tensorrt``, ``cuda``, ``openvino``,
            ``openvino_genai``, ``triton``, ``optimum_intel``. Absent means not installed.
        tools: Absolute paths of programs found: ``trtllm-build``, ``mpirun``, ``tritonserver``.
    """

    platform: str
    cpu: CpuInfo
    gpus: tuple[GpuInfo, ...] = ()
    memory_bytes: int = 0
    shm_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


def closest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*$", re.IGNORECASE)
_SERVED_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")


def parse_bytes(text: str) -> int:
    """Return bytes for ``512``, ``20GiB``, ``1.5 TB`` (``G`` and ``GiB`` are binary, ``GB`` decimal).

    Raises:
        ValueError: The text is not a size.
    """
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"expected a size such as 20GiB, got {text!r}")
    unit = (match[2] or "").lower()
    decimal = bool(unit) and not unit.endswith("i") and text.strip().lower().endswith("b")
    power = "kmgt".index(unit[0]) + 1 if unit else 0
    return int(float(match[1]) * (1000 if decimal else 1024) ** power)


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"expected true or false, got {text!r}")


def _parse_pairs(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        items = list(value.items())
    else:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
        items = [part.partition("=")[::2] if "=" in part else (part, None) for part in parts]
    pairs: dict[str, str] = {}
    for name, item in items:
        if not isinstance(name, str) or not name.strip() or item is None or isinstance(item, (list, dict)):
            raise ValueError(f"expected NAME=VALUE pairs, got {value!r}")
        pairs[name.strip()] = str(item).lower() if isinstance(item, bool) else str(item).strip()
    return dict(sorted(pairs.items()))


def _parse_choices(option: Option, value: object) -> tuple[str, ...]:
    """Return the words of a list, each once, in the order of the option's choices."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    words = [str(part).strip() for part in parts if str(part).strip()]
    for word in words:
        if word not in option.choices:
            raise ValueError(
                f"expected any of {', '.join(option.choices)}, got {word!r}{closest(word, option.choices)}"
            )
    return tuple(choice for choice in option.choices if choice in words)


def parse_value(option: Option, value: object) -> Any:
    """Return ``value`` (text or YAML) as the option's type.

    Raises:
        ValueError: With what was expected and what was seen.
    """
    if option.kind == "pairs":
        return _parse_pairs(value)
    if option.kind == "choices" and not isinstance(value, dict):
        return _parse_choices(option, value)
    if isinstance(value, (list, dict)):
        raise ValueError(f"expected one value, got {value!r}")
    if option.kind == "bool":
        return value if isinstance(value, bool) else _parse_bool(str(value))
    if option.kind == "bytes":
        return value if isinstance(value, int) and not isinstance(value, bool) else parse_bytes(str(value))
    if option.kind in {"int", "float"}:
        return _parse_number(option, value)
    text = str(value)
    if option.kind == "choice" and text not in option.choices:
        raise ValueError(f"expected one of {', '.join(option.choices)}, got {text!r}{closest(text, option.choices)}")
    if option.kind == "path":
        return Path(text).expanduser()
    if not text.strip():
        raise ValueError("expected a value, got an empty one")
    return text


def _parse_number(option: Option, value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        number: int | float = int(str(value)) if option.kind == "int" else float(str(value))
    except ValueError:
        kind = "a whole number" if option.kind == "int" else "a number"
        raise ValueError(f"expected {kind}, got {value!r}") from None
    if option.minimum is not None and not number >= option.minimum:
        raise ValueError(f"expected at least {option.minimum:g}, got {number}")
    if option.maximum is not None and not number <= option.maximum:
        raise ValueError(f"expected at most {option.maximum:g}, got {number}")
    return number


def parse_spec(values: Mapping[str, object], *, origins: Mapping[str, str] | None = None) -> Spec:
    """Return the frozen spec for option values by name.

    Args:
        values: Option name to raw value; absent or None means "default".
        origins: Where each value came from (``--dtype``, ``TRTBUILD_DTYPE``, ``engine.yaml line 3``), for messages.

    Raises:
        SpecError: Unknown name, illegal value, or no model.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("model", "engine", "repository", "store", "server")}
    for name, raw in values.items():
        option = OPTIONS_BY_NAME.get(name)
        where = (origins or {}).get(name, name)
        if option is None:
            known = [o.name for o in OPTIONS]
            raise SpecError(
                f"{where}: unknown option {name!r}{closest(name, known)}",
                hint="trtbuild --help lists every option; engine.yaml uses the same names with underscores",
            )
        if raw is None:
            continue
        try:
            sections[option.section][name] = parse_value(option, raw)
        except ValueError as error:
            raise SpecError(f"{where}: {error}", hint=f"{option.flag}: {option.help}") from None
    if "model" not in sections["model"]:
        raise SpecError(
            "no model was named",
            hint="trtbuild models lists the catalog; e.g. trtbuild llama-3-8b, or model: in engine.yaml",
        )
    served = sections["repository"].get("served_name")
    if served is not None and not _SERVED_NAME.match(served):
        raise SpecError(
            f"served_name: expected letters, digits, '_', '-' or '.', at most 128, got {served!r}",
            hint="pass another --name",
        )
    return Spec(
        engine=EngineSpec(**sections["model"], **sections["engine"]),
        repository=RepositorySpec(**sections["repository"]),
        store=StoreSpec(**sections["store"]),
        server=ServerSpec(**sections["server"]),
    )
