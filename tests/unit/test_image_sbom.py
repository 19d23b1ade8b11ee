"""The bill of materials in the images: every package once, the same bytes for the same contents."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "containerfiles" / "sbom.py"

STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression library
 Version: this line belongs to the description

Package: removed-one
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libstdc++6
Status: hold ok installed
Architecture: amd64
Version: 12.2.0-14+deb12u1
"""
SYSTEM = {"ID": "debian", "VERSION_ID": "12"}


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("containerfiles_sbom", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _install(prefix: Path, directory: str, *metadata: str) -> None:
    path = prefix / "lib/python3.11/site-packages" / directory
    path.mkdir(parents=True)
    (path / "METADATA").write_text("\n".join(("Metadata-Version: 2.4", *metadata)) + "\n")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    _install(tmp_path, "trtbuild-0.1.0.dist-info", "Name: trtbuild", "Version: 0.1.0", "License-Expression: Apache-2.0")
    _install(tmp_path, "Zope.Event-6.2.dist-info", "Name: zope.event", "Version: 6.2", "License: ZPL-2.1")
    _install(tmp_path, "torch-2.0+cpu.dist-info", "Name: torch", "Version: 2.0+cpu", f"License: {'text ' * 40}")
    return tmp_path


def test_python_packages_are_listed_by_their_normal_name(sbom: ModuleType, prefix: Path) -> None:
    found = {part["name"]: part for part in sbom.python_components(prefix.glob("lib/python3*/site-packages"))}
    assert {name: part["purl"] for name, part in found.items()} == {
        "trtbuild": "pkg:pypi/trtbuild@0.1.0",
        "zope-event": "pkg:pypi/zope-event@6.2",
        "torch": "pkg:pypi/torch@2.0%2Bcpu",
    }
    assert found["trtbuild"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert found["zope-event"]["licenses"] == [{"license": {"name": "ZPL-2.1"}}]
    assert "licenses" not in found["torch"], "the text of a licence is not its name"


def test_prefixes_are_looked_into_and_debians_own_directory_is_not(
    sbom: ModuleType, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = prefix / "usr/local/lib/python3.11/site-packages"
    base.mkdir(parents=True)
    monkeypatch.setattr("site.getsitepackages", lambda: [str(base), "/usr/lib/python3/dist-packages"])
    assert sbom.site_directories([prefix]) == sorted([base, prefix / "lib/python3.11/site-packages"])


def test_debian_packages_are_those_that_are_installed(sbom: ModuleType) -> None:
    assert [part.get("purl", part["type"]) for part in sbom.debian_components(STATUS, SYSTEM)] == [
        "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12",
        "operating-system",
    ]


def test_the_same_contents_give_the_same_bytes(sbom: ModuleType, prefix: Path) -> None:
    python = sbom.python_components(prefix.glob("lib/python3*/site-packages"))
    debian = sbom.debian_components(STATUS, SYSTEM)
    bill = sbom.document("trtbuild-cpu", [*python, *debian])
    assert bill == sbom.document("trtbuild-cpu", [*reversed(debian), *reversed(python), *python])
    read = json.loads(bill)
    assert (read["bomFormat"], read["specVersion"], len(read["components"])) == ("CycloneDX", "1.6", 6)
    assert read["metadata"]["component"]["version"] == "0.1.0"
    assert not {"serialNumber", "timestamp"} & (read.keys() | read["metadata"].keys())


def test_an_image_without_trtbuild_is_refused(sbom: ModuleType) -> None:
    with pytest.raises(SystemExit, match="trtbuild is not installed"):
        sbom.document("trtbuild-cpu", sbom.debian_components(STATUS, SYSTEM))


def test_it_describes_this_very_environment(sbom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sbom.py", "trtbuild-cpu", str(tmp_path / "new" / "sbom.cdx.json"), sys.prefix])
    sbom.main()
    read = json.loads((tmp_path / "new" / "sbom.cdx.json").read_text())
    assert {"trtbuild", "pytest", "click"} <= {part["name"] for part in read["components"]}
