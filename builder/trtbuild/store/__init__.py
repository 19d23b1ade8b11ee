"""The engine store: published once, found by key, shared by pods, bounded, verifiable.

``Store`` is the whole interface; the other names are the values it returns.
"""

from __future__ import annotations

from trtbuild.store.beacon import Owner
from trtbuild.store.core import Claim, Layout, Staging, Store
from trtbuild.store.entries import Broken, Difference, Entry, Explanation, Miss
from trtbuild.store.manifest import FileRecord, Manifest, Problem, VerifyMode

__all__ = [
    "Broken",
    "Claim",
    "Difference",
    "Entry",
    "Explanation",
    "FileRecord",
    "Layout",
    "Manifest",
    "Miss",
    "Owner",
    "Problem",
    "Staging",
    "Store",
    "VerifyMode",
]
