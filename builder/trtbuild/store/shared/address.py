"""Which tier an option names.

It decides which addresses are refused: relative ones, unknown schemes, and those with credentials in them.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from trtbuild import redact
from trtbuild.errors import StoreError
from trtbuild.store.shared.bucket import ObjectTier
from trtbuild.store.shared.directory import DirectoryTier
from trtbuild.store.shared.tier import Tier

CLOUD_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")


def open_tier(text: str) -> Tier:
    """Return the tier that an option names: a directory, ``file://``, ``s3://``, ``gs://`` or ``az://`` URL.

    Raises:
        StoreError: The text names no tier, or has credentials in it.
        HostError: The library for buckets is not installed.
    """
    url = urlsplit(text)
    if url.scheme in {"", "file"}:
        path = Path(url.path if url.scheme else text).expanduser()
        if not path.is_absolute():
            raise StoreError(f"shared tier: expected an absolute path or a URL, got {text!r}", hint="e.g. /mnt/engines")
        return DirectoryTier(path)
    if url.scheme not in CLOUD_SCHEMES or not url.netloc:
        raise StoreError(
            f"shared tier: expected a directory, s3://, gs:// or az:// URL, got {url.scheme}://...",
            hint="e.g. s3://bucket/engines",
        )
    if redact.text(text) != text:
        raise StoreError(
            "shared tier: credentials do not belong into the URL",
            hint="use the environment (AWS_*, GOOGLE_*, AZURE_*) or workload identity",
        )
    return ObjectTier(text)
