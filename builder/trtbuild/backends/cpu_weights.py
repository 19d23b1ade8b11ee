"""Read safetensors checkpoints with numpy alone.

The ``safetensors`` package cannot hand out bfloat16 to numpy, and most checkpoints are bfloat16; the format itself is
an 8-byte length, a JSON header and raw little-endian data, so it is mapped here.
Source: https://github.com/huggingface/safetensors#format

It decides how bytes become arrays and refuses files that contradict their own header. It does not know any model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild.errors import ConvertError

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
_HEADER_LIMIT_BYTES = 100 << 20
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
            ConvertError: The checkpoint does not hold it.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ConvertError(
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
        ConvertError: There is none, a shard is missing, or a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for path in _shards(snapshot):
        tensors.update(_map_file(path))
    return Checkpoint(tensors)


def _shards(snapshot: Path) -> list[Path]:
    index = snapshot / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ConvertError(f"{index.name} cannot be read: {error}", hint=_HINT) from None
        missing = [name for name in names if not (snapshot / name).is_file()]
        if missing:
            raise ConvertError(f"{index.name} names shards that are not there: {', '.join(missing)}", hint=_HINT)
        return [snapshot / name for name in names]
    single = snapshot / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(path.name for path in snapshot.glob("*.bin"))
    raise ConvertError(
        f"no model.safetensors in {snapshot}" + (f"; only pickled weights: {', '.join(pickles)}" if pickles else ""),
        hint="the cpu backend reads safetensors only; name a revision or a repository that has them "
        "(on the hub often revision refs/pr/N, made by its safetensors converter)",
    )


def _map_file(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT_BYTES, size - 8):
            raise ConvertError(f"{path.name}: the header claims {length} bytes, the file has {size}", hint=_HINT)
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _map_tensor(path, name, entry, 8 + length, size) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConvertError(f"{path.name}: the header cannot be read: {error}", hint=_HINT) from None


def _map_tensor(path: Path, name: str, entry: Mapping[str, Any], start: int, size: int) -> Tensor:
    kind, shape = entry["dtype"], tuple(int(extent) for extent in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise ConvertError(
            f"{path.name}: tensor {name!r} has type {kind}, which the cpu backend cannot read",
            hint=f"it reads {', '.join(_DTYPES)}; use the unquantized checkpoint of the model",
        )
    expected = math.prod(shape) * dtype.itemsize
    if begin < 0 or end - begin != expected or start + end > size:
        raise ConvertError(
            f"{path.name}: tensor {name!r} needs {expected} bytes, its place is {begin}..{end} of {size - start}",
            hint=_HINT,
        )
    if expected == 0:
        return Tensor(dtype=kind, data=np.zeros(shape, dtype))
    # Offsets in safetensors need not be aligned to the item size, so map bytes and view them.
    raw = np.memmap(path, dtype=np.uint8, mode="r", offset=start + begin, shape=(expected,))
    return Tensor(dtype=kind, data=raw.view(dtype).reshape(shape))
