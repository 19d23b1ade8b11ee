"""The small files of a model beside its weights: configuration, tokenizer, index of shards.

It decides which of them nobody could serve from, so that they are refused before hours of building.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtbuild import untrusted
from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.model.remote import RemoteFile

_OBJECTS = frozenset({"generation_config.json", "special_tokens_map.json", "tokenizer_config.json"})


def load_config(directory: Path) -> dict[str, Any]:
    """Return ``config.json`` of a snapshot or local directory, with ModelOpt's quantization settings.

    Raises:
        FetchError: It is not there or not a JSON object.
    """
    config = _read_object(directory / "config.json")
    quantization = directory / "hf_quant_config.json"
    if quantization.is_file() and "quantization_config" not in config:
        settings = _read_object(quantization).get("quantization")
        config["quantization_config"] = {"quant_method": "modelopt", **(settings if isinstance(settings, dict) else {})}
    return config


def read_index(path: Path) -> bytes:
    """Return an index of shards.

    Raises:
        FetchError: It is too large to be one, or cannot be read.
    """
    try:
        return untrusted.read_bytes(path, untrusted.INDEX_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(f"{path} cannot be read: {error}", hint="download or copy the model again") from error


def check_metadata(directory: Path, names: Sequence[str]) -> None:
    """Refuse files beside the weights that nobody could serve from, before hours of building.

    Raises:
        FetchError: One is larger than any tokenizer, or what the front model reads as an object is none.
    """
    for name in names:
        size = (directory / name).stat().st_size
        if size > untrusted.METADATA_LIMIT_BYTES:
            raise _too_large(f"{directory / name}", size)
        if name in _OBJECTS:
            _read_object(directory / name)


def check_sizes(files: Sequence[RemoteFile], model_id: str) -> None:
    """Refuse by the hub's listing what :func:`check_metadata` would refuse after the download."""
    for file in files:
        if file.size > untrusted.METADATA_LIMIT_BYTES:
            raise _too_large(f"{file.path} of {model_id}", file.size)


def _too_large(what: str, size: int) -> FetchError:
    limit = log.format_bytes(untrusted.METADATA_LIMIT_BYTES)
    return FetchError(
        f"{what} has {log.format_bytes(size)}, expected at most {limit}",
        hint="no tokenizer or configuration is that large; see what the file is, or try another --revision",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = untrusted.read(path, untrusted.CONFIG_LIMIT_BYTES)
    except FileNotFoundError:
        value = None
    except (OSError, ValueError) as error:
        raise FetchError(f"{path} cannot be read: {error}", hint="download or copy the model again") from error
    if not isinstance(value, dict):
        state = "is not there" if value is None else "is not a JSON object"
        raise FetchError(
            f"{path} {state}", hint="expected a model in Hugging Face format (config.json and *.safetensors)"
        )
    return value
