"""Checkpoints that contradict themselves: computed as transformers does, or refused before anything is built.

The references were recorded by ``tools/record_odd_models.py``; neither torch nor transformers is needed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.data.odd_models import shapes
from tests.integration.cpu.test_parity import build, generate, worker
from trtbuild.errors import TrtBuildError

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.integration
REFERENCE: dict[str, dict[str, Any]] = json.loads((Path(shapes.__file__).parent / "reference.json").read_text())
FOUR, FIVE = "transformers 4.57.6", "transformers 5.24.0"
__all__ = ["worker"]

OURS = {
    "model_type not said": "the class is named by architectures, and nothing contradicts it",
    "a text_config beside": "a LlamaForCausalLM has none; transformers stumbles over it",
}
"""What neither release loads, and what is built all the same, and why."""


@pytest.mark.parametrize("name", [name for name, shape in shapes.SHAPES.items() if not shape.refused])
def test_it_is_computed_as_transformers_does(name: str, tmp_path: Path, worker: ModuleType) -> None:
    shape, reference = shapes.SHAPES[name], REFERENCE[name]
    assert shapes.write_shape(name, tmp_path / "snapshot") == reference["sha256"], "run tools/record_odd_models.py"
    limits = {"max_seq_len": shape.max_seq_len} if shape.max_seq_len else {}
    engine = worker.Engine(build(tmp_path / "snapshot", tmp_path, **limits), {})
    made = generate(engine, [{"input_ids": p, "request_output_len": 24} for p in shapes.prompts()])
    # Where the releases differ, only 5 knows what stands in config.json; 4 is followed where 5 refuses it.
    followed = reference[FIVE] if "tokens" in reference[FIVE] else reference[FOUR]
    if name in OURS:
        assert "tokens" not in followed
    else:
        assert [tokens for tokens, _ in made] == followed["tokens"]


@pytest.mark.parametrize("name", [name for name, shape in shapes.SHAPES.items() if shape.refused])
def test_it_is_refused_before_anything_is_built(name: str, tmp_path: Path) -> None:
    assert shapes.write_shape(name, tmp_path / "snapshot") == REFERENCE[name]["sha256"]
    with pytest.raises(TrtBuildError, match=shapes.SHAPES[name].refused):
        build(tmp_path / "snapshot", tmp_path)
    assert not list((tmp_path / "engine").glob("*") if (tmp_path / "engine").exists() else [])


def test_nothing_that_both_releases_compute_alike_is_refused_without_a_reason() -> None:
    """Refused although both agree: contradictions that they settle in silence, and what has no parity test here."""
    alike = {
        name
        for name, shape in shapes.SHAPES.items()
        if shape.refused and "tokens" in REFERENCE[name][FOUR] and REFERENCE[name][FOUR] == REFERENCE[name][FIVE]
    }
    assert len(alike) == len([name for name in alike if shapes.SHAPES[name].refused != "."])
    assert len(shapes.SHAPES) - sum(bool(shape.refused) for shape in shapes.SHAPES.values()) >= 50
