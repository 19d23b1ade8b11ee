"""The second tier: engines that another node built, in a directory or a bucket that all nodes reach."""

from __future__ import annotations

from trtbuild.store.shared.address import open_tier
from trtbuild.store.shared.exchange import Shared
from trtbuild.store.shared.tier import Tier, TierError

__all__ = ["Shared", "Tier", "TierError", "open_tier"]
