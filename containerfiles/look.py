#!/usr/bin/env python3
"""Say what is wrong with a built image: its configuration, what it added to its base, bytecode, bill of materials.

Called by test.sh with the mounted roots: look.py NAME INSPECT.json BASE_ROOT IMAGE_ROOT. One line per finding; exit
code 1 if there is any.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENTRYPOINTS = {"cpu": ["trtbuild"], "client": ["trtclient"]}
HEALTH_CHECKS = {"cpu": ["CMD", "trtbuild", "health", "ready"], "client": None}
ENVIRONMENT = re.compile(r"PATH|HOME|HF_HUB_DISABLE_TELEMETRY|PYTHONDONTWRITEBYTECODE|TRTBUILD_(STORE|HF_CACHE)")
SECRETS = re.compile(
    r"\bhf_\w{20,}|\bAKIA\w{16}|(?i:password|secret|(api|access)[_-]?key|//[^/\s]+:[^/\s]+@|\bpip_|_proxy=)"
)
ADDED = re.compile(
    r"opt/trtbuild(/.*)?|usr/share/trtbuild(/sbom\.cdx\.json)?|usr/lib/python3\.11/(.*/)?__pycache__(/[^/]+\.pyc)?"
    r"|(var/lib|run)/trtbuild|etc/(passwd|group)|etc/(hosts|resolv\.conf|hostname)"  # the last three: mount points
)


def configuration(name: str, inspected: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with user, entry point, health check, labels, environment and history."""
    config = inspected["Docker"]["config"]
    labels = config.get("Labels") or {}
    expected = {
        "user": (config.get("User"), "10001:10001"),
        "entry point (as a list, so that signals reach it)": (config.get("Entrypoint"), ENTRYPOINTS[name]),
        "health check": ((config.get("Healthcheck") or {}).get("Test"), HEALTH_CHECKS[name]),
    }
    for what, (seen, wanted) in expected.items():
        if seen != wanted:
            yield f"{what}: {seen}, expected {wanted}"
    if not re.fullmatch(r"\d+\.\d+\.\d+\S*", labels.get("org.opencontainers.image.version", "")):
        yield f"label version: {labels}"
    if not re.fullmatch(r"[0-9a-f]{40}", labels.get("org.opencontainers.image.revision", "")):
        yield f"label revision: {labels}, expected a commit"
    for variable in config.get("Env") or []:
        if not ENVIRONMENT.fullmatch(variable.split("=")[0]):
            yield f"environment: {variable.split('=')[0]} is none of ours"
    history = json.dumps(inspected["OCIv1"]["history"])
    if found := SECRETS.search(history):
        yield f"history: holds {found.group()!r}"


def _files(root: Path) -> dict[str, os.stat_result]:
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            found[str(path.relative_to(root))] = path.lstat()
    return found


def contents(base_root: Path, root: Path) -> Iterator[str]:
    """Yield files that an image should not have added to its base: caches, logs, backups, privileges."""
    base, image = _files(base_root), _files(root)
    for path in sorted(base.keys() - image.keys()):
        yield f"{path}: gone from the base"
    for path, now in sorted(image.items()):
        before = base.get(path)
        same = before and (before.st_mode, before.st_uid, before.st_size) == (now.st_mode, now.st_uid, now.st_size)
        if same and (not stat.S_ISREG(now.st_mode) or (base_root / path).read_bytes() == (root / path).read_bytes()):
            continue
        if not ADDED.fullmatch(path):
            yield f"{path}: {'changed' if before else 'added'}, outside of what an image adds"
        if stat.S_ISREG(now.st_mode) and now.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
            yield f"{path}: mode {now.st_mode & 0o7777:o}"
        if re.search(r"/(pip|setuptools|ensurepip)/__init__\.py$|\.whl$", path):
            yield f"{path}: only a build needs it"


def bytecode(root: Path) -> Iterator[str]:
    """Yield modules without bytecode, and bytecode that goes by its source's time."""
    modules = list(root.glob("opt/trtbuild/lib/**/*.py"))
    for module in modules:
        cached = [*module.parent.glob(f"__pycache__/{module.stem}.cpython-*.pyc")]
        # Source: PEP 552: bytes 4 to 7 are flags; bit 0: by hash, bit 1: the hash is checked.
        if len(cached) != 1 or int.from_bytes(cached[0].read_bytes()[4:8], "little") != 3:
            yield f"{module.relative_to(root)}: has no bytecode that names it by hash"
    if not modules:
        yield "no Python modules below opt/trtbuild/lib"


def bill(name: str, root: Path) -> Iterator[str]:
    """Yield what the bill of materials lists but is neither locked nor installed, and the other way round."""
    listed: dict[str, set[tuple[str, str]]] = {"pypi": set(), "deb": set()}
    for part in json.loads((root / "usr/share/trtbuild/sbom.cdx.json").read_text())["components"]:
        if "purl" in part:
            listed[re.split("[:/]", part["purl"])[1]].add((part["name"], part["version"]))
    lock = re.findall(r"^([\w.-]+)==([^\s;]+)", (HERE / f"requirements-{name}.txt").read_text(), re.MULTILINE)
    ours = {item for item in listed["pypi"] if item[0] == "trtbuild"}
    wanted = {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in lock} | ours
    directories = (path.stem.split("-") for path in root.glob("opt/trtbuild/lib/python3*/site-packages/*.dist-info"))
    installed = {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in directories}
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\n"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    packages = {(line.split()[1], line.split()[2]) for line in lines if line.startswith("ii")}
    if len(ours) != 1:
        yield f"bill of materials: trtbuild once expected, found {sorted(ours)}"
    for what, left, right in (
        ("locked", listed["pypi"], wanted),
        ("installed", listed["pypi"], installed),
        ("installed, says dpkg", listed["deb"], packages),
    ):
        if left != right or not right:
            yield f"bill of materials: listed, not {what}: {sorted(left - right)}"
            yield f"bill of materials: {what}, not listed: {sorted(right - left)}"
    sys.stderr.write(f"bill of materials: {len(listed['pypi'])} Python and {len(listed['deb'])} Debian packages\n")


def main() -> None:
    """Print every finding; fail if there is one."""
    name, inspected, base_root, root = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), *map(Path, sys.argv[3:])
    findings = [*configuration(name, inspected), *contents(base_root, root), *bytecode(root), *bill(name, root)]
    sys.stderr.write("".join(f"{finding}\n" for finding in findings[:40]))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
