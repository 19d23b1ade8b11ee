"""What the key of an engine is made of, and how it becomes a digest and a path. Pure.

Every store in the field finds its engines by this digest: whatever changes here turns all of them into misses.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trtbuild.spec import JsonValue

KEY_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """The complete description of a repeatable build; equal keys mean interchangeable engines.

    Attributes:
        fields: Everything that changes bytes, as JSON values.
        model_part: Directory name of the model in the store.
        sku_part: Directory name of the GPU SKU (or CPU class).
        shape_part: Human part of the entry's name, e.g. ``tp2-pp1-bfloat16``.
    """

    fields: Mapping[str, JsonValue]
    model_part: str
    sku_part: str
    shape_part: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON of ``fields``, 64 hex digits."""
        return hashlib.sha256(canonical_json({"schema": KEY_SCHEMA, **self.fields}).encode()).hexdigest()

    @property
    def short(self) -> str:
        """The first 12 hex digits of the digest, as shown to people."""
        return self.digest[:12]

    @property
    def relative_path(self) -> Path:
        """Path of the entry below ``<root>/engines``."""
        return Path(path_part(self.model_part), path_part(self.sku_part), f"{path_part(self.shape_part)}-{self.short}")


def canonical_json(value: Mapping[str, JsonValue]) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def path_part(text: str) -> str:
    """Return ``text`` as a single safe directory name: no separators, no leading dots, at most 80 characters."""
    part = re.sub(r"[^A-Za-z0-9_.-]+", "--", text).lstrip(".-")[:80]
    return part or "unnamed"
