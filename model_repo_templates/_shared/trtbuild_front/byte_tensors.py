"""The strings of a request, bounded before the model is asked.

The Python backend makes an object of every string in a request before it calls ``execute``, in Python and in the
thread that takes all requests: ten million empty stop words (28 MB of JSON) hold up all requests for 7 s. So its
function is replaced. It decides how many strings are read at all; how many each input may have is decided
where it is read.

Source: triton-inference-server/python_backend, src/pb_tensor.cc: ``deserialize_bytes_tensor`` of
``triton_python_backend_utils`` is looked up for every tensor, and ``reshape`` is called on what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front.limits import MAX_STRINGS

_LENGTH_BYTES = 4
_UNREAD = b"(one of too many strings)"


class _Unread(np.ndarray):  # type: ignore[type-arg]
    """In place of strings that were not read: in any shape that is asked for, at no cost."""

    def reshape(self, *shape: Any, **_: Any) -> npt.NDArray[Any]:
        """Return an array of that shape, whose elements are one and the same."""
        dims: Sequence[int] = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return np.broadcast_to(np.array(_UNREAD, np.object_), tuple(dims))


def read_strings(encoded: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the strings of a BYTES tensor, each of which follows its length; a stand-in if there are too many.

    Raises:
        ValueError: The bytes end inside of a string.
    """
    view, at = encoded.data, 0
    strings: list[bytes] = []
    while at < len(view):
        if len(strings) == MAX_STRINGS:
            return np.empty(0, np.object_).view(_Unread)
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(view[at:begin], "little")
        if at > len(view):
            raise ValueError(f"a string ends at byte {at} of a tensor of {len(view)} bytes")
        strings.append(bytes(view[begin:at]))
    return np.array(strings, np.object_)


def bound_strings(backend: ModuleType) -> None:
    """Let the Python backend's module read strings with :func:`read_strings`."""
    backend.deserialize_bytes_tensor = read_strings  # type: ignore[attr-defined]
