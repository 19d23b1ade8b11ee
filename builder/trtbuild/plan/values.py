"""From a request and a machine to one build plan and its engine key. Pure: no clock, network, files or environment.

It decides what an engine's key is made of and what a plan contains. What a backend can do is decided by the backend,
which fills in a :class:`BuildPlan` through the :class:`Backend` protocol.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from trtbuild.catalog import ModelInfo
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, RepositorySpec

KEY_SCHEMA = 1


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
    """

    model_id: str
    revision: str
    source: Literal["hub", "directory"]
    info: ModelInfo
    directory: Path | None = None
    alias: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """The complete description of a repeatable build; equal keys mean interchangeable engines.

    Attributes:
        fields: Everything that changes bytes, as JSON values.
        model_part: Directory name of the model in the store.
        sku_part: Directory name of the GPU SKU (or CPU class).
        shape_part: Human part of the entry's name, e.g. ``tp2-pp1-bfloat16``.
    """

    fields: Mapping[str, JsonValue]
    model_part: str
    sku_part: str
    shape_part: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON of ``fields``, 64 hex digits."""
        return hashlib.sha256(canonical_json({"schema": KEY_SCHEMA, **self.fields}).encode()).hexdigest()

    @property
    def short(self) -> str:
        """The first 12 hex digits of the digest, as shown to people."""
        return self.digest[:12]

    @property
    def relative_path(self) -> Path:
        """Path of the entry below ``<root>/engines``."""
        return Path(path_part(self.model_part), path_part(self.sku_part), f"{path_part(self.shape_part)}-{self.short}")


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


@dataclass(frozen=True, kw_only=True)
class EngineTemplate:
    """The ``tensorrt_llm`` model of a repository, as a backend wants it rendered.

    Attributes:
        directory: Directory below ``model_repo_templates``, e.g. ``tensorrt_llm/cpu``.
        variables: Jinja variables of its ``config.pbtxt.j2`` and other ``*.j2`` files.
    """

    directory: str
    variables: Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a backend can work here.

    Attributes:
        is_available: It can build and serve on this machine.
        reason: Why, or why not and what to do; one or two sentences.
    """

    is_available: bool
    reason: str


class Backend(Protocol):
    """An engine backend. ``availability`` and ``plan`` are pure; ``build`` and ``inspect`` touch the world."""

    @property
    def name(self) -> str:
        """``cpu``, ``tensorrt_llm`` or ``llmapi``."""

    def availability(self, host: HostInfo) -> Availability:
        """Say whether this backend can work on ``host``."""

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice and refuse the impossible before any byte is downloaded.

        Raises:
            SpecError: The combination cannot be built anywhere.
            HostError: It cannot be built on this host.
        """

    def check(self, plan: BuildPlan, spec: RepositorySpec) -> None:
        """Refuse, before anything is downloaded, what would only show after the build.

        Raises:
            SpecError: Something the request names is missing, or a template parameter is illegal.
            HostError: A tool is missing.
        """

    def build(self, plan: BuildPlan, snapshot: Path, engine_dir: Path, work_dir: Path) -> None:
        """Build the engine from a complete snapshot into the empty ``engine_dir``.

        ``work_dir`` is scratch space on the same file system (checkpoints, logs); the caller removes it.

        Raises:
            ConvertError: Conversion or quantization failed.
            BuildError: The compiler failed or the engine is incomplete.
        """

    def inspect(self, engine_dir: Path) -> EngineInfo:
        """Read an engine directory and check that it is complete.

        Raises:
            BuildError: Something the server will need is missing or unreadable.
        """

    def template(self, info: EngineInfo, engine_dir: Path, spec: RepositorySpec) -> EngineTemplate:
        """Return how the engine is served.

        Raises:
            SpecError: A template parameter is unknown or illegal.
        """


def canonical_json(value: Mapping[str, JsonValue]) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def path_part(text: str) -> str:
    """Return ``text`` as a single safe directory name: no separators, no leading dots, at most 80 characters."""
    part = re.sub(r"[^A-Za-z0-9_.-]+", "--", text).lstrip(".-")[:80]
    return part or "unnamed"
