"""The header of a safetensors file: which tensors it holds, of which type and shape, and where.

Files that contradict their own header are refused.
Source: https://github.com/huggingface/safetensors#format: an 8-byte length, a JSON header, raw little-endian data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trtbuild.errors import FetchError
from trtbuild.untrusted import HEADER_LIMIT_BYTES, LFS_POINTER, parse, shown

VALUE_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_MOST_AXES = 8
_HINT = "the file is damaged or incomplete: download or copy it again"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor is.

    Attributes:
        name: Its name in the file.
        dtype: As the header names it, e.g. ``BF16``.
        shape: Its sizes.
        begin: First byte in the file.
        end: The byte behind its last one.
        path: The file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    path: Path


def read_header(path: Path) -> tuple[Place, ...]:
    """Return the tensors of a file, in the header's order.

    Raises:
        FetchError: The file is damaged, a git-lfs pointer, or cannot be read.
    """
    refuse_pointer(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _header(path.name, file, size)
            start = file.tell()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(header, dict):
        raise FetchError(f"{path.name}: the header cannot be read: expected an object", hint=_HINT)
    places = tuple(_place(path, name, entry, start) for name, entry in header.items() if name != "__metadata__")
    _check_places(path, places, start, size)
    return places


def refuse_pointer(path: Path) -> None:
    """Refuse a weight file, of whatever format, that is a git-lfs pointer.

    Raises:
        FetchError: It is one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise _unreadable(path, error) from error
    if is_pointer:
        raise FetchError(f"{path} is a git-lfs pointer, not the weights", hint=f"run: git -C {path.parent} lfs pull")


def _header(name: str, file: BinaryIO, size: int) -> Any:
    """Return the parsed header of a file of ``size`` bytes, and leave the file where its data begins."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise FetchError(f"{name}: the header claims {length} bytes, the file has {size}", hint=_HINT)
    if length > HEADER_LIMIT_BYTES:
        raise FetchError(f"{name}: the header claims {length} bytes, expected at most {HEADER_LIMIT_BYTES}", hint=_HINT)
    try:
        return parse(file.read(length), unique=True)
    except ValueError as error:
        raise FetchError(f"{name}: the header cannot be read: {error}", hint=_HINT) from None


def _unreadable(path: Path, error: OSError) -> FetchError:
    return FetchError(
        f"{path} cannot be read: {error.strerror or error}", hint="check its permissions and broken links"
    )


def _place(path: Path, name: str, entry: Any, start: int) -> Place:
    """Return a header's entry after checking it on its own."""
    where = f"{path.name}: tensor {shown(name)}"
    given: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = given.get("dtype"), _counts(given.get("shape")), _counts(given.get("data_offsets"))
    if shape is None or len(shape) > _MOST_AXES:
        raise FetchError(
            f"{where}: shape: expected up to {_MOST_AXES} sizes, got {shown(given.get('shape'))}", hint=_HINT
        )
    if offsets is None or len(offsets) != 2:
        raise FetchError(
            f"{where}: data_offsets: expected two positions, got {shown(given.get('data_offsets'))}", hint=_HINT
        )
    value_bytes = VALUE_BYTES.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or value_bytes is None:
        raise FetchError(
            f"{where} has type {shown(kind)}, which is not known here",
            hint=f"known are {', '.join(VALUE_BYTES)}; use the unquantized checkpoint of the model",
        )
    begin, end = offsets
    expected = math.prod(shape) * value_bytes
    if end - begin != expected:
        raise FetchError(f"{where} needs {expected} bytes, its place is {begin}..{end}", hint=_HINT)
    return Place(name=name, dtype=kind, shape=shape, begin=start + begin, end=start + end, path=path)


def _counts(value: object) -> tuple[int, ...] | None:
    """Return a list of whole numbers from 0 that a file could need; None when it is something else."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 1 << 60 for each in value):
        return None
    return tuple(value)


def _check_places(path: Path, places: Sequence[Place], start: int, size: int) -> None:
    """Refuse tensors that overlap, leave gaps, or end elsewhere than the file: the format has none of these."""
    last, end = "the header", start
    for place in sorted(places, key=lambda each: (each.begin, each.end)):
        if place.begin != end:
            what = "overlaps" if place.begin < end else "leaves a gap after"
            raise FetchError(
                f"{path.name}: tensor {shown(place.name)} at {place.begin - start}..{place.end - start} {what} {last}, "
                f"which ends at {end - start}",
                hint=_HINT,
            )
        last, end = f"tensor {shown(place.name)}", place.end
    if end != size:
        raise FetchError(
            f"{path.name}: tensors end at {end - start} of {size - start} bytes: cut off or damaged", hint=_HINT
        )
