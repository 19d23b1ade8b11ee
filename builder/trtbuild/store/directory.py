"""A store's directory: what this process creates and moves below it, and in whose name.

It decides that everything gets the group and the modes of the root, that no link leads out of it, and that the root is
marked as a cache. Every other part of the store works on one of these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtbuild.store import beacon, disk, links
from trtbuild.store.beacon import Beacon
from trtbuild.store.claims import Claims
from trtbuild.store.layout import Layout
from trtbuild.store.owner import Owner, current_owner
from trtbuild.store.sharing import Sharing, give_back_to_group, sharing_of


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreDirectory:
    """A root, and this process's way of writing below it.

    Attributes:
        layout: Where things are.
        now: The clock, in seconds since 1970.
        label: Name of this pod or host in messages; None for the host name.
        asked_sharing: Group and modes for a root that has none of its own yet.
    """

    layout: Layout
    now: Callable[[], float]
    label: str | None
    asked_sharing: Sharing

    @property
    def root(self) -> Path:
        """The store's root, as it was named."""
        return self.layout.root

    @functools.cached_property
    def claims(self) -> Claims:
        """Who builds which key."""
        return Claims(self.layout.claims, make_owner=self.new_owner, sharing=self.sharing)

    @functools.cached_property
    def downloads(self) -> Claims:
        """Who continues which download from the shared tier."""
        return Claims(self.layout.downloads, make_owner=self.new_owner, sharing=self.sharing)

    def sharing(self) -> Sharing:
        """Return the group and modes of what is created here: those of the root, else those asked for."""
        asked = self.asked_sharing
        return asked if asked.group is not None else sharing_of(self.root) or asked

    def refuse_links(self) -> None:
        """Refuse a store one of whose own directories is a link: what is behind it is somebody else's.

        Raises:
            OSError: ``ELOOP`` with the link's path.
        """
        for directory in self.layout.own():
            links.refuse_links(directory, below=self.root)

    def prepare(self, directory: Path) -> None:
        """Create a directory of the store, and the root with its tag.

        Raises:
            OSError: It cannot be created, or a link is in its place.
        """
        self.refuse_links()
        links.refuse_links(directory, below=self.root)
        sharing = self.sharing()
        disk.tag_root(self.root, mode=sharing.dir_mode, group=sharing.group)
        disk.make_dir(directory, mode=sharing.dir_mode, group=sharing.group)
        for part in (directory, *directory.parents):
            if self.root not in part.parents:
                break
            give_back_to_group(part, sharing)

    def move_aside(self, path: Path, into: Path) -> Path | None:
        """Move a directory below the root to a new name in ``into``; None when it is gone already.

        Raises:
            OSError: It cannot be renamed, or a link leads out of the root.
        """
        sharing = self.sharing()
        moved = disk.move_aside(
            path, into, label=path.name, below=self.root, mode=sharing.dir_mode, group=sharing.group
        )
        give_back_to_group(into, sharing)
        return moved

    def create_beacon(self, path: Path, owner: Owner) -> Beacon | None:
        """Create a beacon with the store's group and modes; None when there is one already."""
        sharing = self.sharing()
        return beacon.create(path, owner, mode=sharing.file_mode, group=sharing.group)

    def new_owner(self) -> Owner:
        """Return this process as an owner with a new token."""
        return current_owner(self.label, now=self.now())
