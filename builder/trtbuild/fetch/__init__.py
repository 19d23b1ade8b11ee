"""Get a model's files: from a hub into the standard Hugging Face cache, or from a local directory.

Importing this package is cheap: the HTTP client is loaded when something is missing.
"""

from __future__ import annotations

from trtbuild.fetch.hub import Hub, Resolved, cache_directory, is_commit
from trtbuild.fetch.local import hash_directory, local_snapshot
from trtbuild.fetch.metadata import load_config
from trtbuild.fetch.resolve import find_cached, resolve
from trtbuild.fetch.select import weight_bytes
from trtbuild.fetch.snapshot import missing_bytes, read_config, snapshot
from trtbuild.fetch.tokenizer import check_tokenizer, check_tokenizer_names, template_fault
from trtbuild.fetch.tokenizer_files import copy_tokenizer
from trtbuild.model.remote import RemoteFile

__all__ = [
    "Hub",
    "RemoteFile",
    "Resolved",
    "cache_directory",
    "check_tokenizer",
    "check_tokenizer_names",
    "copy_tokenizer",
    "find_cached",
    "hash_directory",
    "is_commit",
    "load_config",
    "local_snapshot",
    "missing_bytes",
    "read_config",
    "resolve",
    "snapshot",
    "template_fault",
    "weight_bytes",
]
