"""The options of rotary positions, from their two places and two spellings in a config.json. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trtbuild.errors import FetchError
from trtbuild.untrusted import Fields, shown

_THETA = 10_000.0
_DAMAGED = "the file is damaged or not a model's; download the model again"
_BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
"""Options that stand at the top of config.json in transformers 4 and inside ``rope_parameters`` in 5."""


def rope_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of rotary positions with one spelling.

    ``rope_parameters`` is transformers 5's name, ``rope_scaling`` 4's; ``type`` is older than ``rope_type``, and ``su``
    is what Phi-3's first configurations call ``longrope``. Models with several kinds of layers have an object for each;
    the one of full attention counts. ``rope_type`` is "" where nothing is said.

    Where both objects are there, transformers takes ``rope_scaling`` whole and forgets the other, theta included. That
    is hardly what who wrote them meant, so they must agree.
    Source: transformers 5.24, modeling_rope_utils.py, ``convert_rope_params_to_dict``, ``standardize_rope_params``;
    4.57, the ``__init__`` of each configuration.

    Raises:
        FetchError: They are no objects, or something is said twice differently.
    """
    given = Fields(where, config)
    new, old = given.object("rope_parameters"), given.object("rope_scaling")
    if new and old:
        _check_agreement(config, new, old, where)
    settings = _one_spelling(old or new, where, "rope_scaling" if old else "rope_parameters")
    for name in _BESIDE:
        beside = config.get(name)
        if settings.get(name) is None:
            settings[name] = beside
        elif beside is not None and beside != settings[name]:
            raise FetchError(
                f"{where} says {name} twice: {shown(settings[name])} in {'rope_scaling' if old else 'rope_parameters'} "
                f"and {shown(beside)} beside it; releases of transformers take different ones",
                hint=f"keep the {name} that the model was trained with and remove the other from config.json",
            )
    return settings


def _one_spelling(given: Mapping[str, Any], where: str, place: str) -> dict[str, Any]:
    settings = dict(given)
    if isinstance(settings.get("full_attention"), dict):
        settings = dict(settings["full_attention"])
    first, second = settings.get("rope_type"), settings.get("type")
    if first and second and _kind(first, where) != _kind(second, where):
        raise FetchError(
            f"{where}: {place} says rope_type {shown(first)} and type {shown(second)}; transformers 5 takes the first, "
            "transformers 4 the second",
            hint=f"remove one of them from {place} in config.json",
        )
    settings["rope_type"] = _kind(first or second or "", where)
    settings.pop("type", None)
    lost = sorted(settings.keys() - {"rope_type", *_BESIDE})
    is_by_layer = any(isinstance(settings[name], dict) for name in lost)
    if lost and not settings["rope_type"] and not is_by_layer:
        raise FetchError(
            f"{where}: {place} has {', '.join(lost)} and no rope_type, without which nothing is made of it",
            hint=f'name the kind in {place} of config.json, e.g. "rope_type": "linear"',
        )
    return settings


def _kind(value: object, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]{0,40}", value, re.ASCII):
        raise FetchError(f"{where}: rope_type: expected a name such as llama3, got {shown(value)}", hint=_DAMAGED)
    return {"su": "longrope"}.get(value, value)


def _check_agreement(config: Mapping[str, Any], new: Mapping[str, Any], old: Mapping[str, Any], where: str) -> None:
    """Refuse ``rope_scaling`` and ``rope_parameters`` that give different frequencies."""
    theta = config.get("rope_theta")
    both = []
    for place, given in (("rope_parameters", new), ("rope_scaling", old)):
        settings = _one_spelling(given, where, place)
        settings["rope_type"] = settings["rope_type"] or "default"
        if settings.get("rope_theta") is None:
            settings["rope_theta"] = _THETA if theta is None else theta
        both.append(settings)
    names = both[0].keys() | both[1].keys()
    if differing := sorted(name for name in names if both[0].get(name) != both[1].get(name)):
        name = "rope_type" if "rope_type" in differing else differing[0]
        raise FetchError(
            f"{where} describes rotary positions twice: {name} is {shown(both[0].get(name))} by rope_parameters and "
            f"{shown(both[1].get(name))} by rope_scaling; transformers would take rope_scaling alone",
            hint="write all of it into rope_parameters and remove rope_scaling from config.json",
        )
