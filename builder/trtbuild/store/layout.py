"""Where things are below a store's root, and which directories are the store's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trtbuild.plan.key import EngineKey

Part = Literal["hashes", "logs", "models", "repositories", "servers", "timing"]
"""Directories below the root that others fill: hashes of local models, models from Python packages, logs and
programs of servers, model repositories and kernel timings. They are counted, and but for old logs never collected."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things are below the root."""

    root: Path

    @property
    def engines(self) -> Path:
        """Published entries."""
        return self.root / "engines"

    @property
    def staging(self) -> Path:
        """Builds under way, one directory and one ``.owner`` beacon each."""
        return self.root / ".staging"

    @property
    def claims(self) -> Path:
        """Who builds which key."""
        return self.root / ".claims"

    @property
    def leases(self) -> Path:
        """Who uses which entry."""
        return self.root / ".leases"

    @property
    def downloads(self) -> Path:
        """Unfinished downloads from the shared tier, one directory per digest, resumed by whoever comes next."""
        return self.root / ".downloads"

    @property
    def quarantine(self) -> Path:
        """Entries that failed a check, kept for inspection until collected."""
        return self.root / ".quarantine"

    @property
    def trash(self) -> Path:
        """Entries on their way out."""
        return self.root / ".trash"

    @property
    def used(self) -> Path:
        """One file per digest; its modification time is the last use."""
        return self.root / ".state" / "used"

    @property
    def pins(self) -> Path:
        """One file per pinned digest."""
        return self.root / ".state" / "pins"

    @property
    def durations(self) -> Path:
        """Recorded build times."""
        return self.root / ".state" / "durations"

    @property
    def logs(self) -> Path:
        """Logs of failed builds."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """Work directories that were asked to be kept."""
        return self.root / "checkpoints"

    def part(self, name: Part) -> Path:
        """Return a directory in which another part of the program keeps something."""
        return self.root / name

    def own(self) -> tuple[Path, ...]:
        """Return every directory below the root that this program writes to or removes from."""
        places = (self.engines, self.staging, self.claims, self.leases, self.downloads, self.quarantine, self.trash)
        state = (self.used, self.pins, self.durations, self.logs, self.checkpoints)
        return (*places, *state, *(self.part(name) for name in get_args(Part) if name != "logs"))

    def entry(self, key: EngineKey) -> Path:
        """Return where the entry of ``key`` is, or would be."""
        return self.engines / key.relative_path
