"""What will be built, decided before the first byte is downloaded: key, values, and what a machine can hold. Pure."""

from trtbuild.plan.backend import READ_FOR_EVERY_BACKEND, Availability, Backend, EngineTemplate
from trtbuild.plan.key import KEY_SCHEMA, EngineKey, canonical_json, path_part
from trtbuild.plan.values import Budget, BuildPlan, EngineInfo, EngineShape, ResolvedModel

__all__ = [
    "KEY_SCHEMA",
    "READ_FOR_EVERY_BACKEND",
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
