"""What a repository holds before it is on disk: contents by path, and which directories belong to which name."""

from __future__ import annotations

from pathlib import Path

RECORD = "trtbuild-repository.json"
"""File of a repository that says which of its directories belong to which served name."""

PYTHON_LEFTOVERS = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache"})
"""Directories that running or checking Python code leaves behind; no part of a repository."""

Files = dict[str, bytes]
"""Contents by path below the repository, with ``/``; a path that ends in ``/`` is an empty directory."""

Record = dict[str, list[str]]
"""Served name to the model directories that belong to it."""


def files_below(directory: Path) -> list[Path]:
    """Return the files of a tree, sorted, without what Python leaves behind."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not PYTHON_LEFTOVERS & set(path.relative_to(directory).parts)
    )
