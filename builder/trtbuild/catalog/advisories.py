"""Known vulnerabilities of old Triton servers, and which image is the first without them.

It decides which of them a release has. What is done about it is said by whoever starts or recommends a server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from trtbuild.catalog.loading import load
from trtbuild.catalog.release import TrtLlmRelease, image_name
from trtbuild.catalog.trtllm import trtllm_releases
from trtbuild.catalog.versions import parse_version

_RELEASE = re.compile(r"\d{2}\.\d{2}")
_SERVER = re.compile(r"2\.\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """A hole, closed in one release.

    Attributes:
        ids: Its numbers.
        allows: What a client can do with it.
        release: First container release without it, ``25.07``.
        server: Version of the server in that release, ``2.59.1``.
    """

    ids: tuple[str, ...]
    allows: str
    release: str
    server: str


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return every hole that is known here."""
    return tuple(
        Advisory(ids=tuple(entry["ids"]), allows=entry["allows"], release=entry["release"], server=entry["server"])
        for entry in load("advisories")["advisories"]
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def open_advisories(version: str) -> tuple[Advisory, ...]:
    """Return what a server of ``version`` has: a container release (``25.06``) or a server's version (``2.59.0``).

    Nothing is said of a version that is neither; see :func:`is_known_version`.
    """
    if _RELEASE.fullmatch(version):
        return tuple(known for known in advisories() if _numbers(version) < _numbers(known.release))
    if _SERVER.fullmatch(version):
        return tuple(known for known in advisories() if _numbers(version) < _numbers(known.server))
    return ()


def is_known_version(version: str) -> bool:
    """Return whether anything can be said of a version."""
    return bool(_RELEASE.fullmatch(version) or _SERVER.fullmatch(version))


def wheel_release(version: str) -> str:
    """Return the container release of the server in a wheel, "" for a wheel that is in no table."""
    return str(load("advisories")["wheels"].get(version, ""))


def first_safe_image(triton: str = "") -> str:
    """Return the image to use instead of the one of a Triton release: the first without a known hole, from it on.

    Args:
        triton: The release there is, ``25.03``; anything else stands for the oldest supported one.
    """
    least = _numbers(triton) if _RELEASE.fullmatch(triton) else ()
    tags = [tag for release in trtllm_releases() for tag in release.triton]
    safe = [tag for tag in tags if not open_advisories(tag)]
    return image_name(next((tag for tag in safe if _numbers(tag) >= least), safe[-1]))


def image_warning(release: TrtLlmRelease) -> str:
    """Return what is to be said of the newest image of a TensorRT-LLM release, "" when it has no known hole."""
    found = open_advisories(release.triton[-1])
    if not found:
        return ""
    safe = first_safe_image(release.triton[-1])
    version = next(known.version for known in trtllm_releases() if safe in known.images)
    return (
        f"{release.images[-1]} has known vulnerabilities: {describe(found)}; the first image without them is "
        f"{safe}, with TensorRT-LLM {version}, for which engines are built again"
    )


def safe_image_since(version: str) -> tuple[str, str]:
    """Return the first TensorRT-LLM release from ``version`` on with a safe image, and that image."""
    later = [known for known in trtllm_releases() if parse_version(known.version) >= parse_version(version)]
    pairs = [(known.version, tag) for known in later for tag in known.triton if not open_advisories(tag)]
    return pairs[0][0], image_name(pairs[0][1])


def describe(found: tuple[Advisory, ...]) -> str:
    """Return what a set of holes allows, with their numbers, in one phrase."""
    return "; ".join(f"{known.allows} ({', '.join(known.ids)})" for known in found)
