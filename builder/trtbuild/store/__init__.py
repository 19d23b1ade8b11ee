"""The engine store: published once, found by key, shared by pods, bounded, verifiable.

:class:`Store` finds and publishes; :func:`collect` and :func:`make_room` keep it within its budgets. The
other names are the values they return.
"""

from __future__ import annotations

from trtbuild.store.beacon import Owner
from trtbuild.store.budget import Collection, Item, Removal, Usage, collect, make_room, measure
from trtbuild.store.bundle import export_bundle, import_bundle
from trtbuild.store.core import Claim, Layout, Staging, Store
from trtbuild.store.entries import Broken, Difference, Entry, Explanation, Miss
from trtbuild.store.leases import Lease
from trtbuild.store.manifest import FileRecord, Manifest, Problem, VerifyMode
from trtbuild.store.shared import Shared
from trtbuild.store.tier import Tier, open_tier

__all__ = [
    "Broken",
    "Claim",
    "Collection",
    "Difference",
    "Entry",
    "Explanation",
    "FileRecord",
    "Item",
    "Layout",
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
    "measure",
    "open_tier",
]
