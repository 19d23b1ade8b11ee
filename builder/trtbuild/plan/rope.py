"""Rotary positions: which of a model's settings an engine would compute wrongly. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.catalog import Family, ModelInfo
from trtbuild.plan.problem import Problem

_ENGINE_ROPE = {
    "llama": ("linear", "llama3", "yarn"),
    "qwen": ("linear", "llama3", "yarn"),
    "phi": ("longrope",),
}
"""Scalings of rotary positions that engines compute, by converter; the others ignore ``rope_scaling``.

Source: TensorRT-LLM 0.17 to 1.2, tensorrt_llm/layers/attention.py: what ``create_attention_const_params`` has a branch
for. ``default``, said aloud, is no RotaryScalingType (functional.py); ``dynamic``, and ``longrope`` elsewhere than in
Phi-3 of 128k, end as plain frequencies times the factor; models/phi3/config.py reads factors from 128,000 tokens on.
"""
_PHI_LONGROPE_TOKENS = 128_000

# Where transformers 4, which these releases read config.json with, finds nothing, it takes its own defaults.
_DEFAULT_ROPE_THETA = 10_000.0


def rope_problem(model: ModelInfo, family: Family) -> Problem | None:
    """Return why an engine would place tokens elsewhere than the model was trained to, or could not be built; or None.

    Without this, it shows when trtllm-build runs or, worse, in what the engine answers.
    """
    if model.architecture in _NO_ROPE:
        return None
    known = _ENGINE_ROPE.get(family.name, ())
    if model.rope_type == "default" and (model.config or {}).get("rope_scaling"):
        return Problem(
            reason=f"{model.name}: config.json has rope_scaling of the type 'default', which says what its "
            "absence says, and which no TensorRT-LLM converter knows",
            remedy="a copy of the model whose config.json has no rope_scaling",
        )
    if model.rope_type and model.rope_type not in known and not _is_plain_for_old_readers(model):
        can = ", ".join(("none", *known))
        return Problem(
            reason=f"{model.name} scales rotary positions by {model.rope_type!r}; engines of the {family.name} "
            f"converter compute {can}",
            remedy="another model",
        )
    if model.rope_type == "longrope" and model.context_tokens < _PHI_LONGROPE_TOKENS:
        return Problem(
            reason=f"{model.name} has longrope within {model.context_tokens} tokens; the {family.name} converter reads "
            f"it from {_PHI_LONGROPE_TOKENS} tokens on",
            remedy="another model",
        )
    missed = unread_rope(model)
    if missed:
        return Problem(
            reason=f"{model.name}: config.json has {missed} in rope_parameters only, where transformers 5 writes it; "
            "TensorRT-LLM's converters read it with transformers 4 and would take a default",
            remedy="a directory with a copy of the model whose config.json has it as transformers 4 wrote it "
            "(rope_theta at the top, the rest in rope_scaling)",
        )
    return None


_NO_ROPE = frozenset({"GPT2LMHeadModel", "OPTForCausalLM"})


def _is_plain_for_old_readers(model: ModelInfo) -> bool:
    """Whether the only mention of a rope type is the plain one, where old readers do not look."""
    return model.rope_type == "default" and not (model.config or {}).get("rope_scaling")


def unread_rope(model: ModelInfo) -> str:
    """Return the options of rotary positions that readers of transformers 4's spelling miss, or ""."""
    config = model.config or {}
    settings = config.get("rope_parameters")
    if not isinstance(settings, Mapping) or model.architecture in _NO_ROPE:
        return ""
    missed = []
    if config.get("rope_theta") is None and settings.get("rope_theta") not in {None, _DEFAULT_ROPE_THETA}:
        missed.append("rope_theta")
    if model.rope_type not in {"", "default"} and not config.get("rope_scaling"):
        missed.append("rope_type")
    return " and ".join(missed)
