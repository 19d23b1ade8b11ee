"""What a user asks for, frozen: the engine, the repository, the store and the server. Each field is an option.

It decides the names, types, defaults and help of every option; ``table`` collects them, ``parse`` fills them from text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trtbuild.registry import least_demanding_first
from trtbuild.spec.option import no_pairs, option

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
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
RESTRICTED_APIS = ("shared-memory", "model-repository", "logging", "trace")
"""What no client of a served model needs and an attacker can abuse; refused unless ``open_api`` names it.

The others are inference, health, metadata, model-config and statistics.
Source: triton-inference-server/server, src/restricted_features.h (names), docs/customization_guide/deploy.md (use).
"""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What is to be built. Two equal specs on equal hosts have the same engine key.

    Lengths are in tokens. None means the plan decides.
    """

    model: str = option("Catalog alias, Hugging Face id or local directory.", section="model")
    revision: str = option("Branch, tag or 40-hex commit.", default="main", section="model")
    allow_pickle: bool = option(
        "Also download pickled weights (*.bin) when a model has no safetensors. Pickles can run code.",
        default=False,
        section="model",
    )
    trust_remote_code: bool = option(
        "Let conversion tools run Python code shipped with the model.", default=False, section="model"
    )
    backend: str = option(
        "Engine backend; auto takes the best one this machine can run.", default="auto", choices=BACKENDS
    )
    dtype: Dtype = option("Compute type.", default="auto")
    quantization: Quantization = option("Weight (and activation) quantization preset.", default="none")
    kv_cache_dtype: KvCacheDtype = option("Type of the key/value cache.", default="auto")
    tp_size: int = option("Tensor parallel.", default=1, flags=("--tp",), minimum=1, maximum=1024)
    pp_size: int = option("Pipeline parallel.", default=1, flags=("--pp",), minimum=1, maximum=1024)
    max_batch_size: int | None = option(
        "Most requests computed at once: the engine's slots. Default: decided by the plan.", default=None, minimum=1
    )
    max_input_len: int | None = option("Longest prompt, in tokens.", default=None, minimum=1)
    max_seq_len: int | None = option("Longest prompt plus generation, in tokens.", default=None, minimum=2)
    max_num_tokens: int | None = option("Most tokens computed in one step, over all requests.", default=None, minimum=1)
    kv_cache_tokens: int | None = option(
        "Size of the cpu backend's key/value pool, in tokens. Default: decided by the plan from host memory.",
        default=None,
        minimum=32,
    )
    build_option: Mapping[str, str] = no_pairs(
        "Extra option of the engine compiler, NAME=VALUE; repeatable; checked against its version's table."
    )
    calibration: str | None = option(
        "Calibration data for quantization: a local path, or DATASET@COMMIT.", default=None
    )

    @property
    def world_size(self) -> int:
        """Number of ranks: tp_size * pp_size."""
        return self.tp_size * self.pp_size


@dataclass(frozen=True, kw_only=True)
class RepositorySpec:
    """How the engine is presented to Triton. Nothing here changes the engine."""

    served_name: str | None = option(
        "Name of the model in Triton. Default: the alias, or the last part of the id.", default=None, flags=("--name",)
    )
    repository: Path | None = option(
        "Directory of the Triton model repository. Default: <store>/repositories/<served name>.", default=None
    )
    layout: RepositoryLayout = option(
        "minimal: front model and engine. full: also preprocessing, postprocessing, ensemble, tensorrt_llm_bls.",
        default="minimal",
    )
    decoupled: bool = option(
        "Models that take text may stream. Without it each request has one response, and KServe's infer works.",
        default=True,
    )
    add_to_repository: bool = option(
        "Keep other models that are in the repository; without it the repository holds this model alone.", default=False
    )
    max_queue_size: int = option(
        "Requests that may wait before new ones are refused as unavailable (0: no limit).", default=1024, minimum=0
    )
    kv_cache_free_gpu_mem_fraction: float | None = option(
        "Share of free GPU memory given to the key/value cache.", default=None, minimum=0.0, maximum=1.0
    )
    enable_kv_cache_reuse: bool = option("Reuse the key/value cache of equal prompt beginnings.", default=True)
    enable_chunked_context: bool = option("Compute long prompts in pieces between generation steps.", default=True)
    batch_scheduler_policy: SchedulerPolicy = option(
        "What the executor does when the key/value cache is full.", default="guaranteed_no_evict"
    )
    template_parameter: Mapping[str, str] = no_pairs(
        "Extra parameter of the engine model's config.pbtxt, NAME=VALUE; repeatable; checked by version."
    )


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Where things are kept and how much room they may take."""

    store: Path | None = option(
        "Root of the engine store. Default: $XDG_CACHE_HOME/trtbuild, or ~/.cache/trtbuild.", default=None
    )
    hf_cache: Path | None = option(
        "Hugging Face cache. Default: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub.", default=None
    )
    verify: VerifyMode = option("How a stored engine is checked before use.", default="sizes")
    max_bytes: int | None = option("Most bytes the store may hold; least recently used go.", default=None, kind="bytes")
    min_free: int = option("Bytes that must stay free on the store's file system.", default=1 << 30, kind="bytes")
    shared_tier: str | None = option(
        "Second tier to read from and publish to: a directory, s3://, gs:// or az:// URL.", default=None
    )
    store_group: int | None = option(
        "Group id that owns what is written, and may write, so that pods of several users share a host path.",
        default=None,
        minimum=0,
    )
    keep_checkpoint: bool = option("Keep the converted checkpoint after the build.", default=False)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How the server listens and logs."""

    host: str = option("Address to listen on.", default="127.0.0.1")
    http_port: int = option("HTTP port (0: choose).", default=8000, minimum=0, maximum=65535)
    grpc_port: int = option("gRPC port (0: choose).", default=8001, minimum=0, maximum=65535)
    metrics_port: int = option("Metrics port (0: choose).", default=8002, minimum=0, maximum=65535)
    openai_port: int | None = option(
        "Port of the OpenAI-compatible API and its chat page (0: off). Default: 8080; chosen with --http-port 0.",
        default=None,
        minimum=0,
        maximum=65535,
    )
    openai_host: str | None = option("Address of the OpenAI port. Default: that of --host.", default=None)
    api_key_file: Path | None = option(
        "File of the keys, one a line, of which clients of the OpenAI port must send one; read again when it changes.",
        default=None,
    )
    openai_allowed_origin: tuple[str, ...] = option(
        "Origin of web pages that may use the OpenAI port from a browser, or *; repeatable. The chat page always may.",
        default=(),
    )
    openai_max_body: int = option("Largest request that the OpenAI port accepts.", default=8 << 20, kind="bytes")
    log_verbose: int = option("Triton's verbose log level.", default=0, minimum=0)
    drain_timeout: int = option(
        "Seconds the server goes on after SIGTERM: what runs may finish, what waits or is new is refused.",
        default=30,
        minimum=1,
    )
    orchestrator: bool = option(
        "Let one server spawn the ranks (TRTLLM_ORCHESTRATOR) instead of one server per rank under mpirun.",
        default=False,
    )
    open_api: tuple[str, ...] = option(
        "API of the server that clients may use although it is restricted by default; repeatable.",
        default=(),
        choices=RESTRICTED_APIS,
    )
    server_arg: Mapping[str, str] = no_pairs("Extra tritonserver argument, NAME=VALUE without dashes; repeatable.")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything a user can say, in one value."""

    engine: EngineSpec
    repository: RepositorySpec
    store: StoreSpec
    server: ServerSpec
