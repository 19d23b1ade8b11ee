"""What a family of models is to the cpu backend: how its config.json is read, and how its graph is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.untrusted import Fields

if TYPE_CHECKING:
    from trtbuild.backends.cpu.graph import Graph, Node


@dataclass(frozen=True, kw_only=True)
class Family:
    """Architectures that are read and built alike, each with a parity test against transformers.

    Attributes:
        architectures: Names in config.json: what people call the models.
        read: Returns the decoder that a config.json of an architecture describes.
        build: Puts the graph together, calls back after each layer, and returns the logits.
    """

    architectures: Mapping[str, str]
    read: Callable[[str, Mapping[str, Any], Fields], Decoder]
    build: Callable[[Graph, Callable[[int], None]], Node]
