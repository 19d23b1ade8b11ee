"""The engine store: published once, found by key, shared by pods, bounded, verifiable.

:class:`Store` finds and publishes. :func:`collect` and :func:`make_room` keep it within its budgets, :class:`Shared`
puts a second tier beside it, :func:`export_bundle` and :func:`import_bundle` carry single engines. The other names are
the values they take and return. A hit needs the first only, so the rest is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trtbuild.spec import VerifyMode
from trtbuild.store.elect import Claim
from trtbuild.store.entries import Broken, Difference, Entry, Explanation, Miss
from trtbuild.store.files import Problem
from trtbuild.store.lease import Lease
from trtbuild.store.manifest import FileRecord, Manifest
from trtbuild.store.owner import Owner
from trtbuild.store.stage import Staging
from trtbuild.store.store import Store

if TYPE_CHECKING:
    from trtbuild.store.budget import Collection, Removal
    from trtbuild.store.bundle import export_bundle, import_bundle
    from trtbuild.store.gc import collect, make_room
    from trtbuild.store.items import Item, Usage
    from trtbuild.store.shared import Shared, Tier, open_tier

_LAZY = {
    "Collection": "budget",
    "Item": "items",
    "Removal": "budget",
    "Usage": "items",
    "collect": "gc",
    "make_room": "gc",
    "export_bundle": "bundle",
    "import_bundle": "bundle",
    "Shared": "shared",
    "Tier": "shared",
    "open_tier": "shared",
}

__all__ = [
    "Broken",
    "Claim",
    "Collection",
    "Difference",
    "Entry",
    "Explanation",
    "FileRecord",
    "Item",
    "Lease",
    "Manifest",
    "Miss",
    "Owner",
    "Problem",
    "Removal",
    "Shared",
    "Staging",
    "Store",
    "Tier",
    "Usage",
    "VerifyMode",
    "collect",
    "export_bundle",
    "import_bundle",
    "make_room",
    "open_tier",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
