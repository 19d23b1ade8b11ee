"""Who builds: one claim per key, taken over when its owner dies.

It decides who of many processes on any number of pods builds a key. It rests on one promise of the file system, that
only one caller can create a name, and it needs no promise at all to be safe: two claims cost a second build, nothing
else, because ``publish`` is correct without them.

A claim is a chain of beacons: ``<digest>.first``, and, when the owner with token T was proven dead, ``<digest>.<T>``.
The last one holds. Creating ``<digest>.<T>`` can succeed once only, so two waiters who find the same dead owner
cannot both inherit. The holder releases by removing the chain from its beginning, its own beacon last; a waiter that
created its beacon on a removed chain sees that it is not reachable and withdraws.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtbuild.console import log
from trtbuild.store import beacon, disk, links, liveness
from trtbuild.store.beacon import Beacon
from trtbuild.store.disk_errors import explained
from trtbuild.store.liveness import Watch
from trtbuild.store.owner import UNKNOWN, Owner, read_owner
from trtbuild.store.sharing import Sharing

_FIRST = "first"
_MAX_CHAIN = 1000


@dataclass(frozen=True, kw_only=True)
class Held:
    """A claim of this process: its beacon, and the dead ones it inherited from, oldest first."""

    beacon: Beacon
    ancestors: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The claim of another process."""

    path: Path
    owner: Owner


class Claims:
    """The claims kept in one directory."""

    def __init__(self, directory: Path, *, make_owner: Callable[[], Owner], sharing: Callable[[], Sharing]) -> None:
        self._directory = directory
        self._make_owner = make_owner
        self._sharing = sharing
        self._watch = Watch()

    def try_claim(self, digest: str) -> Held | Holder:
        """Claim ``digest``, or return who has it. Does not wait."""
        while True:
            chain = self._chain(digest)
            if isinstance(chain, Holder):
                return chain
            name = chain[-1].owner.token if chain else _FIRST
            if chain:
                last = chain[-1]
                proof = liveness.proof_of_death(last.path, last.owner, unchanged_s=self._watch.unchanged_s(last.path))
                if proof is None:
                    return last
                log.get().info("store-takeover", f"taking over from {last.owner.describe()}: {proof}")
            owner = self._make_owner()
            sharing = self._sharing()
            mine = beacon.create(self._path(digest, name), owner, mode=sharing.file_mode, group=sharing.group)
            if mine is None:
                continue
            again = self._chain(digest)
            if isinstance(again, list) and any(link.owner.token == owner.token for link in again):
                return Held(beacon=mine, ancestors=tuple(link.path for link in chain))
            mine.close()

    def release(self, held: Held) -> None:
        """Give the claim up, and sweep the dead beacons it inherited from."""
        if self._path(held.beacon.path.name.split(".")[0], held.beacon.owner.token).exists():
            # Another process took this one for dead and inherited; it sweeps the chain.
            held.beacon.close(remove=False)
            return
        try:
            with explained("release a claim", held.beacon.path):
                for path in held.ancestors:
                    disk.unlink(path)
        finally:
            held.beacon.close()

    def holder(self, digest: str) -> Owner | None:
        """Return who builds ``digest`` now, as far as can be seen without waiting."""
        chain = self._chain(digest)
        if isinstance(chain, Holder):
            return None if _seems_dead(chain) else chain.owner
        if not chain:
            return None
        last = chain[-1]
        return None if _seems_dead(last) else last.owner

    def digests(self) -> set[str]:
        """Return every digest that has a claim, dead or alive."""
        found = links.children(self._directory, below=self._directory.parent)
        return {path.name.split(".")[0] for path in found if path.name[0] != "." and path.suffix}

    def sweep(self) -> None:
        """Remove the claims of all that are proven dead."""
        for digest in self.digests():
            outcome = self.try_claim(digest)
            if isinstance(outcome, Held):
                self.release(outcome)
            elif _seems_dead(outcome):
                # Removing the claim of a living builder costs a second build, no more.
                chain = self._chain(digest)
                for link in chain if isinstance(chain, list) else []:
                    disk.unlink(link.path)
            # Links that no chain reaches: their owner died while it released or withdrew.
            for path in self._directory.glob(f"{digest}.*"):
                with contextlib.suppress(ValueError):
                    owner = read_owner(path)
                    if owner and liveness.proof_of_death(path, owner, unchanged_s=0.0):
                        disk.unlink(path)

    def _path(self, digest: str, name: str) -> Path:
        return self._directory / f"{digest}.{name}"

    def _chain(self, digest: str) -> list[Holder] | Holder:
        """Return the chain of beacons, or its unreadable last link while it may still become readable."""
        links: list[Holder] = []
        name = _FIRST
        while len(links) < _MAX_CHAIN:
            path = self._path(digest, name)
            try:
                owner = read_owner(path)
                if owner is not None and self._path(digest, owner.token) in {path, *(link.path for link in links)}:
                    raise ValueError("it leads back into its own chain, which no claim does")
            except ValueError:
                unchanged_s = self._watch.unchanged_s(path)
                if unchanged_s >= liveness.STALE_S:
                    disk.unlink(path)
                    continue
                return Holder(path=path, owner=dataclasses.replace(UNKNOWN, elapsed_s=unchanged_s))
            if owner is None:
                return links
            links.append(Holder(path=path, owner=owner))
            name = owner.token
        return links


def _seems_dead(claim: Holder) -> bool:
    proof = liveness.proof_of_death(claim.path, claim.owner, unchanged_s=0.0)
    return proof is not None or liveness.is_silent(claim.path, claim.owner)
