"""How weights are stored in a graph, and which weights make none. What whole graphs compute the parity tests hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

pytest.importorskip("openvino")

from tests.data.cpu_parity.checkpoints import CONFIGS, make_tensors, safetensors_bytes
from tests.unit.backends.cpu.test_cpu_plan import HOST, read
from trtbuild import backends
from trtbuild.backends.cpu.build import check_model
from trtbuild.backends.cpu.families import read_decoder
from trtbuild.backends.cpu.plan import make_plan
from trtbuild.backends.cpu.storage import bfloat16_bits, quantize_int4, quantize_int8
from trtbuild.backends.cpu.weights import Tensor, open_checkpoint
from trtbuild.errors import FetchError
from trtbuild.model.checkpoint import resolve_weights
from trtbuild.spec import EngineSpec

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


Tensors = dict[str, np.ndarray[Any, Any]]


def _write(name: str, directory: Path, change: Callable[[Tensors], object] = lambda _: None) -> None:
    tensors = make_tensors(CONFIGS[name], seed=1)
    change(tensors)
    (directory / "config.json").write_text(json.dumps(CONFIGS[name]))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The type of each tensor whose values were asked for."""
    seen: list[str] = []
    float32 = Tensor.float32
    monkeypatch.setattr(Tensor, "float32", lambda self: (seen.append(self.dtype), float32(self))[1])
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_outlined_from_shapes_alone(name: str, tmp_path: Path, converted: list[str]) -> None:
    _write(name, tmp_path)
    places = resolve_weights(tmp_path, CONFIGS[name]).places
    check_model(read_decoder(CONFIGS[name]), open_checkpoint(places))
    assert not converted


LAST = "model.layers.2.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param("llama", lambda t: t.pop(LAST), f"the files lack '{LAST}'", id="missing"),
        pytest.param(
            "llama",
            lambda t: t.update({"model.layers.2.mlp.experts.0.weight": t[LAST]}),
            "files hold .*experts.0.weight.*would ignore",
            id="ignored",
        ),
        pytest.param("llama", lambda t: t.update({LAST: t[LAST][:, :-1]}), r"expected shape \(64, 128\)", id="width"),
        pytest.param("llama", lambda t: t.update({LAST: t[LAST][0]}), f"'{LAST}': expected shape", id="axes"),
        pytest.param(
            "llama",
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:5]}),
            r"expected shape \(64,\) by config.json, got \(5,\)",
            id="norm",
        ),
        pytest.param(
            "llama",
            lambda t: t.update({"model.embed_tokens.weight": t["model.embed_tokens.weight"][:-1]}),
            r"expected shape \(320, 64\) by config.json, got \(319, 64\)",
            id="vocabulary",
        ),
        pytest.param(
            "gpt2",
            lambda t: t.update({"wpe.weight": t["wpe.weight"][:-1]}),
            r"expected shape \(256, 64\)",
            id="positions",
        ),
        pytest.param(
            "opt",
            lambda t: t.update(
                {"model.decoder.embed_positions.weight": t["model.decoder.embed_positions.weight"][:-1]}
            ),
            r"expected shape \(258, 64\)",
            id="positions with an offset",
        ),
    ],
)
def test_weights_that_make_no_graph_are_refused_before_any_is_converted(
    name: str, change: Callable[[Tensors], object], message: str, tmp_path: Path, converted: list[str]
) -> None:
    _write(name, tmp_path, change)
    plan = make_plan(EngineSpec(model="x", quantization="int8-weight-only"), read(CONFIGS[name]), HOST)
    with pytest.raises(FetchError, match=message) as caught:
        backends.get("cpu").build(plan, tmp_path, tmp_path / "engine", tmp_path / "work")
    assert caught.value.hint
    assert not converted
