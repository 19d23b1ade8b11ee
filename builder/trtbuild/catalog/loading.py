"""Read the catalog's YAML files from the installed package.

It decides where the files are and how a bad one is reported. It does not interpret them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any


@cache
def load(name: str) -> dict[str, Any]:
    """Return the parsed file ``<name>.yaml``; treat the result as read-only.

    PyYAML is imported here, and with libyaml where the wheel has it: ``--help`` must not pay for it.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones
    if not isinstance(data, dict):
        raise TypeError(f"{name}.yaml: expected a mapping at the top, got {type(data).__name__}")
    return data
