"""A model that comes in a Python package: converted as the catalog says, and answering through the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.server.conftest import Serve, Served
from tests.smollm2 import NAME, BuiltEngine
from trtbuild import catalog, fetch

pytestmark = pytest.mark.integration


def test_the_directory_has_the_bytes_that_the_catalog_names(smollm2_directory: Path) -> None:
    model = catalog.find_model(NAME)
    assert model is not None
    assert model.package is not None
    assert fetch.hash_directory(smollm2_directory) == model.package.tree
    read = catalog.ModelInfo.from_hf_config(model.model_id, json.loads((smollm2_directory / "config.json").read_text()))
    same = ("architecture", "parameters", "layers", "heads", "kv_heads", "head_dim", "vocab_size", "dtype")
    assert {name: getattr(read, name) for name in same} == {name: getattr(model, name) for name in same}
    assert (read.context_tokens, read.tied_embeddings) == (model.context_tokens, model.tied_embeddings)
    assert "Apache License" in (smollm2_directory / "LICENSE").read_text()


def test_a_question_is_answered(smollm2_server: Served) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]
    status, answer = smollm2_server.generate(NAME, messages=json.dumps(messages), max_tokens=40)
    assert (status, answer["text_output"]) == (200, "The capital of France is Paris.")
    assert answer["finish_reason"] == "stop"


def test_another_server_of_the_same_engine_has_its_own_options(
    smollm2_serve: Serve, smollm2_engine: BuiltEngine
) -> None:
    served = smollm2_serve("--max-queue-size", "3")
    assert "nothing to build" in served.said
    assert served.store == smollm2_engine.store
    assert served.generate(NAME, text_input="One, two, three, four,", max_tokens=4)[1]["text_output"].startswith(
        " five"
    )


def test_the_engine_is_one_of_the_directory(smollm2_engine: BuiltEngine) -> None:
    manifest = json.loads((smollm2_engine.path / "manifest.json").read_text())
    assert fetch.hash_directory(smollm2_engine.directory) in json.dumps(manifest)
