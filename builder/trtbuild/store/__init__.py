"""The engine store: published once, found by key, shared by pods, bounded, verifiable.

:class:`Store` finds and publishes; :func:`collect` and :func:`make_room` keep it within its budgets. The
other names are the values they return.
"""

from __future__ import annotations

from trtbuild.store.beacon import Owner
from trtbuild.store.budget import Collection, Item, Removal, Usage, collect, make_room, measure
from trtbuild.store.core import Claim, Layout, Staging, Store
from trtbuild.store.entries import Broken, Difference, Entry, Explanation, Miss
from trtbuild.store.leases import Lease
from trtbuild.store.manifest import FileRecord, Manifest, Problem, VerifyMode

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
    "Staging",
    "Store",
    "Usage",
    "VerifyMode",
    "collect",
    "make_room",
    "measure",
]
