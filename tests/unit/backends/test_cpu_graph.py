"""How weights are stored in a graph. What whole graphs compute is held by the parity tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

pytest.importorskip("openvino")

from trtbuild.backends.cpu_graph import bfloat16_bits, quantize_int4, quantize_int8

matrices = st_np.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.sampled_from([2, 8, 96, 128, 384])),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@given(matrices)
def test_int8_is_within_half_a_step_of_each_row(values: np.ndarray) -> None:
    rounded, scale = quantize_int8(values)
    assert (rounded.dtype, scale.shape) == (np.int8, (len(values), 1))
    assert np.all(np.abs(rounded * scale - values) <= scale * 0.5001)


@given(matrices)
def test_int4_is_within_a_step_of_each_group(values: np.ndarray) -> None:
    packed, scale = quantize_int4(values)
    rows, columns = values.shape
    groups = scale.shape[1]
    assert columns // groups <= 128
    nibbles = np.stack([packed & 0x0F, packed >> 4], axis=1).reshape(-1).astype(np.int8)
    signed = np.where(nibbles > 7, nibbles - 16, nibbles).reshape(rows, groups, -1)
    restored = (signed * scale.astype(np.float32)).reshape(rows, columns)
    # One step, and what rounding the scale itself to float16 costs at the largest magnitude (8 steps).
    step = np.repeat(np.abs(scale.astype(np.float32)), columns // groups, axis=1).reshape(rows, columns)
    assert np.all(np.abs(restored - values) <= step * 1.01 + 1e-6)


def test_int4_keeps_the_largest_weight_of_a_group() -> None:
    values = np.array([[0.5, -2.0, 1.0, 0.25] * 32], np.float32)
    packed, scale = quantize_int4(values)
    assert scale.reshape(-1).tolist() == [0.25]
    assert packed[0] == 2 | (0x8 << 4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-0.0, 0x8000), (3.3895314e38, 0x7F7F)],
    ids=["exact", "tie to even, down", "tie to even, up", "minus zero", "largest"],
)
def test_bfloat16_rounds_to_nearest_even(value: float, expected: int) -> None:
    assert bfloat16_bits(np.array([value], np.float32)).tolist() == [expected]
