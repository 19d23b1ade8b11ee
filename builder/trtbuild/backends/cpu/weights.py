"""Read safetensors checkpoints with numpy alone.

The ``safetensors`` package cannot hand out bfloat16 to numpy, and most checkpoints are bfloat16; the format itself is
an 8-byte length, a JSON header and raw little-endian data, so it is mapped here.
Source: https://github.com/huggingface/safetensors#format

It decides how bytes become arrays and refuses files that contradict their own header. It does not know any model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild.errors import ConvertError, FetchError
from trtbuild.untrusted import HEADER_LIMIT_BYTES, INDEX_LIMIT_BYTES, parse, read, shown

Array = npt.NDArray[Any]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16; the upper half of a float32
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
_MOST_AXES = 8
_HINT = "the file is damaged or incomplete: remove the snapshot from the Hugging Face cache and run the command again"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a checkpoint, mapped, not read.

    Attributes:
        dtype: Name in the safetensors header, e.g. ``BF16``.
        data: The mapped values; ``uint16`` bit patterns for ``BF16``.
    """

    dtype: str
    data: Array

    def float32(self) -> npt.NDArray[np.float32]:
        """Return the values as float32, exact for F32, F16 and BF16."""
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(self.data, dtype=np.float32)


class Checkpoint:
    """The tensors of a snapshot by name, over one file or many shards."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> Tensor:
        """Return a tensor and remember that it was used.

        Raises:
            FetchError: The checkpoint does not hold it.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise FetchError(
                f"the checkpoint has no tensor {name!r} (it has {len(self._tensors)} others)",
                hint="the weights do not belong to this config.json, or a shard is missing",
            )
        self._used.add(name)
        return tensor

    def dtype(self) -> str:
        """Return the safetensors dtype that most values of matrices have."""
        sizes: dict[str, int] = {}
        for tensor in self._tensors.values():
            if tensor.data.ndim > 1:
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.data.size
        return max(sizes, key=lambda name: sizes[name]) if sizes else "F32"

    def unused(self) -> tuple[str, ...]:
        """Return the names of tensors nobody asked for, sorted."""
        return tuple(sorted(self._tensors.keys() - self._used))


def open_checkpoint(snapshot: Path) -> Checkpoint:
    """Map every ``*.safetensors`` file of a snapshot.

    Raises:
        FetchError: There is none, a shard is missing, or a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for path in _shards(snapshot):
        found = _map_file(path)
        if both := sorted(tensors.keys() & found.keys()):
            raise FetchError(f"{path.name}: tensor {shown(both[0])} is in another shard too", hint=_HINT)
        tensors.update(found)
    return Checkpoint(tensors)


def _shards(snapshot: Path) -> list[Path]:
    index = snapshot / "model.safetensors.index.json"
    if index.is_file():
        return [snapshot / name for name in _indexed(index)]
    single = snapshot / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(path.name for path in snapshot.glob("*.bin"))
    raise FetchError(
        f"no model.safetensors in {snapshot}" + (f"; only pickled weights: {', '.join(pickles)}" if pickles else ""),
        hint="the cpu backend reads safetensors only; name a revision or a repository that has them "
        "(on the hub often revision refs/pr/N, made by its safetensors converter)",
    )


def _indexed(index: Path) -> list[str]:
    """Return the names of the shards that an index names, all of which are there."""
    try:
        document = read(index, INDEX_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(f"{index.name} cannot be read: {error}", hint=_HINT) from None
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FetchError(f"{index.name}: weight_map: expected the shard of each tensor", hint=_HINT)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise FetchError(
                f"{index.name}: weight_map: {shown(tensor)}: expected the name of a safetensors file beside it, "
                f"got {shown(name)}",
                hint=_HINT,
            )
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FetchError(f"{index.name} names shards that are not there: {', '.join(missing[:5])}", hint=_HINT)
    return names


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor is, as its file's header says and this file has checked. Offsets from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _map_file(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise FetchError(f"{path.name}: the header claims {length} bytes, the file has {size}", hint=_HINT)
        if length > HEADER_LIMIT_BYTES:
            raise FetchError(
                f"{path.name}: the header claims {length} bytes, expected at most {HEADER_LIMIT_BYTES}", hint=_HINT
            )
        try:
            header = parse(file.read(length), unique=True)
        except ValueError as error:
            raise FetchError(f"{path.name}: the header cannot be read: {error}", hint=_HINT) from None
    if not isinstance(header, dict):
        raise FetchError(f"{path.name}: the header cannot be read: expected an object", hint=_HINT)
    start = 8 + length
    places = [_place(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
    _check_places(path, places, size - start)
    # One mapping for all tensors: the kernel limits how many a process has. Offsets need not be aligned to the item
    # size, so bytes are mapped and viewed.
    raw = np.memmap(path, dtype=np.uint8, mode="r") if size > start else np.zeros(size, np.uint8)
    return {
        place.name: Tensor(
            dtype=place.dtype,
            data=raw[start + place.begin : start + place.end].view(_DTYPES[place.dtype]).reshape(place.shape),
        )
        for place in places
    }


def _place(path: Path, name: str, entry: Any) -> _Place:
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
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or dtype is None:
        raise ConvertError(
            f"{where} has type {shown(kind)}, which the cpu backend cannot read",
            hint=f"it reads {', '.join(_DTYPES)}; use the unquantized checkpoint of the model",
        )
    begin, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    if end - begin != expected:
        raise FetchError(f"{where} needs {expected} bytes, its place is {begin}..{end}", hint=_HINT)
    return _Place(name=name, dtype=kind, shape=shape, begin=begin, end=end)


def _counts(value: object) -> tuple[int, ...] | None:
    """Return a list of whole numbers from 0 that a file could need; None when it is something else."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 1 << 60 for each in value):
        return None
    return tuple(value)


def _check_places(path: Path, places: Sequence[_Place], size: int) -> None:
    """Refuse tensors that overlap, leave gaps, or end elsewhere than the file: the format has none of these."""
    last, end = "the header", 0
    for place in sorted(places, key=lambda each: (each.begin, each.end)):
        if place.begin != end:
            what = "overlaps" if place.begin < end else "leaves a gap after"
            raise FetchError(
                f"{path.name}: tensor {shown(place.name)} at {place.begin}..{place.end} {what} {last}, which ends at "
                f"{end}",
                hint=_HINT,
            )
        last, end = f"tensor {shown(place.name)}", place.end
    if end != size:
        raise FetchError(f"{path.name}: tensors end at {end} of {size} bytes: cut off or damaged", hint=_HINT)
