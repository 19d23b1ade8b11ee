"""A small model, and this project's client set so that small files behave like large ones."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

from trtbuild.fetch import Hub, Resolved, resolve, snapshot
from trtbuild.fetch.limits import Tuning

MIB = 1 << 20


def noise(count: int, seed: str = "") -> bytes:
    """Return bytes that look random and are the same in every run."""
    return hashlib.shake_128(seed.encode()).digest(count)


def safetensors(count: int, seed: str = "") -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return struct.pack("<Q", len(header)) + header + noise(count, seed)


def small_model(**files: bytes) -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b'{"model": {}}',
        "README.md": b"# not needed",
        "model.safetensors": safetensors(3 * MIB, "weights"),
        "pytorch_model.bin": b"a pickle",
        **files,
    }


NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}


@dataclass
class Client:
    """This project's client with a cache of its own and pauses that are recorded instead of spent."""

    cache: Path
    hub: Hub
    tuning: Tuning
    pauses: list[float] = field(default_factory=list)

    def resolve(self, model_id: str = "org/model", revision: str = "main") -> Resolved:
        return resolve(model_id, revision, hub=self.hub, cache=self.cache, tuning=self.tuning)

    def fetch(self, model_id: str = "org/model", revision: str = "main", **options: bool) -> Path:
        resolved = self.resolve(model_id, revision)
        return snapshot(resolved, cache=self.cache, hub=self.hub, tuning=self.tuning, **options)

    def offline(self) -> Client:
        return replace(self, hub=replace(self.hub, is_offline=True))

    def leftovers(self) -> list[str]:
        """Return what a finished download must not leave behind."""
        blobs = self.cache.glob("*/blobs/*")
        temporary = self.cache.rglob("*tmp")
        return sorted(path.name for path in [*blobs, *temporary] if not path.name.isalnum())


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
