#!/usr/bin/env python3
"""Write an image's bill of materials from what is installed in it, not from what was asked for.

Lists the Python distributions below the given prefixes and those that the base brings itself, and Debian's packages, as
CycloneDX 1.6 in JSON. Needs no network and no package. The same contents give the same bytes: everything is sorted, and
the optional time and serial number are left out. Runs while an image is built:

    python3 sbom.py IMAGE OUTPUT [PREFIX...]
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import site
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]
_LONGEST_LICENSE = 100
"""Characters; some packages put the text of the licence where its name belongs."""


def site_directories(prefixes: Iterable[Path]) -> list[Path]:
    """Return where Python packages lie: below ``prefixes`` and in the base, except what Debian's packages own."""
    own = [path for prefix in prefixes for path in prefix.glob("lib/python3*/site-packages")]
    # Debian installs below /usr/lib/python3; those are in its own list already, under its own names.
    base = [Path(path) for path in site.getsitepackages() if not path.startswith("/usr/lib/python3")]
    return sorted({path for path in (*own, *base) if path.is_dir()})


def _license(found: importlib.metadata.Distribution) -> list[dict[str, Any]]:
    fields = found.metadata
    if "License-Expression" in fields:
        return [{"expression": fields["License-Expression"]}]
    name = fields["License"].strip() if "License" in fields else ""
    return [{"license": {"name": name}}] if name and "\n" not in name and len(name) <= _LONGEST_LICENSE else []


def python_components(directories: Iterable[Path]) -> list[Component]:
    """Return a component per installed Python distribution."""
    components = []
    for found in importlib.metadata.distributions(path=[str(path) for path in directories]):
        # Source: Python packaging specification "Names and normalization"; package URLs of type pypi ask for the same.
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{_quoted(found.version)}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": found.version, "purl": purl}
        licenses = _license(found)
        components.append({**component, "licenses": licenses} if licenses else component)
    return components


def debian_components(status: str, system: dict[str, str]) -> list[Component]:
    """Return a component per installed Debian package.

    Args:
        status: The contents of ``/var/lib/dpkg/status``.
        system: The fields of ``/etc/os-release``.
    """
    release, number = system.get("ID", "debian"), system.get("VERSION_ID", "")
    components = []
    for stanza in re.split(r"\n\n+", status):
        fields = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", stanza, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        distro = f"&distro={release}-{number}" if number else ""
        purl = f"pkg:deb/{release}/{_quoted(name)}@{_quoted(version)}?arch={architecture}{distro}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    if components and number:
        # Scanners choose their list of vulnerabilities by it.
        components.append({"type": "operating-system", "bom-ref": release, "name": release, "version": number})
    return components


def _quoted(text: str) -> str:
    # Source: package URL specification, "Character encoding": a colon stays as it is.
    return quote(text, safe=":")


def document(image: str, components: Iterable[Component]) -> str:
    """Return the bill of ``image``, whose version is that of the trtbuild in it."""
    unique = {component["bom-ref"]: component for component in components}
    version = next((part["version"] for part in unique.values() if part["name"] == "trtbuild"), None)
    if version is None:
        raise SystemExit("error: trtbuild is not installed where sbom.py looked; give the prefix it is installed in")
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": image, "name": image, "version": version}},
        "components": [unique[key] for key in sorted(unique)],
    }
    return json.dumps(bill, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the bill of the image that this runs in."""
    if len(sys.argv) < 3:
        raise SystemExit("usage: sbom.py IMAGE OUTPUT [PREFIX...]")
    image, output, *prefixes = sys.argv[1:]
    status = Path("/var/lib/dpkg/status")
    system = platform.freedesktop_os_release() if status.is_file() else {}
    components = python_components(site_directories(map(Path, prefixes)))
    if status.is_file():
        components += debian_components(status.read_text("utf-8"), system)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(document(image, components), "utf-8")


if __name__ == "__main__":
    main()
