"""Known holes of old servers are data, and nothing that is named as a remedy has one."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from trtbuild import catalog
from trtbuild.errors import HostError
from trtbuild.plan import feasibility
from trtbuild.plan.memory import Layout
from trtbuild.serve import access
from trtbuild.serve.server import Server, server_version
from trtbuild.spec import ServerSpec

ROOT = Path(__file__).resolve().parents[3]
RELEASES = catalog.trtllm_releases()
FIRST_SAFE = "nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3"
ALL = {"CVE-2025-23310", "CVE-2025-23311", "CVE-2025-23319", "CVE-2025-23320", "CVE-2025-23334"}
IMAGE = re.compile(r"nvcr\.io/nvidia/tritonserver:(\d\d\.\d\d)-[\w-]+")


def unsafe_images(text: str) -> list[str]:
    """Return the images with known vulnerabilities that a text names."""
    return [found.group() for found in IMAGE.finditer(text) if catalog.open_advisories(found[1])]


@pytest.mark.parametrize(
    ("version", "is_unsafe"),
    [
        ("24.10", True), ("25.01", True), ("25.06", True), ("25.07", False), ("25.12", False), ("26.07", False),
        ("2.51.0", True), ("2.59.0", True), ("2.59.1", False), ("2.60.0", False), ("2.73", False), ("2.9.0", True),
    ],
)  # fmt: skip
def test_a_version_of_either_kind_is_judged(version: str, is_unsafe: bool) -> None:
    assert catalog.is_known_version(version)
    found = {number for known in catalog.open_advisories(version) for number in known.ids}
    assert found == (ALL if is_unsafe else set())


@pytest.mark.parametrize("version", ["", "unknown", "25", "1.2.1", "2", "25.7.1.4", "x25.01"])
def test_nothing_is_said_of_what_is_no_version(version: str) -> None:
    assert not catalog.is_known_version(version)
    assert not catalog.open_advisories(version)


def test_every_advisory_says_what_it_allows_and_names_a_listed_release() -> None:
    tags = {tag for release in RELEASES for tag in release.triton}
    for known in catalog.advisories():
        assert known.release in tags
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}", number) for number in known.ids)
        assert catalog.open_advisories(known.release) == ()
        assert known.allows in catalog.describe(catalog.open_advisories("24.10"))


@pytest.mark.parametrize(
    ("triton", "safe"),
    [("", FIRST_SAFE), ("24.10", FIRST_SAFE), ("25.06", FIRST_SAFE), ("2.58.0", FIRST_SAFE), ("25.09", "25.09-")],
)
def test_the_first_safe_image_from_a_release_on(triton: str, safe: str) -> None:
    assert safe in catalog.first_safe_image(triton)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_the_newest_image_of_a_release_is_safe_or_warned_of(release: catalog.TrtLlmRelease) -> None:
    warning = catalog.image_warning(release)
    assert bool(warning) == bool(unsafe_images(release.images[-1]))
    if warning:
        assert release.images[-1] in warning and FIRST_SAFE in warning and "TensorRT-LLM 0.20.0" in warning
    version, image = catalog.safe_image_since(release.version)
    assert not unsafe_images(image)
    assert catalog.parse_version(version) >= catalog.parse_version(release.version)
    assert image in catalog.trtllm(version).images


@pytest.mark.parametrize("version", ["0.1", "0.9.0", "0.16.0", "1.3.0rc10", "1.3.0rc21", "2.0.0", "none"])
def test_no_hint_on_a_version_names_an_unsafe_image(version: str) -> None:
    with pytest.raises(HostError) as caught:
        catalog.trtllm(version)
    assert IMAGE.search(caught.value.hint)
    assert not unsafe_images(caught.value.hint)


def test_no_remedy_of_a_release_names_an_unsafe_image() -> None:
    remedies: list[feasibility.Problem] = []
    none = next(preset for preset in catalog.presets() if preset.name == "none")
    for release, model, size in itertools.product(RELEASES, catalog.models(), (1, 3, 5)):
        layout = Layout(dtype="float16", kv_cache_dtype="auto", preset=none, tp_size=1, pp_size=size)
        for sku in {sku.compute_capability: sku for sku in catalog.skus()}.values():
            architecture = catalog.gpu_architecture(sku.compute_capability)
            remedies += feasibility.problems(
                model, layout, release=release, architecture=architecture, product=sku.product
            )
    texts = {problem.remedy for problem in remedies}
    naming = [text for text in texts if "an image with TensorRT-LLM" in text]
    assert naming
    for text in naming:
        assert IMAGE.search(text) and not unsafe_images(text), text


SHIPPED = (
    "containerfiles/*", "chart/**/*.yaml", "chart/**/*.tpl", "docs/*.md", "examples/**/*.y*ml", "clients/**/*.yaml",
    "README.md", "chart/README.md", "builder/trtbuild/**/*.py",
)  # fmt: skip


def test_no_file_that_is_shipped_recommends_an_unsafe_image() -> None:
    files = [path for pattern in SHIPPED for path in ROOT.glob(pattern) if path.is_file()]
    assert len(files) > 60
    assert not {str(path): found for path in files if (found := unsafe_images(path.read_text()))}
    bases = re.findall(
        r"^ARG BASE_IMAGE=(\S+tritonserver\S+)", (ROOT / "containerfiles/server.containerfile").read_text(), re.M
    )
    assert len(bases) == 1 and IMAGE.fullmatch(bases[0])


@pytest.mark.parametrize(
    ("kind", "versions", "found"),
    [
        ("wheel", {"triton_wheel": "0.7.0", "triton_image": "26.07"}, "24.10"),
        ("wheel", {"triton_wheel": "0.9.9"}, ""),
        ("native", {"triton_wheel": "0.7.0", "triton_image": "25.06", "triton": "2.59.0"}, "25.06"),
        ("native", {"triton": "2.59.0"}, "2.59.0"),
        ("native", {}, ""),
    ],
)
def test_a_server_s_version_is_that_of_its_own_image_or_wheel(kind: str, versions: dict[str, str], found: str) -> None:
    assert server_version(Server(path=Path("/x"), kind=kind), versions) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "is_wheel", "host", "words"),
    [
        ("24.10", True, "127.0.0.1", ["listens on this machine only", "no newer CPU server; keep it so"]),
        ("24.10", True, "0.0.0.0", ["listens on 0.0.0.0", "not for networks you do not trust", "--host at 127.0.0.1"]),
        ("25.06", False, "127.0.0.1", ["listens on this machine only", f"serve from {FIRST_SAFE} or newer"]),
        ("2.59.0", False, "10.0.0.1", ["10.0.0.1, not for networks you do not trust", f"serve from {FIRST_SAFE}"]),
    ],
)
def test_serve_names_the_risk_and_what_to_do(version: str, is_wheel: bool, host: str, words: list[str]) -> None:
    (text,) = access.exposure_warnings(ServerSpec(host=host), version, is_wheel=is_wheel)
    for word in (*words, *ALL, "one HTTP request in many chunks ends the server"):
        assert word in text


@pytest.mark.parametrize("version", ["25.07", "26.07", "2.59.1", ""])
def test_serve_says_nothing_of_a_server_without_known_holes(version: str) -> None:
    assert not list(access.exposure_warnings(ServerSpec(host="0.0.0.0"), version, is_wheel=False))
