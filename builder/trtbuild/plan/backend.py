"""What the pipeline asks of an engine backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trtbuild.plan.values import BuildPlan, EngineInfo, ResolvedModel
from trtbuild.spec import EngineSpec, HostInfo, JsonValue, RepositorySpec

READ_FOR_EVERY_BACKEND = frozenset(
    {
        "model", "revision", "backend", "allow_pickle", "trust_remote_code",
        "served_name", "repository", "layout", "decoupled", "add_to_repository", "max_queue_size",
        "host", "http_port", "grpc_port", "metrics_port", "log_verbose", "drain_timeout", "open_api", "server_arg",
        "openai_port", "openai_host", "api_key_file", "openai_allowed_origin", "openai_max_body",
    }
)  # fmt: skip
"""Options that mean the same whatever builds the engine: what is fetched, how it is presented, where a server listens.

Options of the store are of no backend and not among them.
"""


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
        """As ``--backend`` spells it."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the options that it reads beside those; one that is said to another backend is refused."""

    def availability(self, host: HostInfo) -> Availability:
        """Say whether this backend can work on ``host``."""

    def plan(self, spec: EngineSpec, model: ResolvedModel, host: HostInfo) -> BuildPlan:
        """Decide every open choice and refuse the impossible before any byte is downloaded.

        Raises:
            SpecError: The combination cannot be built anywhere.
            HostError: It cannot be built on this host.
        """

    def check_serving(self, plan: BuildPlan, spec: RepositorySpec) -> None:
        """Refuse, with the plan, options of the repository that :meth:`template` would refuse after the build. Pure.

        Raises:
            SpecError: A template parameter is unknown, or a value illegal.
        """

    def check_model(self, plan: BuildPlan, snapshot: Path) -> None:
        """Refuse a complete snapshot that :meth:`build` would refuse, by headers and small files: no value is read.

        Raises:
            FetchError: Its files contradict each other or the plan.
            ConvertError: The backend cannot read or compute them.
        """

    def check(self, plan: BuildPlan) -> None:
        """Look, before anything is downloaded, for what the build needs of this machine beside the model.

        Raises:
            SpecError: Something the request names is missing.
            HostError: A tool is missing.
        """

    def build(
        self,
        plan: BuildPlan,
        snapshot: Path,
        engine_dir: Path,
        work_dir: Path,
        *,
        logs: Path | None = None,
        hints: Path | None = None,
    ) -> None:
        """Build the engine from a complete snapshot into the empty ``engine_dir``.

        Args:
            plan: What is built.
            snapshot: The model's files.
            engine_dir: Where the engine goes.
            work_dir: Scratch space on the same file system (checkpoints, logs); the caller removes it.
            logs: Directory in which ``*.log`` files of ``work_dir`` are found when the build has failed: errors name
                them there. None: they stay where they are.
            hints: Directory for what makes later builds faster and is no part of the engine. None: nothing is kept.

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
