"""Read a GGUF file: its metadata, and its tensors as float32.

It decides which kinds of values and tensors are read; another kind is refused by name. It does not know what a key or
a tensor means to a model.

Source: the GGUF specification, version 3 (ggml, docs/gguf.md), and the block layouts of ggml-common.h.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.errors import FetchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAGIC = b"GGUF"
_VERSION = 3
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = 32
"""Values of a quantized block."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor lies, and how it is stored.

    Attributes:
        kind: ggml's number of the storage type.
        shape: Rows first, as numpy and safetensors have it; the file lists it the other way round.
        start: Offset of its first byte in the file.
    """

    kind: int
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """A file that is open for reading.

    Attributes:
        metadata: Keys and values.
        tensors: By name, in the file's order.
        data: The whole file, mapped.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    data: mmap.mmap

    def load(self, name: str) -> NDArray[np.float32]:
        """Return a tensor's values.

        Raises:
            FetchError: Its storage type is not one that is read, or it reaches beyond the end of the file.
        """
        import numpy as np

        tensor = self.tensors[name]
        if tensor.kind not in _LAYOUTS:
            known = ", ".join(layout.name for layout in _LAYOUTS.values())
            raise FetchError(
                f"{name} is stored as ggml type {tensor.kind}, expected one of {known}", hint="use another GGUF file"
            )
        layout, count = _LAYOUTS[tensor.kind], prod(tensor.shape)
        if tensor.shape[-1] % layout.values:
            raise FetchError(
                f"{name} has rows of {tensor.shape[-1]} values, expected a multiple of {layout.values}",
                hint="the file is damaged; download it again",
            )
        blocks = count // layout.values
        if tensor.start + blocks * layout.bytes > len(self.data):
            raise FetchError(f"{name} reaches beyond the end of the file", hint="the file was cut; download it again")
        raw = np.frombuffer(self.data, np.uint8, blocks * layout.bytes, tensor.start).reshape(blocks, layout.bytes)
        return layout.decode(raw).reshape(tensor.shape)


def read(path: Path) -> Gguf:
    """Open a GGUF file.

    Raises:
        FetchError: It is none, or of a version or kind that is not read.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Reader(data).read()
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, OverflowError, MemoryError) as error:
        raise FetchError(f"{path} is not a GGUF file that can be read: {error}", hint="download it again") from error


class _Reader:
    """Reads from the beginning of a file onwards."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> Gguf:
        if self._data[:4] != _MAGIC:
            raise ValueError(f"it begins with {self._data[:4]!r}, expected {_MAGIC!r}")
        self._at = 4
        version, tensor_count, key_count = self._take("IQQ")
        if version != _VERSION:
            raise ValueError(f"it has version {version}, expected {_VERSION}")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string()
            metadata[key] = self._value(self._take("I")[0])
        found: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensor_count):
            name = self._string()
            (rank,) = self._take("I")
            shape = self._take(f"{rank}Q")
            kind, offset = self._take("IQ")
            found[name] = (kind, tuple(reversed(shape)), offset)
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-self._at // alignment) * alignment
        tensors = {
            n: Tensor(kind=kind, shape=shape, start=start + offset) for n, (kind, shape, offset) in found.items()
        }
        return Gguf(metadata=metadata, tensors=tensors, data=self._data)

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._data, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return values

    def _string(self) -> str:
        (length,) = self._take("Q")
        if self._at + length > len(self._data):
            raise ValueError(f"a string of {length} bytes at {self._at} reaches beyond its end")
        text = self._data[self._at : self._at + length].decode()
        self._at += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_SCALARS[kind])[0]
        item, count = self._take("IQ")
        if count > len(self._data):
            raise ValueError(f"a list of {count} values is longer than the file")
        if item == _STRING:
            return [self._string() for _ in range(count)]
        return list(self._take(f"{count}{_SCALARS[item]}"))


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """A way of storing values: how many a block holds, its bytes, and how blocks are decoded: ``uint8[n, bytes]``."""

    name: str
    values: int
    bytes: int
    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def _decode_f32(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    import numpy as np

    return raw.view("<f4").astype(np.float32)


def _decode_f16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    import numpy as np

    return raw.view("<f2").astype(np.float32)


def _decode_q4_1(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale, minimum, then 16 bytes: the low halves are the block's first 16 values, the high halves its last."""
    import numpy as np

    scale, minimum = (raw[:, at : at + 2].copy().view("<f2").astype(np.float32) for at in (0, 2))
    halves = np.concatenate([raw[:, 4:] & 0x0F, raw[:, 4:] >> 4], axis=1)
    values: NDArray[np.float32] = halves.astype(np.float32) * scale + minimum
    return values


def _decode_q8_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale, then 32 signed bytes."""
    import numpy as np

    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    return raw[:, 2:].copy().view(np.int8).astype(np.float32) * scale


_LAYOUTS = {
    0: _Layout(name="F32", values=1, bytes=4, decode=_decode_f32),
    1: _Layout(name="F16", values=1, bytes=2, decode=_decode_f16),
    3: _Layout(name="Q4_1", values=_BLOCK, bytes=20, decode=_decode_q4_1),
    8: _Layout(name="Q8_0", values=_BLOCK, bytes=34, decode=_decode_q8_0),
}
