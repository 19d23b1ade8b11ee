"""What the manifest of an engine says about its build besides the key: no secrets, no environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from trtbuild import __version__
from trtbuild.plan.backend import EngineTemplate
from trtbuild.plan.values import BuildPlan
from trtbuild.spec import HostInfo, JsonValue


def provenance(
    plan: BuildPlan, host: HostInfo, *, image: str | None, durations: Mapping[str, float]
) -> dict[str, JsonValue]:
    """Return what the manifest says about a build: what was asked for, where it was made, how long it took."""
    return {
        "model_id": plan.model.model_id,
        "revision": plan.model.revision,
        "alias": plan.model.alias,
        "sku": plan.sku,
        "backend": plan.backend,
        "dtype": plan.shape.dtype,
        "quantization": plan.shape.quantization,
        "tp_size": plan.shape.tp_size,
        "pp_size": plan.shape.pp_size,
        "versions": dict(host.versions),
        "gpus": [gpu.product for gpu in host.gpus],
        "cpu": host.cpu.model,
        "image": image,
        "trtbuild_version": __version__,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "durations": dict(durations),
        "steps": list(plan.steps),
    }


def serving_values(template: EngineTemplate, engine_dir: Path) -> dict[str, JsonValue]:
    """Return the effective parameters of the engine model when its engine was built, without those that are paths."""
    found = template.variables.get("parameters")
    pairs = [pair for pair in found if isinstance(pair, list)] if isinstance(found, list) else []
    return {str(name): value for name, value in pairs if not str(value).startswith(str(engine_dir))}
