"""What will be built, decided before the first byte is downloaded: key, values, and what a machine can hold. Pure."""

from trtbuild.plan.values import (
    KEY_SCHEMA,
    Availability,
    Backend,
    Budget,
    BuildPlan,
    EngineInfo,
    EngineKey,
    EngineShape,
    EngineTemplate,
    ResolvedModel,
    canonical_json,
    path_part,
)

__all__ = [
    "KEY_SCHEMA",
    "Availability",
    "Backend",
    "Budget",
    "BuildPlan",
    "EngineInfo",
    "EngineKey",
    "EngineShape",
    "EngineTemplate",
    "ResolvedModel",
    "canonical_json",
    "path_part",
]
