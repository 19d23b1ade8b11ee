"""Strings of a request are read up to a bound, and what is beyond it costs nothing and is still counted."""

from __future__ import annotations

import struct
import tracemalloc
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.byte_tensors import bound_strings, read_strings
from trtbuild_front.faults import RequestError
from trtbuild_front.limits import MAX_STRINGS, MAX_WORDS
from trtbuild_front.request import read_words


def _encoded(strings: list[bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(struct.pack("<I", len(one)) + one for one in strings), np.uint8)


@given(strings=st.lists(st.binary(max_size=20), max_size=30))
def test_strings_are_what_was_sent(strings: list[bytes]) -> None:
    found = read_strings(_encoded(strings))
    assert found.dtype == np.object_
    assert found.reshape([1, len(strings)]).tolist() == [strings]


def test_as_many_as_the_bound_are_read_and_more_are_counted_only() -> None:
    assert read_strings(_encoded([b""] * MAX_STRINGS)).reshape([MAX_STRINGS])[-1] == b""
    count = 5_000_000
    encoded = np.zeros(4 * count, np.uint8)
    tracemalloc.start()
    found = read_strings(encoded).reshape([1, count])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (1, count)
    assert peak < 10_000_000
    assert found.reshape(-1).size == count
    with pytest.raises(RequestError, match=f"at most {MAX_WORDS} strings, got {count}"):
        read_words("stop_words", found)


@pytest.mark.parametrize("encoded", [b"\x01", b"\x05\x00\x00\x00ab", b"\xff\xff\xff\xff"])
def test_bytes_that_end_inside_of_a_string_are_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="a string ends at byte"):
        read_strings(np.frombuffer(encoded, np.uint8))


def test_the_backend_reads_with_it() -> None:
    backend = ModuleType("triton_python_backend_utils")
    bound_strings(backend)
    assert backend.deserialize_bytes_tensor is read_strings
