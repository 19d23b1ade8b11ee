"""The values of a plan: the pinned model, the choices made, the room needed, the engine that comes out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trtbuild.catalog import ModelInfo
from trtbuild.model.remote import RemoteFile
from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model pinned to exact bytes.

    Attributes:
        model_id: Hugging Face id, or ``local/<directory name>`` for a directory.
        revision: 40-hex commit, or ``tree-<sha256>`` over a directory's file names and contents.
        source: Where the files come from.
        directory: The directory of a local model, else None.
        info: Architecture and sizes.
        alias: Catalog alias that the user typed, if any.
        files: All files of the commit, or None while nobody has listed them; not part of what the model is.
    """

    model_id: str
    revision: str
    source: Literal["hub", "directory"]
    info: ModelInfo
    directory: Path | None = None
    alias: str | None = None
    files: tuple[RemoteFile, ...] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class EngineShape:
    """What will be built, with every choice made. Lengths in tokens."""

    dtype: str
    quantization: str
    kv_cache_dtype: str
    tp_size: int
    pp_size: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    options: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp_size * self.pp_size


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Room a build needs, in bytes; the sums are explained by ``BuildPlan.arithmetic``."""

    snapshot_bytes: int
    checkpoint_bytes: int
    engine_bytes: int
    host_memory_bytes: int
    shm_bytes: int


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything that is known before the first byte is downloaded.

    Attributes:
        backend: Name of the backend that made the plan.
        model: The pinned model.
        shape: Every choice made.
        sku: Product label of the GPU, or the CPU class.
        key: Key of the engine in the store.
        steps: What will be run, one line each, commands as they will be typed.
        arithmetic: How the memory figures come about, line by line.
        budget: Room needed.
        warnings: What the user should know but nothing forbids.
    """

    backend: str
    model: ResolvedModel
    shape: EngineShape
    sku: str
    key: EngineKey
    steps: tuple[str, ...]
    arithmetic: tuple[str, ...]
    budget: Budget
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine directory says of itself (its own ``config.json``), read without the plan that made it."""

    backend: str
    tp_size: int
    pp_size: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    dtype: str
    vocab_size: int
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        """Number of ranks that the server must start."""
        return self.tp_size * self.pp_size

    @property
    def slots(self) -> int:
        """Number of requests that run at once: every stage of a pipeline works on a batch of its own.

        Source: TensorRT-LLM, cpp/tensorrt_llm/batch_manager, trtGptModelInflightBatching.cpp and trtGptModel.h: a model
        has max_batch_size sequences for each of its micro-batches, and as many of those as pipeline stages.
        """
        return self.max_batch_size * self.pp_size
