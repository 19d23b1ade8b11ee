"""Read safetensors checkpoints with numpy alone.

The ``safetensors`` package cannot hand out bfloat16 to numpy, and most checkpoints are bfloat16, so files are mapped
here. It decides how bytes become arrays; which tensors there are and where is ``trtbuild.model``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild.errors import ConvertError, FetchError
from trtbuild.model.headers import Place
from trtbuild.untrusted import shown

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
    """The tensors that a graph is made of, by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def get(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            FetchError: The checkpoint does not hold it.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise FetchError(
                f"the checkpoint has no tensor {name!r} (it has {len(self._tensors)} others)",
                hint="the weights do not belong to this config.json, or a shard is missing",
            )
        return tensor


def open_checkpoint(places: Mapping[str, Place]) -> Checkpoint:
    """Map tensors that :func:`trtbuild.model.checkpoint.resolve_weights` has found.

    Raises:
        ConvertError: A tensor has a type that is not read here.
    """
    # One mapping per file: the kernel limits how many a process has. Offsets need not be aligned to the item size, so
    # bytes are mapped and viewed.
    raw: dict[Path, Array] = {}
    tensors = {}
    for name, place in places.items():
        if place.dtype not in _DTYPES:
            raise ConvertError(
                f"{place.path.name}: tensor {shown(place.name)} has type {place.dtype}, which the cpu backend cannot "
                "read",
                hint=f"it reads {', '.join(_DTYPES)}; use the unquantized checkpoint of the model",
            )
        if place.path not in raw:
            raw[place.path] = np.memmap(place.path, dtype=np.uint8, mode="r")
        data = raw[place.path][place.begin : place.end].view(_DTYPES[place.dtype]).reshape(place.shape)
        tensors[name] = Tensor(dtype=place.dtype, data=data)
    return Checkpoint(tensors)
