"""Files of an upstream release, out of a git directory, for the tools that compare tables with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path


def git(directory: Path, *arguments: str) -> str:
    """Return what git prints; end the program where it fails."""
    command = ["git", "-C", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"error: {' '.join(command)}: {done.stderr.strip()}\nhint: name a git directory and a tag in it"
        )
    return done.stdout


def extract(directory: Path, tag: str, patterns: Iterable[str], into: Path) -> int:
    """Write the files of a tag whose paths match one of the patterns; return how many there are.

    The files are read one by one: a snapshot of a repository may lack its largest files, and an archive of it fails.
    """
    wanted = tuple(patterns)
    names = [
        name
        for name in git(directory, "ls-tree", "-r", "--name-only", f"{tag}^{{commit}}").splitlines()
        if any(fnmatch(name, pattern) for pattern in wanted)
    ]
    for name in names:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(git(directory, "show", f"{tag}:{name}"), encoding="utf-8")
    return len(names)
