"""What is refused because the server would refuse it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.repository.conftest import ENGINE
from trtbuild.errors import RepositoryError
from trtbuild.repository import ServedModel, render_repository, write_repository


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("max_batch_size: 4", "max_batch: 4", 'no field named "max_batch"', id="unknown-field"),
        pytest.param("max_batch_size: 4", "max_batch_size: ", "is not a model configuration", id="syntax"),
        pytest.param("{{ name | pbtxt }}", '"x"', "expected name 'tensorrt_llm', got 'x'", id="another-name"),
        pytest.param("engine_dir | pbtxt", "nothing | pbtxt", "'nothing' is undefined", id="missing-variable"),
        pytest.param('"seed"', '"end_id"', "tensors named twice: end_id", id="tensor-twice"),
        pytest.param(
            '"sequence_length" data_type: TYPE_INT32', '"lengths" data_type: TYPE_INT32',
            "tensorrt_llm has no output 'sequence_length'", id="ensemble-output",
        ),
        pytest.param(
            'name: "output_ids" data_type: TYPE_INT32', 'name: "output_ids" data_type: TYPE_INT64',
            "tensor '_TOKENS_BATCH' has another type", id="ensemble-type",
        ),
        pytest.param(
            '{ name: "input_ids"', '{ name: "image" data_type: TYPE_INT32 dims: [ 1 ] },\n  { name: "input_ids"',
            "tensorrt_llm needs image", id="ensemble-input",
        ),
    ],
)  # fmt: skip
def test_what_the_server_would_stumble_over_is_refused(
    make_model: Callable[..., ServedModel], tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in ENGINE
    model = make_model(config=ENGINE.replace(old, new), layout="full")
    with pytest.raises(RepositoryError, match=re.escape(message)) as caught:
        write_repository(tmp_path / "repository", [model])
    assert caught.value.hint
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("present", "message"),
    [
        pytest.param("tokenizer.model", r"tokenizer.model \(SentencePiece\) and no tokenizer.json", id="sentencepiece"),
        pytest.param("vocab.json", "holds no tokenizer.json", id="nothing"),
    ],
)
def test_a_tokenizer_the_server_cannot_read_is_refused(
    make_model: Callable[..., ServedModel], present: str, message: str
) -> None:
    model = make_model()
    (model.tokenizer_dir / "tokenizer.json").unlink()
    (model.tokenizer_dir / present).write_text("x")
    with pytest.raises(RepositoryError, match=message) as caught:
        render_repository([model])
    assert caught.value.hint
