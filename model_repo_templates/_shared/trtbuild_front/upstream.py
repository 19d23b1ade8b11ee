"""Inputs of TensorRT-LLM's own models, and what is done with those that this model or its engine cannot serve.

Clients written for TensorRT-LLM's templates send many inputs with values that mean "nothing special". Those are
accepted; a value that asks for something is refused by name, never ignored. The table is ``upstream_inputs.json``; the
repository's templates declare their inputs from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front.faults import RequestError

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class UpstreamInput:
    """One input.

    Attributes:
        rank: Number of dimensions without the batch dimension.
        purpose: What it is for, in words that fit after "no".
        least: Value that asks for nothing, beside 0, False and the empty text.
        is_for_engine: Whether engine models that can serve it take it under the same name, as it is.
        is_ignored: Whether it has no effect where it is not served.
    """

    rank: int
    purpose: str
    least: int = 0
    is_for_engine: bool = False
    is_ignored: bool = False


def _load() -> dict[str, UpstreamInput]:
    path = Path(__file__).resolve().parent / "upstream_inputs.json"
    return {
        name: UpstreamInput(
            rank=len(entry["dims"]),
            purpose=entry["purpose"],
            least=entry.get("least", 0),
            is_for_engine=entry.get("engine", False),
            is_ignored=entry.get("ignored", False),
        )
        for name, entry in json.loads(path.read_text(encoding="utf-8"))["inputs"].items()
    }


INPUTS: Mapping[str, UpstreamInput] = _load()
FOR_ENGINE = frozenset(name for name, entry in INPUTS.items() if entry.is_for_engine)
NEVER_SERVED = frozenset(
    {
        *("decoder_text_input", "image_input", "image_bytes_input", "image_url_input", "video_bytes_input"),
        *("prompt_table_extra_id", "embedding_bias_words", "embedding_bias_weights"),
        *("num_draft_tokens", "use_draft_logits", "return_kv_cache_reuse_stats"),
        *("return_context_logits", "return_generation_logits", "num_return_sequences", "beam_width"),
    }
)
"""What ``tensorrt_llm_bls`` and the front model take only with a value that asks for nothing."""


def asks_for_something(name: str, value: Array) -> bool:
    """Return whether an input has another value than the ones that mean "not set"."""
    entry = INPUTS[name]
    if value.dtype.kind in "OU":
        return any(bool(item) for item in value.reshape(-1))
    return bool(np.any((value != 0) & (value != entry.least)))


def refuse(values: Mapping[str, Array], names: Iterable[str]) -> None:
    """Refuse requests that need one of ``names``, which neither this model nor its engine serves.

    Raises:
        RequestError: One of them asks for something.
    """
    for name in sorted(set(names) & values.keys()):
        if not INPUTS[name].is_ignored and asks_for_something(name, values[name]):
            raise RequestError(f"{name}: this model has no {INPUTS[name].purpose}; leave {name} out")


def for_engine(values: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs that the engine model takes as they are and that ask for something; no batch dimension."""
    return {
        name: values[name].reshape(values[name].shape[values[name].ndim - INPUTS[name].rank :])
        for name in sorted(FOR_ENGINE & values.keys())
        if asks_for_something(name, values[name])
    }
