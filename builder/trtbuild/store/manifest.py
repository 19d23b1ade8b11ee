"""What an entry says of itself: its key, its files with sizes and hashes, where it came from.

It decides the manifest's format and what may never be in it (secrets, names that leave the directory). It reads and
writes bytes; where those are kept is decided by the store.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import cast

from trtbuild import redact
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey, canonical_json
from trtbuild.spec import JsonValue

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
MAX_MANIFEST_BYTES = 16 << 20
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and sha256 (64 hex digits) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The parsed ``manifest.json`` of an entry.

    Attributes:
        key: The key the engine was built for.
        files: Every other file of the entry by its POSIX name.
        provenance: Who, when, with what, how long; for people and estimates, never for keys.
        created_at: ISO 8601 in UTC.
    """

    key: EngineKey
    files: Mapping[str, FileRecord]
    provenance: Mapping[str, JsonValue]
    created_at: str

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(record.size for record in self.files.values())

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON with a seal: a hash over itself, which finds flipped bits."""
        body: dict[str, JsonValue] = {
            "schema": MANIFEST_SCHEMA,
            "digest": self.key.digest,
            "key": {
                "fields": dict(self.key.fields),
                "model": self.key.model_part,
                "sku": self.key.sku_part,
                "shape": self.key.shape_part,
            },
            "files": {
                name: {"size": record.size, "sha256": record.sha256} for name, record in sorted(self.files.items())
            },
            "provenance": dict(self.provenance),
            "created_at": self.created_at,
        }
        body["seal"] = _seal(body)
        return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data``, having trusted nothing in it.

    Raises:
        ValueError: With what is wrong, for people.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"expected at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}")
    try:
        body = json.loads(data)
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(body, dict):
        raise ValueError(f"expected a JSON object, got {type(body).__name__}")
    if body.get("schema") != MANIFEST_SCHEMA:
        raise ValueError(f"expected schema {MANIFEST_SCHEMA}, got {body.get('schema')!r}")
    seal = body.pop("seal", None)
    try:
        expected = _seal(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not canonical JSON ({error})") from None
    if seal != expected:
        raise ValueError("its seal does not match its contents: it was changed or damaged")
    key = _parse_key(body.get("key"))
    if key.digest != body.get("digest"):
        raise ValueError(f"its key hashes to {key.short}..., but it says {str(body.get('digest'))[:12]}...")
    provenance, created_at = body.get("provenance"), body.get("created_at")
    if not isinstance(provenance, dict) or not isinstance(created_at, str):
        raise ValueError("expected provenance and created_at")
    return Manifest(key=key, files=_parse_files(body.get("files")), provenance=provenance, created_at=created_at)


def _parse_key(value: object) -> EngineKey:
    if not isinstance(value, dict) or not isinstance(value.get("fields"), dict):
        raise ValueError("expected a key with its fields")
    parts = [value.get(name) for name in ("model", "sku", "shape")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("expected the key's model, sku and shape")
    model, sku, shape = (str(part) for part in parts)
    return EngineKey(fields=value["fields"], model_part=model, sku_part=sku, shape_part=shape)


def _parse_files(value: object) -> dict[str, FileRecord]:
    if not isinstance(value, dict) or not value:
        raise ValueError("expected at least one file")
    files: dict[str, FileRecord] = {}
    for name, record in value.items():
        check_name(name)
        size = record.get("size") if isinstance(record, dict) else None
        digest = record.get("sha256") if isinstance(record, dict) else None
        if type(size) is not int or size < 0 or not isinstance(digest, str) or not _HEX64.fullmatch(digest):
            raise ValueError(f"file {name!r}: expected a size and a sha256, got {record!r}")
        files[name] = FileRecord(size=size, sha256=digest)
    check_distinct(files)
    for name in files:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            raise ValueError(f"file {name!r} lies below another file")
    return files


def check_name(name: object) -> str:
    """Return ``name`` when it is the name of a file inside an entry and nothing else.

    Raises:
        ValueError: It could leave the directory, hide, or not be stored everywhere.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 1024:
        raise ValueError(f"file name {name!r:.80}: expected 1 to 1024 characters")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"file name {name!r:.80}: expected UTF-8") from None
    parts = name.split("/")
    if any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts) or len(parts) > 16:
        raise ValueError(f"file name {name!r:.80}: expected a plain relative path")
    if b"\\" in encoded or any(unicodedata.category(char) == "Cc" for char in name):
        raise ValueError(f"file name {name!r:.80}: expected no backslashes and no control characters")
    if name == MANIFEST:
        raise ValueError(f"{MANIFEST} is the store's own file")
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Refuse names that some file systems take for one: there the one file would silently replace the other.

    Raises:
        ValueError: Two names differ in case or Unicode form only.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other != name:
            raise ValueError(
                f"files {other!r:.80} and {name!r:.80} have one name where case or Unicode form is ignored"
            )


def _seal(body: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def without_secrets(value: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return provenance with everything that looks like a secret masked; see :mod:`trtbuild.redact`."""
    return cast(dict[str, JsonValue], redact.value(value))


def make_manifest(
    key: EngineKey, files: Mapping[str, FileRecord], provenance: Mapping[str, JsonValue], *, now: float
) -> Manifest:
    """Return the manifest of a finished build; ``now`` in seconds since 1970.

    Raises:
        StoreError: The key itself holds a secret (it cannot be taken out without changing the key), or a value is
            not JSON.
    """
    try:
        if canonical_json(without_secrets(key.fields)) != canonical_json(key.fields):
            raise StoreError(
                "a build option looks like a secret, and options are part of the engine's key",
                hint="pass secrets in the environment (HF_TOKEN), never as options",
            )
        cleaned = without_secrets(provenance)
        canonical_json(cleaned)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"provenance is not JSON: {error}", hint="pass strings, numbers, lists and mappings"
        ) from error
    created_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Manifest(key=key, files=files, provenance=cleaned, created_at=created_at)
