"""Models known by alias: the catalog of models.yaml, and how a name finds its entry.

It decides what a model is called. It does not download anything and does not judge what can be built.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from functools import cache

from trtbuild.catalog.loading import load
from trtbuild.catalog.model_info import ModelInfo
from trtbuild.catalog.packages import Package


@cache
def models() -> tuple[ModelInfo, ...]:
    """Return the catalog in its written order."""
    known = {each.name for each in fields(ModelInfo)} - {"config"}
    found = []
    for name, entry in load("models")["models"].items():
        if unknown := set(entry) - known:
            raise TypeError(f"models.yaml: {name}: unknown keys {sorted(unknown)}")
        package = Package(**entry["package"]) if "package" in entry else None
        found.append(ModelInfo(name=name, **{**entry, "aliases": tuple(entry.get("aliases", ())), "package": package}))
    return tuple(found)


def _fold(name: str) -> str:
    """Return ``name`` without case, dashes, underscores and spaces: opt125m, OPT-125m and opt_125m are one name."""
    return re.sub(r"[-_ ]", "", name.lower())


@cache
def _by_name() -> dict[str, ModelInfo]:
    index: dict[str, ModelInfo] = {}
    for model in models():
        for name in (model.name, model.model_id, *model.aliases):
            if index.setdefault(_fold(name), model) is not model:
                raise ValueError(f"models.yaml: {name!r} names two models")
    return index


def find_model(name: str) -> ModelInfo | None:
    """Return the catalog's entry for an alias or a Hugging Face id, in any case and dashing; None when unknown."""
    return _by_name().get(_fold(name))


def closest_models(name: str, *, count: int = 3) -> tuple[str, ...]:
    """Return up to ``count`` catalog aliases that look like ``name``, nearest first."""
    near = difflib.get_close_matches(_fold(name), list(_by_name()), n=3 * count, cutoff=0.5)
    return tuple(dict.fromkeys(_by_name()[key].name for key in near))[:count]
