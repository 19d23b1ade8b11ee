"""Write a repository: render it, swap it in, and say why when the disk refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild import diskspace
from trtbuild.errors import RepositoryError
from trtbuild.repository.render import ServedModel, render_repository
from trtbuild.repository.versions import read_current, refuse_foreign, swap_in, sweep, versions_directory, writing


def write_repository(root: Path, models: Sequence[ServedModel], *, keep_others: bool = False) -> Path:
    """Make ``root`` the repository that serves ``models``.

    Args:
        root: Path of the repository; its parent must be writable.
        models: What to serve, each under its own name.
        keep_others: Keep what the repository serves under other names.

    Returns:
        ``root``, for ``--model-repository``.

    Raises:
        RepositoryError: Something cannot be rendered, does not pass the checks or cannot be written.
    """
    needed_bytes = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with writing(root) as boot:
            sweep(versions_directory(root), boot)
            refuse_foreign(root)
            kept = read_current(root) if keep_others else ({}, {})
            record, files = render_repository(models, kept=kept)
            needed_bytes = sum(map(len, files.values()))
            return swap_in(root, record, files, boot)
    except OSError as error:
        raise unwritable(f"the model repository {root}", root.parent, error, needed_bytes=needed_bytes) from error


def unwritable(what: str, directory: Path, error: OSError, *, needed_bytes: int | None = None) -> RepositoryError:
    """Return the error for something that cannot be written below ``directory``: why, with the figures, and the remedy.

    Args:
        what: What cannot be written, for people.
        directory: Where it was to be.
        error: What the file system said.
        needed_bytes: Bytes that were to be written, when that is known.
    """
    found = diskspace.explain(directory, error, option="--repository", needed_bytes=needed_bytes)
    hint = found.remedy or "make the directory above it writable, or pass another --repository"
    return RepositoryError(f"cannot write {what}: {found.cause}", hint=hint)
